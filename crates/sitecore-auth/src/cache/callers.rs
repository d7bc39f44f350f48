//! What callers get from the shared state, and the jobs that they start.

use std::sync::{Arc, MutexGuard, TryLockError};

use tokio::runtime::Handle;

use super::{
    decision::{Input, Need, Reply},
    refresh,
    runtime::runtime_with_timers,
    shared::{Guarded, Shared},
    waiter::{OutcomeSender, Waiter},
};
use crate::{clock::Moment, freshness::Freshness, token::Token};

impl Shared {
    /// Returns the current token if it is usable. Starts a refresh if that token is stale. Never
    /// waits.
    #[inline]
    pub(super) fn usable(self: &Arc<Self>) -> Option<Token> {
        let now = self.now();
        self.slot.load(now).or_else(|| self.look(now))
    }

    #[cold]
    fn look(self: &Arc<Self>, now: Moment) -> Option<Token> {
        let token =
            self.slot.latest().filter(|token| token.freshness(now) != Freshness::Expired)?;
        let input = self.input();
        // Does not wait for the lock: its holder makes the same decision, or the next caller will.
        let guarded = match self.guarded.try_lock() {
            Ok(guarded) => guarded,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Some(token),
        };
        self.start_due(guarded, input).or(Some(token))
    }

    /// Starts a refresh that is due, if the caller is on a Tokio runtime. Returns the current token
    /// if it is usable.
    pub(super) fn refresh_in_background(self: &Arc<Self>) -> Option<Token> {
        let input = self.input();
        self.start_due(self.lock(), input)
    }

    fn start_due(
        self: &Arc<Self>,
        guarded: MutexGuard<'_, Guarded>,
        input: Input<'_>,
    ) -> Option<Token> {
        let runtime = runtime_with_timers().ok();
        let need = if runtime.is_some() { Need::Refresh } else { Need::Look };
        match self.decide(guarded, need, runtime.as_ref(), input) {
            Reply::Ready(token) => Some(token),
            _ => None,
        }
    }

    /// Returns what a caller with this need gets.
    pub(super) fn join(
        self: &Arc<Self>,
        need: Need<'_>,
        runtime: Option<&Handle>,
    ) -> Reply<Waiter> {
        let input = self.input();
        self.decide(self.lock(), need, runtime, input)
    }

    fn decide(
        self: &Arc<Self>,
        guarded: MutexGuard<'_, Guarded>,
        need: Need<'_>,
        runtime: Option<&Handle>,
        input: Input<'_>,
    ) -> Reply<Waiter> {
        let (reply, job) = self.update(guarded, |guarded| {
            let (reply, job) = guarded.state.next(need, input);
            guarded.senders.extend(job.as_ref().map(|job| OutcomeSender::new(job.number())));
            let reply = match reply {
                Reply::Ready(token) => Reply::Ready(token),
                Reply::Fail(error) => Reply::Fail(error),
                Reply::Wait(number) => Reply::Wait(guarded.waiter(number, input)),
                Reply::Nothing => Reply::Nothing,
            };
            (reply, job)
        });
        if let (Some(job), Some(runtime)) = (job, runtime) {
            refresh::spawn(runtime, self, job);
        }
        reply
    }
}
