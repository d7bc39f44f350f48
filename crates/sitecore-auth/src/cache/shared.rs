//! What the handles of one cache share. Locks the state for each change, publishes the current
//! token under the same lock, and informs the waiting callers.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};
use tracing::{field, info, warn};

use super::{
    decision::{Arrival, Input, Need, Outcome, Refresh},
    slot::TokenSlot,
    state::CacheState,
    waiter::{OutcomeSender, Waiter},
};
use crate::{
    clock::{CacheClock, Moment},
    contain::contain,
    error::{Error, Result},
    metrics,
    policy::RefreshPolicy,
    source::TokenSource,
    token::Token,
};

pub(super) struct Shared {
    /// Tells the caches of this process apart.
    pub(super) number: u32,
    pub(super) source: Arc<dyn TokenSource>,
    pub(super) policy: RefreshPolicy,
    pub(super) clock: CacheClock,
    /// For logs and metrics.
    pub(super) name: String,
    pub(super) slot: TokenSlot,
    pub(super) guarded: Mutex<Guarded>,
    /// Notifies `keep_fresh` that the last handle is gone.
    pub(super) gone: Arc<Notify>,
}

/// What the lock guards.
#[derive(Default)]
pub(super) struct Guarded {
    pub(super) state: CacheState,
    pub(super) senders: Vec<OutcomeSender>,
}

impl Shared {
    #[inline]
    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    pub(super) fn input(&self) -> Input<'_> {
        Input { now: self.now(), policy: &self.policy, random: fastrand::f64() }
    }

    pub(super) fn label(&self) -> Option<&str> {
        Some(self.name.as_str()).filter(|name| !name.is_empty())
    }

    /// Ends the refresh or check with this number, because its time limit has passed. Returns what
    /// that means for its waiters.
    pub(super) fn time_out(&self, number: u64) -> Outcome {
        let input = self.input();
        let outcome = self.update(self.lock(), |guarded| guarded.state.time_out(number, input));
        self.inform(number, &outcome);
        outcome
    }

    /// Ends a refresh. Returns what that means for its waiters.
    pub(super) fn finish(&self, refresh: &Refresh, result: Result<Token>) -> Outcome {
        let input = self.input();
        // Dropped after the lock is released, because dropping its cause may run the source's code.
        let failure = result.as_ref().err().cloned();
        let finish = |guarded: &mut Guarded| guarded.state.finish(refresh, result, input);
        let outcome = self.update(self.lock(), finish);
        contain(|| drop(failure));
        self.inform(refresh.number, &outcome);
        outcome
    }

    /// Ends a check for new credentials.
    pub(super) fn finish_check(&self, number: u64, result: Option<bool>) {
        let now = self.now();
        self.update(self.lock(), |guarded| guarded.state.finish_check(number, result, now));
    }

    /// Ends a refresh or check whose task has ended.
    pub(super) fn close(&self, number: u64) {
        let input = self.input();
        self.update(self.lock(), |guarded| {
            let is_awaited = guarded.is_awaited(number);
            guarded.state.lose(number, is_awaited, input);
        });
        self.inform(number, &Outcome::LookAgain);
    }

    /// Sends the outcome of this refresh or check to its waiters. A new token goes to all waiters,
    /// even those of another refresh.
    fn inform(&self, number: u64, outcome: &Outcome) {
        let is_token = matches!(outcome, Outcome::Refreshed(_));
        let mut done = Vec::new();
        let mut guarded = self.lock();
        guarded.senders.retain_mut(|entry| {
            let is_own = entry.number == number;
            if is_own || is_token {
                // Later callers of another refresh get a new channel.
                done.push(mem::take(&mut entry.sender));
            }
            !is_own
        });
        // A program may have thousands of caches, and most of them are idle.
        guarded.senders.shrink_to_fit();
        drop(guarded);
        // Outside the lock, because it wakes the callers.
        for sender in done {
            sender.send_replace(Some(outcome.clone()));
        }
    }

    /// Decides whether a token that arrived is taken.
    pub(super) fn inspect(
        &self,
        refresh: &Refresh,
        token: &Token,
        requested_at: Moment,
    ) -> Arrival {
        let input = self.input();
        self.lock().state.inspect(refresh, token, requested_at, input)
    }

    /// Returns a token that meets the need, if there is one by now.
    pub(super) fn find(&self, need: Need<'_>) -> Option<Token> {
        let now = self.now();
        self.lock().state.tokens.find(need, now)
    }

    /// Returns `true` if a caller waits for the refresh or check with this number.
    pub(super) fn is_awaited(&self, number: u64) -> bool {
        self.lock().is_awaited(number)
    }

    /// Changes the state, publishes the current token for callers that do not lock the state, and
    /// reports what has changed.
    pub(super) fn update<T>(
        &self,
        mut guarded: MutexGuard<'_, Guarded>,
        change: impl FnOnce(&mut Guarded) -> T,
    ) -> T {
        let before = Snapshot::of(&guarded.state);
        let result = change(&mut guarded);
        if let Some(view) = guarded.state.view(&self.policy) {
            self.slot.publish(&view);
        }
        let after = Snapshot::of(&guarded.state);
        let has_failed = after.has_failed_since(&before);
        let error = has_failed.then(|| guarded.state.first_error(&self.policy)).flatten();
        drop(guarded);
        if let Some(error) = &error {
            contain(|| self.log_failure(error));
            let wait = error.retry_after().unwrap_or_default();
            metrics::record_cooldown(&self.name, self.now().after(wait));
        } else if before.has_cooldown && !after.has_cooldown {
            metrics::record_cooldown(&self.name, self.now());
        }
        if let Some(token) = after.settled_since(&before) {
            let cache = self.label();
            contain(
                || info!(cache, token = %token.fingerprint(), "token put to use after settling"),
            );
        }
        contain(|| drop((before, after, error)));
        result
    }

    pub(super) fn log_failure(&self, error: &Error) {
        let (kind, retry_in) = (error.kind(), error.retry_after().map(field::debug));
        // This is not always in the span of the refresh: a waiter may notice the time limit.
        warn!(cache = self.label(), ?kind, cause = %error.cause(), retry_in, "token refresh failed");
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Guarded> {
        // No code under the lock panics. If it did, the state would still be consistent.
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts of the state whose changes are reported. Must be dropped without the lock, because
/// dropping an error may run the source's code.
struct Snapshot {
    has_cooldown: bool,
    /// The last failure and its time.
    failure: Option<(Error, Moment)>,
    current: Option<Token>,
    settling: Option<Token>,
}

impl Snapshot {
    fn of(state: &CacheState) -> Self {
        let tokens = &state.tokens;
        Self {
            has_cooldown: state.has_cooldown(),
            failure: state.last_failure(),
            current: tokens.current().map(|current| current.token.clone()),
            settling: tokens.settling().map(|(token, _)| token.clone()),
        }
    }

    fn has_failed_since(&self, before: &Self) -> bool {
        self.failure.as_ref().is_some_and(|(failure, at)| {
            let is_last =
                |(last, last_at): &(Error, Moment)| last.is_same(failure) && last_at == at;
            !before.failure.as_ref().is_some_and(is_last)
        })
    }

    /// Returns the current token if it was the settling one before.
    fn settled_since<'a>(&self, before: &'a Self) -> Option<&'a Token> {
        let current = self.current.as_ref()?;
        before.settling.as_ref().filter(|settling| settling.is_same(current))
    }
}

impl Guarded {
    pub(super) fn waiter(&self, number: u64, input: Input<'_>) -> Waiter {
        let receiver = self.sender(number).map(watch::Sender::subscribe);
        let receiver = receiver.unwrap_or_else(|| watch::channel(None).1);
        Waiter { number, time_left: self.state.time_left(number, input), receiver }
    }

    fn is_awaited(&self, number: u64) -> bool {
        self.sender(number).is_some_and(|sender| sender.receiver_count() > 0)
    }

    fn sender(&self, number: u64) -> Option<&watch::Sender<Option<Outcome>>> {
        let entry = self.senders.iter().find(|entry| entry.number == number);
        entry.map(|entry| &entry.sender)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.gone.notify_waiters();
        let state = mem::take(&mut self.lock().state);
        contain(|| drop(state));
    }
}
