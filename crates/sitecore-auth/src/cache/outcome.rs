//! What the result of a refresh changes: the current token, the cooldown and the time of the next
//! attempt.

use std::time::Duration;

use super::{
    cooldown::Cooldown,
    shared::Shared,
    state::{CacheState, Reason, Refresh, RejectedBy, RejectionBackoff},
    waiter::lost,
};
use crate::{
    clock::Moment,
    error::{Error, ErrorKind, Result},
    freshness::Freshness,
    policy::MIN_REFRESH_INTERVAL,
    token::Token,
};

/// How a refresh ended.
pub(super) enum RefreshOutcome {
    Refreshed(Token),
    /// The current token is as good as the new one. The next refresh starts after this time.
    Unchanged(Duration),
    /// The issuer returned the token that an API rejected.
    RejectedAgain(Error),
    /// A cooldown has started.
    Failed(Error),
    /// No token was requested, because there are no new credentials. The cooldown continues.
    CredentialsUnchanged(Error),
}

impl Shared {
    /// Applies the result of a refresh. `Ok(None)` means that no token was requested. Returns
    /// `None` if the refresh had been abandoned, because other refreshes have taken its place.
    pub(super) fn finish(
        &self,
        refresh: &Refresh,
        result: Result<Option<Token>>,
    ) -> Option<RefreshOutcome> {
        let now = self.now();
        // The last failure is dropped after the lock is released, because its cause is code of the
        // source's.
        let _last_failure;
        let mut state = self.state.lock();
        _last_failure = state.cooldown.as_ref().map(Cooldown::cause);
        state.in_flight.take_if(|in_flight| in_flight.generation() == refresh.generation)?;
        state.returned_again = None;
        let outcome = match result {
            Ok(Some(token)) => self.accept(&mut state, refresh, token, now),
            Ok(None) => Ok(state.credentials_unchanged(now)),
            Err(error) => Err(error),
        };
        Some(outcome.unwrap_or_else(|error| self.start_cooldown(&mut state, error, now)))
    }

    /// Replaces the current token with a new one, unless the current one is as good.
    ///
    /// After a rejection, any other token will do. A token that was requested because of age must
    /// not be the current one, nor the one that was rejected last. It must not expire earlier
    /// either, unless the current one has itself been rejected. If no token is usable, any token
    /// will do.
    fn accept(
        &self,
        state: &mut CacheState,
        refresh: &Refresh,
        token: Token,
        now: Moment,
    ) -> Result<RefreshOutcome> {
        let current = self.slot.load();
        // The same token does not get a new lifetime, whatever the response says.
        let token = match &current {
            Some(current) if current.is_same(&token) => token.not_outliving(current),
            _ => token,
        };
        if token.freshness(now) == Freshness::Expired {
            return Err(Error::new(
                ErrorKind::Malformed,
                "the token had already expired when it arrived",
            ));
        }
        state.cooldown = None;
        state.failures = None;
        let is_rejected_one = state.was_rejected(&token);
        if let Reason::Rejected(by) = &refresh.reason {
            // A token with an age was adopted from elsewhere and did not cost a token request.
            if is_rejected_one || token.age().is_zero() {
                self.record_rejection(state, by, &token, now);
            }
            if is_rejected_one {
                state.returned_again = Some(by.clone());
                return Ok(RefreshOutcome::RejectedAgain(state.returned_again_error(by, now)));
            }
        } else {
            let current = current.filter(|current| current.freshness(now) != Freshness::Expired);
            if let Some(current) = current
                && (current.is_same(&token)
                    || is_rejected_one
                    || (token.expires_before(&current, now) && !state.was_rejected(&current)))
            {
                return Ok(RefreshOutcome::Unchanged(defer_refresh(state, &current, now)));
            }
            state.rejections.clear();
        }
        state.refresh_not_before = None;
        if token.freshness(now) == Freshness::Stale {
            // Stale on arrival. Otherwise every call would start another refresh.
            defer_refresh(state, &token, now);
        }
        self.slot.store(&token);
        Ok(RefreshOutcome::Refreshed(token))
    }

    /// Counts a token that was requested because of a rejection. If it is rejected too, the next
    /// replacement has to wait longer.
    fn record_rejection(
        &self,
        state: &mut CacheState,
        by: &RejectedBy,
        token: &Token,
        now: Moment,
    ) {
        let count = state.rejections.get(by).map_or(0, |before| before.count) + 1;
        let retry_at = now.after(self.policy.rejection_delay(token.lifetime(), count));
        state.rejections.insert(by.clone(), RejectionBackoff { count, retry_at });
    }

    /// Starts a cooldown after a failed refresh. The returned error says how long it lasts.
    fn start_cooldown(&self, state: &mut CacheState, error: Error, now: Moment) -> RefreshOutcome {
        let usable = self.usable(now).map(|(token, _)| token);
        let policy = &self.policy;
        let backoff = match (error.kind(), &usable) {
            (ErrorKind::Refused, _) => policy.cooldown_refused,
            (_, Some(_)) => policy.cooldown_with_token,
            (_, None) => policy.cooldown_without_token,
        };
        let failures = match state.failures {
            Some((before, failures)) if before == backoff => failures.saturating_add(1),
            _ => 1,
        };
        state.failures = Some((backoff, failures));
        let own = policy.backoff_delay(backoff, failures, fastrand::f64());
        // Our own backoff ends when the current token expires, because callers are in need then.
        let own = usable.map_or(own, |token| own.min(now.until(token.unusable_at())));
        let server = error.retry_after();
        let server = server.map(|wait| policy.retry_after_delay(wait, fastrand::f64()));
        let cooldown = Cooldown::start(error, now, own, server.unwrap_or_default());
        let error = cooldown.error(now);
        state.cooldown = Some(cooldown);
        RefreshOutcome::Failed(error)
    }
}

impl CacheState {
    fn credentials_unchanged(&mut self, now: Moment) -> RefreshOutcome {
        let cooldown = self.cooldown.as_mut();
        RefreshOutcome::CredentialsUnchanged(
            cooldown.map_or_else(lost, |cooldown| cooldown.credentials_unchanged(now)),
        )
    }
}

/// Defers the next refresh by half of the token's remaining usable time. Returns that time.
fn defer_refresh(state: &mut CacheState, token: &Token, now: Moment) -> Duration {
    let usable = now.until(token.unusable_at());
    let wait = (usable / 2).max(MIN_REFRESH_INTERVAL).min(usable);
    state.refresh_not_before = Some(now.after(wait));
    wait
}
