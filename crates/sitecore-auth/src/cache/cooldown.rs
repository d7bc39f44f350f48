//! The time after a failed refresh during which no new refresh starts.

use std::time::Duration;

use crate::{
    clock::Moment,
    error::{Error, ErrorKind},
    policy::RefreshPolicy,
};

/// How long a check for new credentials may take.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The shortest and the longest time between two checks. A check usually reads a file.
const CHECK_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A cooldown. It ends by itself.
#[derive(Clone, Debug)]
pub(super) struct Cooldown {
    error: Error,
    pub(super) failed_at: Moment,
    /// Consecutive failures of any kind since `in_need` last changed.
    failures: u32,
    /// Whether callers were in need: there was no usable token, or it had been rejected.
    in_need: bool,
    /// Whether a caller waited for the failed refresh. If none did, the first caller in need may
    /// start another one.
    was_awaited: bool,
    jitter: f64,
    /// When the current token becomes unusable. Our own backoff ends then, because callers are in
    /// need.
    token_ends_at: Moment,
    /// When the wait that the server specified ends, by the monotonic clock.
    server_until: Option<Moment>,
    /// Set when new credentials or the program have ended the cooldown.
    is_ended: bool,
    check_from: Moment,
    check_interval: Duration,
    /// The number of the check in flight.
    check: Option<u64>,
}

/// What may start during a cooldown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// A refresh may start.
    Refresh,
    /// The source may be asked whether it has new credentials.
    Check,
    Nothing,
}

/// A refresh that failed.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) in_need: bool,
    pub(super) was_awaited: bool,
    /// When the current token becomes unusable, if it still is usable.
    pub(super) token_ends_at: Option<Moment>,
}

impl Cooldown {
    /// Creates the cooldown after a failed refresh. `previous` is the previous one, if no refresh
    /// has succeeded since.
    pub(super) fn start(
        failure: Failure,
        previous: Option<&Self>,
        now: Moment,
        policy: &RefreshPolicy,
        jitter: f64,
    ) -> Self {
        let Failure { error, in_need, was_awaited, token_ends_at } = failure;
        let same_need = previous.filter(|previous| previous.in_need == in_need);
        let server = error.retry_after().map(|wait| policy.retry_after_delay(wait, jitter));
        let server_until = server.map(|wait| now.after(wait).monotonic_only());
        let check_interval = previous.map_or(CHECK_INTERVAL.0, |previous| previous.check_interval);
        let check = previous.and_then(|previous| previous.check);
        let pause = if check.is_some() { CHECK_TIMEOUT } else { Duration::ZERO };
        Self {
            failed_at: now,
            failures: same_need.map_or(0, |previous| previous.failures).saturating_add(1),
            in_need,
            was_awaited,
            jitter,
            token_ends_at: token_ends_at.unwrap_or(Moment::NEVER),
            server_until,
            is_ended: false,
            check_from: now.after(pause).after(check_interval),
            check_interval,
            check,
            error,
        }
    }

    /// Returns when our own backoff ends. If callers are in need, the shorter backoff applies, even
    /// if the need began after the failure.
    fn own_end(&self, in_need: bool, policy: &RefreshPolicy) -> Moment {
        let failures = if in_need == self.in_need { self.failures } else { 1 };
        let own = policy.cooldown(self.error.kind(), in_need, failures, self.jitter);
        self.failed_at.after(own).or(self.token_ends_at)
    }

    pub(super) fn remaining(&self, in_need: bool, now: Moment, policy: &RefreshPolicy) -> Duration {
        if self.is_ended {
            return Duration::ZERO;
        }
        now.until(self.own_end(in_need, policy)).max(self.server_wait(now))
    }

    fn server_wait(&self, now: Moment) -> Duration {
        self.server_until.map_or(Duration::ZERO, |until| now.until(until))
    }

    /// Returns `true` if a success does not end it: the server specified a wait after the
    /// successful refresh had started. No refresh starts during the wait, so one that started at
    /// the same time started before it.
    pub(super) fn outlasts(&self, started: Moment, now: Moment) -> bool {
        let is_late = self.failed_at.monotonic() >= started.monotonic();
        is_late && !self.is_ended && !self.server_wait(now).is_zero()
    }

    /// Returns when the next refresh or check may start.
    pub(super) fn look_at(&self, in_need: bool, policy: &RefreshPolicy) -> Moment {
        let own = self.own_end(in_need, policy);
        let ends_at = match self.server_until {
            _ if self.is_ended => Moment::PAST,
            Some(server) if server.monotonic() > own.monotonic() => server,
            _ => own,
        };
        self.check_from().map_or(ends_at, |check| ends_at.or(check))
    }

    /// Returns what may start now. `is_awaited` says whether a caller will wait for it.
    pub(super) fn permit(
        &self,
        in_need: bool,
        is_awaited: bool,
        now: Moment,
        policy: &RefreshPolicy,
    ) -> Permit {
        let is_first_in_need =
            in_need && is_awaited && !self.was_awaited && self.server_wait(now).is_zero();
        if is_first_in_need || self.remaining(in_need, now, policy).is_zero() {
            Permit::Refresh
        } else if self.check_from().is_some_and(|from| now.has_reached(from)) {
            Permit::Check
        } else {
            Permit::Nothing
        }
    }

    /// Returns when the next check may start; `None` if new credentials cannot end this cooldown.
    fn check_from(&self) -> Option<Moment> {
        let kind = self.error.kind();
        let by_credentials = matches!(kind, ErrorKind::Refused | ErrorKind::RateLimited);
        by_credentials.then_some(self.check_from)
    }

    /// Records that a check was started. No other check starts before this one has ended or timed
    /// out.
    pub(super) fn start_check(&mut self, number: u64, now: Moment) {
        if self.check.replace(number).is_some() {
            // The previous check never ended.
            self.back_off_checks();
        }
        self.check_from = now.after(CHECK_TIMEOUT).after(self.check_interval);
    }

    /// Records that the task of a check runs. Its time counts from here, because it can start late.
    /// Returns `false` if the check was given up.
    pub(super) fn begin_check(&mut self, number: u64, now: Moment) -> bool {
        let is_in_flight = self.check == Some(number);
        if is_in_flight {
            self.check_from = now.after(CHECK_TIMEOUT).after(self.check_interval);
        }
        is_in_flight
    }

    /// Records the result of a check: whether there are new credentials, or `None` if it failed.
    /// Returns `false` if this is not the check in flight.
    pub(super) fn finish_check(&mut self, number: u64, result: Option<bool>, now: Moment) -> bool {
        let is_in_flight = self.check.take_if(|check| *check == number).is_some();
        if is_in_flight {
            self.is_ended |= result == Some(true);
            if result != Some(false) {
                // New credentials may be refused too, and a check that failed may fail again.
                self.back_off_checks();
            }
            self.check_from = now.after(self.check_interval);
        }
        is_in_flight
    }

    fn back_off_checks(&mut self) {
        self.check_interval = (self.check_interval * 2).min(CHECK_INTERVAL.1);
    }

    /// Ends the cooldown, whatever caused it.
    pub(super) fn end(&mut self) {
        self.is_ended = true;
    }

    /// Returns `true` if new credentials or the program have ended it.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Returns the failure that caused the cooldown, with the time until it ends.
    pub(super) fn error(&self, in_need: bool, now: Moment, policy: &RefreshPolicy) -> Error {
        self.error.clone().with_retry_after(self.remaining(in_need, now, policy))
    }

    /// Returns the failure that caused the cooldown.
    pub(super) fn cause(&self) -> Error {
        self.error.clone()
    }
}
