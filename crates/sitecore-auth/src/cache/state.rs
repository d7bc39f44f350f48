//! The only mutable state: which refresh is in flight, and when the next one may start.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    cooldown::{Cooldown, Permit},
    waiter::{InFlight, Waiter},
};
use crate::{
    clock::Moment,
    error::{Error, ErrorKind, Result},
    policy::Backoff,
    source::FetchContext,
    token::Token,
};

#[derive(Default)]
pub(super) struct State(Mutex<CacheState>);

#[derive(Default)]
pub(super) struct CacheState {
    /// Numbers the refreshes, so that a late result can be recognized.
    pub(super) generation: u64,
    pub(super) in_flight: Option<InFlight>,
    pub(super) cooldown: Option<Cooldown>,
    /// How many consecutive failures caused a cooldown with the same backoff.
    pub(super) failures: Option<(Backoff, u32)>,
    /// A stale token is not refreshed earlier, because the issuer had nothing newer.
    pub(super) refresh_not_before: Option<Moment>,
    /// Who had rejected the token that the last refresh returned again.
    pub(super) returned_again: Option<RejectedBy>,
    /// The token that was rejected last.
    pub(super) last_rejected: Option<Token>,
    /// Counted per API since the last refresh because of age, so that an API that rejects every
    /// token does not prevent replacements for the others.
    pub(super) rejections: HashMap<RejectedBy, RejectionBackoff>,
    /// Token requests since the cache was created.
    pub(super) token_requests: u64,
}

/// Why a refresh is started.
pub(super) enum Reason {
    Empty,
    Stale,
    Expired,
    /// The current token is usable, but was rejected.
    Rejected(RejectedBy),
}

/// Who rejected a token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum RejectedBy {
    Api(Arc<str>),
    /// The program, by calling `replace`.
    Caller,
}

/// Consecutive token requests that were made because of the same API's rejections.
pub(super) struct RejectionBackoff {
    pub(super) count: u32,
    /// If the API rejects the current token too, it is not replaced earlier.
    pub(super) retry_at: Moment,
}

/// What a caller that needs a token gets.
pub(super) enum Join {
    Ready(Token),
    Wait(Waiter),
}

/// A refresh that the caller has to run.
pub(super) struct Refresh {
    pub(super) generation: u64,
    pub(super) reason: Reason,
    pub(super) permit: Permit,
    pub(super) result: watch::Sender<Option<Result<()>>>,
    pub(super) replacing: Option<Token>,
}

impl Reason {
    /// Returns the reason as a label or field.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Rejected(RejectedBy::Api(_)) => "rejected",
            Self::Rejected(RejectedBy::Caller) => "requested",
        }
    }
}

impl State {
    /// Drops a refresh that was lost.
    pub(super) fn abandon(&self, generation: u64) {
        self.lock().in_flight.take_if(|in_flight| in_flight.generation() == generation);
    }

    /// Counts a token request that is about to be sent, and returns the context for the source.
    /// Returns `None` if the refresh has been abandoned. Another refresh has taken its place then,
    /// and this one must not send a request.
    pub(super) fn begin_request<'a>(
        &self,
        refresh: &'a Refresh,
        time_left: Duration,
    ) -> Option<FetchContext<'a>> {
        let mut state = self.lock();
        let in_flight = state.in_flight.as_ref();
        in_flight.filter(|in_flight| in_flight.generation() == refresh.generation)?;
        state.token_requests += 1;
        let context = FetchContext::new(time_left);
        Some(match &refresh.replacing {
            Some(token) => context.with_replacing(token, state.was_rejected(token)),
            None => context,
        })
    }

    /// Locks the state unless another thread has locked it.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, CacheState>> {
        match self.0.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, CacheState> {
        // No code under the lock can panic. Even if it did, the state would be consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheState {
    /// Returns a waiter for the refresh in flight, if there is one.
    pub(super) fn waiter_at(&mut self, now: Moment) -> Option<Waiter> {
        self.is_refreshing(now);
        self.in_flight.as_ref().map(|in_flight| in_flight.waiter_at(now))
    }

    /// Returns `true` if a refresh is in flight. Drops one that is lost.
    pub(super) fn is_refreshing(&mut self, now: Moment) -> bool {
        self.in_flight.take_if(|in_flight| in_flight.is_lost(now));
        self.in_flight.is_some()
    }

    pub(super) fn permit(&self, now: Moment) -> Result<Permit> {
        self.cooldown.as_ref().map_or(Ok(Permit::Any), |cooldown| cooldown.permit(now))
    }

    /// Returns `true` if this is the token that was rejected last.
    pub(super) fn was_rejected(&self, token: &Token) -> bool {
        self.last_rejected.as_ref().is_some_and(|rejected| rejected.is_same(token))
    }

    pub(super) fn check_rejections(&self, by: &RejectedBy, now: Moment) -> Result<()> {
        match self.rejections.get(by) {
            Some(backoff) if !now.has_reached(backoff.retry_at) => Err(self.rejected_error(
                "the API rejected the last replacement too; waiting before the next one",
                by,
                now,
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn returned_again_error(&self, by: &RejectedBy, now: Moment) -> Error {
        self.rejected_error("the issuer returned the rejected token again", by, now)
    }

    fn rejected_error(&self, message: &'static str, by: &RejectedBy, now: Moment) -> Error {
        let backoff = self.rejections.get(by);
        let wait = backoff.map_or(Duration::ZERO, |backoff| now.until(backoff.retry_at));
        Error::new(ErrorKind::Unavailable, message).with_retry_after(wait)
    }
}
