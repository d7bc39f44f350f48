//! What the state shows to callers, waiters and health checks. Nothing in here changes it.

use std::time::Duration;

use super::{
    cooldown::CHECK_TIMEOUT,
    decision::{Input, View},
    state::CacheState,
};
use crate::{clock::Moment, error::Error, policy::RefreshPolicy, token::Token};

impl CacheState {
    /// Returns what callers see without locking the state.
    pub(super) fn view(&self, policy: &RefreshPolicy) -> Option<View> {
        let current = self.tokens.current()?;
        let is_rejected = !current.rejected_by.is_empty();
        let due = current.token.stale_at().and(self.refresh_not_before.unwrap_or(Moment::PAST));
        let look_at = if let Some((_, settled_at)) = self.tokens.settling() {
            settled_at
        } else if let Some(refresh) = &self.in_flight {
            refresh.started.after(policy.refresh_timeout).monotonic_only()
        } else if let Some(cooldown) = &self.cooldown {
            due.and(cooldown.look_at(is_rejected, policy))
        } else {
            due
        };
        let (token, look_at) = (current.token.clone(), look_at.or(current.token.unusable_at()));
        Some(View { token, is_rejected, look_at })
    }

    /// Returns how long a caller waits for the refresh or check with this number.
    pub(super) fn time_left(&self, number: u64, input: Input<'_>) -> Duration {
        let refresh = self.in_flight.as_ref().filter(|refresh| refresh.number == number);
        refresh.map_or(CHECK_TIMEOUT, |refresh| refresh.time_left(input))
    }

    pub(super) fn is_refreshing(&self, input: Input<'_>) -> bool {
        self.in_flight.as_ref().is_some_and(|refresh| !refresh.is_overdue(input))
    }

    /// Returns the time until the next refresh, if there are callers; `None` for a key without
    /// expiry.
    pub(super) fn next_attempt_in(&self, input: Input<'_>) -> Option<Duration> {
        let Input { now, policy, .. } = input;
        let due = self.tokens.newest().map_or(now, Token::stale_at);
        let cooldown = self.cooldown.as_ref();
        let cooldown =
            cooldown.map(|cooldown| cooldown.remaining(self.is_in_need(now), now, policy));
        let deferred = self.refresh_not_before.map(|until| now.until(until));
        let wait =
            now.until(due).max(cooldown.unwrap_or_default()).max(deferred.unwrap_or_default());
        (due != Moment::NEVER).then_some(wait)
    }

    /// Returns `true` if there is a cooldown that nothing has ended early.
    pub(super) fn has_cooldown(&self) -> bool {
        self.cooldown.as_ref().is_some_and(|cooldown| !cooldown.is_ended())
    }

    /// Returns why the last refresh failed, if it did.
    pub(super) fn last_error(&self, input: Input<'_>) -> Option<Error> {
        self.cooldown_error(input).or_else(|| self.rejections.returned_again(input.now))
    }

    pub(super) fn cooldown_error(&self, input: Input<'_>) -> Option<Error> {
        let Input { now, policy, .. } = input;
        let in_need = self.is_in_need(now);
        self.cooldown.as_ref().map(|cooldown| cooldown.error(in_need, now, policy))
    }

    /// Returns the error as it was when the cooldown began, for the log.
    pub(super) fn first_error(&self, policy: &RefreshPolicy) -> Option<Error> {
        let now = self.cooldown.as_ref()?.failed_at;
        self.cooldown_error(Input { now, policy, random: 0.0 })
    }

    /// Returns the last failure and its time. Dropping it may run the source's code.
    pub(super) fn last_failure(&self) -> Option<(Error, Moment)> {
        self.cooldown.as_ref().map(|cooldown| (cooldown.cause(), cooldown.failed_at))
    }
}
