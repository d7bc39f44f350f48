//! Every decision of the cache: state, need and time go in, and what to do comes out.
//!
//! Nothing in here knows a runtime, a lock, a clock or a log.

use std::{mem, time::Duration};

use super::{
    cooldown::{Cooldown, Failure, Permit},
    decision::{
        Arrival, Input, Job, Need, Outcome, Reason, Refresh, RejectedBy, Reply, Request, expired,
        lost, timed_out, too_short,
    },
    rejections::RejectionLimits,
    tokens::{TokenRecord, Tokens},
};
use crate::{
    clock::Moment,
    error::{Error, ErrorKind, Result},
    freshness::Freshness,
    policy::RefreshPolicy,
    token::Token,
};

/// If the issuer returns a rejected token within this time of its latest arrival, the token request
/// is repeated. Two tokens that are granted within the same second can be identical.
const IDENTICAL_UNTIL: Duration = Duration::from_secs(2);

/// The state of a cache.
#[derive(Clone, Debug, Default)]
pub(super) struct CacheState {
    pub(super) tokens: Tokens,
    pub(super) in_flight: Option<Refresh>,
    /// Why the last refresh failed, and when the next one may start.
    pub(super) cooldown: Option<Cooldown>,
    pub(super) rejections: RejectionLimits,
    /// The process stood still during the last refresh. If that happens again, it is a failure.
    stood_still: bool,
    /// The last refresh ended with its runtime, and no caller waited. If that happens again, it is
    /// a failure.
    was_lost: bool,
    /// A stale token is not refreshed earlier, because the issuer had nothing newer, or returned a
    /// token that was already stale.
    pub(super) refresh_not_before: Option<Moment>,
    /// The number of the last refresh or check, so that a late result can be recognized.
    number: u64,
    /// Token requests since the cache was created.
    pub(super) token_requests: u64,
}

impl CacheState {
    /// Decides what a caller gets, and what it has to start.
    pub(super) fn next(&mut self, need: Need<'_>, input: Input<'_>) -> (Reply, Option<Job>) {
        self.expire_refresh(input);
        if let Need::Other { rejected, by } = need {
            self.tokens.record_rejection(rejected, by);
        }
        self.tokens.put_to_use(&self.rejections, input.now);
        let reply = match self.tokens.find(need, input.now) {
            Some(token) => Reply::Ready(token),
            None if need.can_wait() => {
                let waiting = self.obtain(need, input);
                return waiting.unwrap_or_else(|error| (Reply::Fail(error), None));
            }
            None => Reply::Nothing,
        };
        (reply, self.start_due(need, input))
    }

    /// Returns a refresh or check that is due, for no waiting caller.
    fn start_due(&mut self, need: Need<'_>, input: Input<'_>) -> Option<Job> {
        let now = input.now;
        let is_deferred = self.refresh_not_before.is_some_and(|until| !now.has_reached(until));
        let is_done = self.in_flight.is_some() || self.tokens.settling().is_some();
        if matches!(need, Need::Look | Need::TokenOf(_)) || is_done || is_deferred {
            return None;
        }
        let reason = self.reason(now)?;
        match self.permit(false, input) {
            Permit::Refresh => {
                let replacing = self.current();
                Some(Job::Refresh(self.start(reason, replacing, None, false, now)))
            }
            Permit::Check => Some(Job::Check(self.start_check(now))),
            Permit::Nothing => None,
        }
    }

    /// Decides what a caller waits for if no token meets its need.
    fn obtain(&mut self, need: Need<'_>, input: Input<'_>) -> Result<(Reply, Option<Job>)> {
        let now = input.now;
        if let Some(refresh) = &mut self.in_flight {
            refresh.was_awaited = true;
            return Ok((Reply::Wait(refresh.number), None));
        }
        match self.permit(true, input) {
            Permit::Refresh => {}
            Permit::Check => {
                let number = self.start_check(now);
                return Ok((Reply::Wait(number), Some(Job::Check(number))));
            }
            Permit::Nothing => return Err(self.cooldown_error(input).unwrap_or_else(lost)),
        }
        let current = self.tokens.usable(now).map(|current| current.token.clone());
        let reason_by_age = self.reason(now).unwrap_or(Reason::Requested);
        let (reason, replacing, by) = match (need, current) {
            (Need::Other { by, .. }, Some(_)) => {
                self.rejections.check(by, now)?;
                let is_call = *by == RejectedBy::Caller;
                let reason = if is_call { Reason::Requested } else { Reason::Rejected };
                // The API has rejected the newest token too.
                (reason, self.tokens.newest().cloned(), Some(by.clone()))
            }
            (Need::TokenFor(time), Some(current)) => {
                self.check_requested(time, &current, input)?;
                (reason_by_age, Some(current), None)
            }
            (Need::Other { rejected, by }, None) => {
                (reason_by_age, Some(rejected.clone()), Some(by.clone()))
            }
            _ => (reason_by_age, self.current(), None),
        };
        let refresh = self.start(reason, replacing, by, true, now);
        Ok((Reply::Wait(refresh.number), Some(Job::Refresh(refresh))))
    }

    fn start(
        &mut self,
        reason: Reason,
        replacing: Option<Token>,
        rejected_by: Option<RejectedBy>,
        was_awaited: bool,
        started: Moment,
    ) -> Refresh {
        self.number += 1;
        let number = self.number;
        let refresh = Refresh { number, started, reason, replacing, rejected_by, was_awaited };
        self.in_flight = Some(refresh.clone());
        refresh
    }

    fn start_check(&mut self, now: Moment) -> u64 {
        self.number += 1;
        if let Some(cooldown) = &mut self.cooldown {
            cooldown.start_check(self.number, now);
        }
        self.number
    }

    /// Records that the task of a check begins. Returns `false` if the check was given up.
    pub(super) fn begin_check(&mut self, number: u64, now: Moment) -> bool {
        self.cooldown.as_mut().is_some_and(|cooldown| cooldown.begin_check(number, now))
    }

    /// Records whether the source has new credentials; `None` if the check failed. Returns `false`
    /// if this is not the check in flight.
    pub(super) fn finish_check(&mut self, number: u64, result: Option<bool>, now: Moment) -> bool {
        let cooldown = self.cooldown.as_mut();
        cooldown.is_some_and(|cooldown| cooldown.finish_check(number, result, now))
    }

    /// Ends a cooldown, so that the next caller can start a refresh.
    pub(super) fn end_cooldown(&mut self) {
        if let Some(cooldown) = &mut self.cooldown {
            cooldown.end();
        }
    }

    /// Counts a token request that is about to be sent, or returns `None` if the refresh has been
    /// given up and must not send it.
    pub(super) fn begin_request(&mut self, refresh: &Refresh, now: Moment) -> Option<Request> {
        self.in_flight.as_ref().filter(|current| current.number == refresh.number)?;
        self.token_requests += 1;
        let replacing = refresh.replacing.as_ref();
        Some(Request {
            replaces_rejected: refresh.rejected_by.is_some()
                || replacing.is_some_and(|token| self.tokens.is_rejected(token)),
            uses_budget: self.rejections.uses_budget(refresh, now),
        })
    }

    /// Decides whether a token that has arrived is used or requested again. The refresh has not
    /// ended yet.
    pub(super) fn inspect(
        &self,
        refresh: &Refresh,
        token: &Token,
        requested_at: Moment,
        input: Input<'_>,
    ) -> Arrival {
        let now = input.now;
        let rejected = refresh.replacing.as_ref().filter(|_| refresh.is_due_to_rejection());
        let rejected = rejected.filter(|rejected| rejected.is_same(token) && !token.is_adopted());
        let received_at = rejected.and_then(|rejected| self.tokens.received_at(rejected));
        if received_at.is_some_and(|at| requested_at.age_since(at) < IDENTICAL_UNTIL) {
            return Arrival::Identical;
        }
        let reused = self.reused(token.clone(), input);
        let is_expired = reused.freshness(now) == Freshness::Expired;
        let is_of_use = !is_expired || self.tokens.usable(now).is_some();
        if is_of_use { Arrival::Taken } else { Arrival::Expired(expired()) }
    }

    /// Returns the token. If it is the current one again and has expired here, it becomes usable
    /// for a short time.
    fn reused(&self, token: Token, input: Input<'_>) -> Token {
        let Input { now, policy, random } = input;
        let is_again = self.current().is_some_and(|current| current.is_same(&token));
        if is_again && self.tokens.usable(now).is_none() {
            token.reused(policy, now, random)
        } else {
            token
        }
    }

    /// Drops a refresh whose task is gone. If callers wait for it, one of them starts another.
    /// Otherwise it may have been started on a runtime that ends after each call. So that not every
    /// call makes a token request, a second loss in a row is a failure.
    pub(super) fn lose(&mut self, number: u64, is_awaited: bool, input: Input<'_>) {
        let lost = self.in_flight.take_if(|refresh| refresh.number == number);
        let Some(mut refresh) = lost.filter(|_| !is_awaited) else { return };
        if mem::replace(&mut self.was_lost, true) {
            if let Some(by) = refresh.rejected_by.as_ref().filter(|_| refresh.is_due_to_rejection())
            {
                self.rejections.count(&refresh, by, None, false, input);
            }
            // The first caller in need starts another refresh all the same.
            refresh.was_awaited = false;
            let message =
                "the runtime ended during the token refresh; use one runtime for all calls";
            self.start_cooldown(&refresh, Error::new(ErrorKind::Unavailable, message), input);
        }
    }

    /// Ends the refresh or check with this number because its time limit has passed.
    pub(super) fn time_out(&mut self, number: u64, input: Input<'_>) -> Outcome {
        if self.finish_check(number, None, input.now) {
            return Outcome::LookAgain;
        }
        match self.in_flight.take_if(|refresh| refresh.number == number) {
            Some(refresh) => self.fail(&refresh, timed_out(input.policy), input),
            // Another refresh is in flight by now.
            None if self.in_flight.is_some() => Outcome::LookAgain,
            None => self.cooldown_error(input).map_or(Outcome::LookAgain, Outcome::Failed),
        }
    }

    /// Ends a refresh. A failure that arrives after the refresh was given up is ignored, but a
    /// token is never too late.
    pub(super) fn finish(
        &mut self,
        refresh: &Refresh,
        result: Result<Token>,
        input: Input<'_>,
    ) -> Outcome {
        if result.as_ref().map_or_else(Error::is_adopted, Token::is_adopted) {
            // Another process made the token request.
            self.token_requests = self.token_requests.saturating_sub(1);
        }
        let in_flight = self.in_flight.take_if(|current| current.number == refresh.number);
        self.tokens.put_to_use(&self.rejections, input.now);
        let started = in_flight.as_ref().unwrap_or(refresh);
        let is_late = in_flight.is_none();
        match (result.and_then(|token| self.accept(started, token, is_late, input)), in_flight) {
            (Ok(outcome), _) => outcome,
            (Err(error), Some(_)) if error.is_budget_spent() => {
                // This concerns only the API that rejected the token. Others may replace theirs.
                self.rejections.exhaust_budget(error.retry_after().unwrap_or_default(), input.now);
                Outcome::LookAgain
            }
            (Err(error), Some(refresh)) => self.fail(&refresh, error, input),
            (Err(_), None) => Outcome::LookAgain,
        }
    }

    /// Takes a new token, unless the current one stays.
    fn accept(
        &mut self,
        refresh: &Refresh,
        token: Token,
        is_late: bool,
        input: Input<'_>,
    ) -> Result<Outcome> {
        let Input { now, policy, .. } = input;
        let usable = self.tokens.usable(now).cloned();
        let token = self.reused(token, input);
        if usable.is_none() && token.freshness(now) == Freshness::Expired {
            return Err(expired());
        }
        self.stood_still = false;
        self.was_lost = false;
        self.cooldown.take_if(|cooldown| !cooldown.outlasts(refresh.started, now));
        if let Some(error) = self.count_replacement(refresh, &token, input) {
            if usable.is_none() {
                // Other callers have nothing better.
                self.tokens.replace(self.tokens.record_of(token.clone(), now));
                if let Some(by) = &refresh.rejected_by {
                    self.tokens.record_rejection(&token, by);
                }
            }
            return Ok(Outcome::RejectedAgain(error));
        }
        if let Some(current) = usable.filter(|current| !self.is_newer(&token, current, now)) {
            let retry_in = if is_late {
                // This says nothing about what the issuer has now.
                Duration::ZERO
            } else {
                self.defer_refresh(&current.token, now)
            };
            return Ok(Outcome::Unchanged(retry_in));
        }
        if !refresh.is_due_to_rejection() {
            self.rejections.start_over();
        }
        self.refresh_not_before = None;
        if token.freshness(now) == Freshness::Stale {
            // It is stale on arrival. Without the deferral, every call would start another refresh.
            self.defer_refresh(&token, now);
        }
        self.tokens.add(token.clone(), &self.rejections, now, policy);
        Ok(Outcome::Refreshed(token))
    }

    /// Counts a token that replaces a rejected one. Returns an error if that token is a rejected
    /// one too.
    fn count_replacement(
        &mut self,
        refresh: &Refresh,
        token: &Token,
        input: Input<'_>,
    ) -> Option<Error> {
        let by = refresh.rejected_by.as_ref()?;
        let again = refresh.replacing.as_ref().is_some_and(|replaced| replaced.is_same(token))
            || self.tokens.is_rejected(token);
        if again || refresh.is_due_to_rejection() {
            self.rejections.count(refresh, by, Some(token), again, input);
        }
        again.then(|| self.rejections.check(by, input.now).err().unwrap_or_else(lost))
    }

    /// Returns `true` if a new token is to replace the current one, which is usable.
    ///
    /// It must not have been rejected. It must not expire earlier than any token of the cache that
    /// has not been rejected.
    fn is_newer(&self, token: &Token, current: &TokenRecord, now: Moment) -> bool {
        let is_settling = |(settling, _): (&Token, _)| settling.is_same(token);
        let is_again =
            current.token.is_same(token) || self.tokens.settling().is_some_and(is_settling);
        let is_expired = token.freshness(now) == Freshness::Expired;
        let is_worse = is_expired || self.tokens.outlast(token, now);
        !is_again && !is_worse && !self.tokens.is_rejected(token)
    }

    /// Records that an API accepted a token. Returns `true` if the budget got a token request back.
    pub(super) fn record_acceptance(
        &mut self,
        token: &Token,
        api: &RejectedBy,
        now: Moment,
    ) -> bool {
        let is_given_back = self.rejections.accept(api, token);
        self.tokens.record_acceptance(token, api);
        self.tokens.put_to_use(&self.rejections, now);
        is_given_back
    }

    /// Gives up a refresh whose time limit has passed without a waiter noticing: its runtime does
    /// not run, or the process stood still.
    fn expire_refresh(&mut self, input: Input<'_>) {
        let in_flight = self.in_flight.take_if(|refresh| refresh.is_overdue(input));
        if let Some(mut refresh) = in_flight {
            // If the limit passed more than a second ago, no caller waits any more: it would have
            // noticed. No caller gets this failure, so the first caller in need may start another
            // refresh.
            refresh.was_awaited &= !refresh.stood_still(input);
            self.fail(&refresh, timed_out(input.policy), input);
        }
    }

    fn fail(&mut self, refresh: &Refresh, error: Error, input: Input<'_>) -> Outcome {
        let stood_still = refresh.stood_still(input) && error.retry_after().is_none();
        let stood_still_before = mem::replace(&mut self.stood_still, stood_still);
        if stood_still && !stood_still_before {
            return Outcome::StoodStill;
        }
        Outcome::Failed(self.start_cooldown(refresh, error, input))
    }

    /// Starts a cooldown. The returned error says how long it lasts.
    fn start_cooldown(&mut self, refresh: &Refresh, error: Error, input: Input<'_>) -> Error {
        let Input { now, policy, random } = input;
        let in_need = self.is_in_need(now);
        let token_ends_at = self.tokens.usable(now).map(|current| current.token.unusable_at());
        let was_awaited = refresh.was_awaited;
        let failure = Failure { error, in_need, was_awaited, token_ends_at };
        let cooldown = Cooldown::start(failure, self.cooldown.as_ref(), now, policy, random);
        let error = cooldown.error(in_need, now, policy);
        self.cooldown = Some(cooldown);
        error
    }

    /// Defers the next refresh, as the policy says. Returns for how long.
    fn defer_refresh(&mut self, token: &Token, now: Moment) -> Duration {
        let wait = RefreshPolicy::deferral(now.until(token.unusable_at()));
        self.refresh_not_before = Some(now.after(wait));
        wait
    }

    /// Returns an error if a refresh would not bring a token that can be used for this long.
    fn check_requested(&self, time: Duration, current: &Token, input: Input<'_>) -> Result<()> {
        let usable = current
            .lifetime()
            .map(|lifetime| lifetime.saturating_sub(input.policy.margin_for(lifetime)));
        if let Some(usable) = usable.filter(|usable| *usable < time) {
            let message = format!(
                "the issuer's tokens can be used for at most {usable:?}, but {time:?} was requested; request a shorter time"
            );
            return Err(Error::new(ErrorKind::Config, message));
        }
        match self.refresh_not_before.map(|until| input.now.until(until)) {
            Some(wait) if !wait.is_zero() => Err(too_short().with_retry_after(wait)),
            _ => Ok(()),
        }
    }

    /// Returns why a refresh because of age is due, if it is.
    fn reason(&self, now: Moment) -> Option<Reason> {
        match self.tokens.current().map(|current| current.token.freshness(now)) {
            None => Some(Reason::Empty),
            Some(Freshness::Stale) => Some(Reason::Stale),
            Some(Freshness::Expired) => Some(Reason::Expired),
            Some(Freshness::Fresh) => None,
        }
    }

    fn permit(&self, is_awaited: bool, input: Input<'_>) -> Permit {
        let Input { now, policy, .. } = input;
        let in_need = self.is_in_need(now);
        let permit = |cooldown: &Cooldown| cooldown.permit(in_need, is_awaited, now, policy);
        self.cooldown.as_ref().map_or(Permit::Refresh, permit)
    }

    /// Returns `true` if there is no usable token, or if it was rejected.
    pub(super) fn is_in_need(&self, now: Moment) -> bool {
        self.tokens.usable(now).is_none_or(|current| !current.rejected_by.is_empty())
    }

    fn current(&self) -> Option<Token> {
        self.tokens.current().map(|current| current.token.clone())
    }
}
