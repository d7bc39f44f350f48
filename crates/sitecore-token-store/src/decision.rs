//! What a process does with what it sees in the store: decisions without a store, clock or runtime.

use std::time::Duration;

use sitecore_auth::{Error, ErrorKind, FetchContext, Token};

use crate::entry::Entry;

/// After this many consecutive failures, a process gives up if the latest attempt began after its
/// own refresh did. A process without a store gives up after as many attempts.
const ATTEMPTS: u32 = 3;

/// The least time that a token request needs.
const MIN_ATTEMPT_TIME: Duration = Duration::from_secs(1);

/// A process that waits for the lease holder keeps at most this much time for a token request of
/// its own.
const RESERVE: Duration = Duration::from_secs(10);

/// One call of the source: why it needs a token, and what it has learned from the store.
pub(crate) struct Visit<'a> {
    context: FetchContext<'a>,
    /// The cache, which does not adopt its own failures.
    reader: u128,
    /// A recent save to the store failed.
    is_unwritable: bool,
    has_lease: bool,
    /// Another process has had the lease during this call.
    knows_holder: bool,
    /// The store has failed during this call.
    has_failed: bool,
    /// How much time to keep for a token request of its own.
    reserve: Duration,
}

/// The time of a decision.
#[derive(Clone, Copy)]
pub(crate) struct Now {
    pub(crate) wall: Duration,
    /// Since the source was called.
    pub(crate) waited: Duration,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Load the entry.
    Look,
    /// Release the lease, if there is one, and look again later: after this time at most.
    Wait(Duration),
    /// Look again after a random time, because the store failed.
    Spread,
    /// Try to acquire the lease.
    Acquire,
    Adopt(Token),
    /// Another process's failure counts for this one too.
    Fail(Error),
    /// Make the token request, as the lease holder.
    Request,
    /// Make a token request without the lease. `watch` says to look at the store meanwhile, because
    /// the lease holder may be about to save a token.
    RequestAlone {
        watch: bool,
    },
}

impl<'a> Visit<'a> {
    /// `spread` is random, from 0 to 1. It spreads the token requests of processes that wait for
    /// the same holder.
    pub(crate) fn new(
        context: FetchContext<'a>,
        reader: u128,
        is_unwritable: bool,
        spread: f64,
    ) -> Self {
        let limit = context.elapsed() + context.time_left();
        Self {
            context,
            reader,
            is_unwritable,
            has_lease: false,
            knows_holder: false,
            has_failed: false,
            reserve: RESERVE.min(limit / 3).mul_f64(1.0 - 0.3 * spread),
        }
    }

    /// Decides after the entry was loaded; `None` if it could not be.
    pub(crate) fn look(&mut self, entry: Option<&Entry>, now: Now) -> Next {
        let Some(entry) = entry else {
            return self.without_store(now);
        };
        let context = self.context.after(now.waited);
        if let Some(token) = entry.token(context.replacing(), now.wall) {
            return Next::Adopt(token);
        }
        if let Some(failure) = entry.failure(now.wall, self.reader) {
            let refresh_began = now.wall.saturating_sub(context.elapsed());
            let is_recent = failure.began_at >= refresh_began;
            let is_final = failure.count >= ATTEMPTS || !failure.error.is_transient();
            let fits = failure.retry_in + MIN_ATTEMPT_TIME <= context.time_left();
            let is_binding = failure.error.retry_after().is_some() || !failure.error.is_transient();
            if (is_recent && is_final) || (is_binding && !fits) {
                return Next::Fail(failure.error.adopted());
            }
            // Does not fail: the attempt began before this call, or another one may still succeed.
            if is_binding || !self.must_hurry(now) {
                self.has_lease = false;
                return Next::Wait(failure.retry_in);
            }
        }
        let wait = entry.budget_wait(now.wall);
        if context.uses_budget() && !wait.is_zero() {
            return Next::Fail(budget_is_spent(wait));
        }
        match (self.has_lease, self.is_unwritable || entry.is_unwritable(now.wall)) {
            (true, _) => Next::Request,
            (false, true) => Next::RequestAlone { watch: false },
            (false, false) => Next::Acquire,
        }
    }

    /// Decides after an attempt to acquire the lease: whether it succeeded, or `None` if the store
    /// failed.
    pub(crate) fn after_acquiring(&mut self, is_ours: Option<bool>, now: Now) -> Next {
        match is_ours {
            None => self.without_store(now),
            Some(true) => {
                self.has_lease = true;
                // The previous holder may have saved a token in the meantime.
                Next::Look
            }
            Some(false) => {
                self.knows_holder = true;
                match self.must_hurry(now) {
                    true => Next::RequestAlone { watch: true },
                    false => Next::Wait(Duration::MAX),
                }
            }
        }
    }

    /// One failed call does not mean that the store is down. If another process has the lease, it
    /// will save its token later.
    fn without_store(&mut self, now: Now) -> Next {
        if self.knows_holder && !self.must_hurry(now) {
            // While it waits, it gives up its own lease.
            self.has_lease = false;
            return Next::Wait(Duration::MAX);
        }
        match std::mem::replace(&mut self.has_failed, true) {
            false => Next::Spread,
            true => Next::RequestAlone { watch: false },
        }
    }

    fn must_hurry(&self, now: Now) -> bool {
        self.context.after(now.waited).time_left() <= self.reserve
    }
}

fn budget_is_spent(wait: Duration) -> Error {
    let minutes = wait.as_secs().div_ceil(60);
    let message = format!(
        "APIs have rejected too many tokens of the processes that share this store; the next replacement is possible in {minutes} min"
    );
    Error::new(ErrorKind::Unavailable, message).with_retry_after(wait).with_budget_spent()
}

#[cfg(test)]
mod tests;
