//! The one mutable place: which refresh is in flight, and when the next may start. What its answer does is
//! in `answer`.
//!
//! Every method takes the lock, decides and lets go: under it nothing waits, spawns, logs or does I/O.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch};

use super::{
    Reason, Shared,
    flight::{Flight, Outcome, Waiter},
    gate::{Gate, Passage},
};
use crate::{Error, ErrorKind, Freshness, Result, Token, clock::Now, policy::Backoff};

#[derive(Default)]
pub(super) struct State(Mutex<Inner>);

#[derive(Default)]
pub(super) struct Inner {
    /// Counts refreshes, so that one that comes back late is known for what it is.
    pub(super) generation: u64,
    pub(super) flight: Option<Flight>,
    pub(super) gate: Option<Gate>,
    /// Failures in a row that closed the gate by the same backoff.
    pub(super) failures: Option<(Backoff, u32)>,
    /// A stale token is not renewed before: the issuer had nothing newer.
    pub(super) spaced_until: Option<Now>,
    /// Who had refused the token that the last refresh brought once more.
    pub(super) granted_again: Option<RefusedBy>,
    /// The token that was refused last.
    pub(super) last_refused: Option<Token>,
    /// What each API that refused a token has cost, since one was renewed for its age: an API that refuses every
    /// token keeps no other from having one replaced.
    pub(super) refused: HashMap<RefusedBy, Refused>,
    /// Calls of the source, since the cache was made.
    pub(super) grants: u64,
}

/// Who said no to a token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum RefusedBy {
    Api(Arc<str>),
    /// The program, which did not say why.
    Program,
}

/// Grants in a row whose reason was that an API refused the token before.
pub(super) struct Refused {
    pub(super) grants: u32,
    /// If it refuses the token held too, that is not replaced before.
    pub(super) until: Now,
}

/// What a caller gets who needs a token.
pub(super) enum Joined {
    Held(Token),
    Refresh(Waiter),
}

/// A refresh that the caller has to run.
pub(super) struct Start {
    pub(super) generation: u64,
    pub(super) reason: Reason,
    pub(super) replacing: Option<Token>,
    /// The gate is closed by a refusal: only new credentials are a reason to ask.
    pub(super) only_if_new_credentials: bool,
    pub(super) outcome: watch::Sender<Option<Outcome>>,
}

impl State {
    /// Lets go of a refresh that was lost.
    pub(super) fn abandon(&self, generation: u64) {
        self.lock().flight.take_if(|flight| flight.generation() == generation);
    }

    /// Counts a grant that is about to begin. `false` if its refresh has been given up meanwhile: then
    /// others ask, and this one must not.
    pub(super) fn begin_grant(&self, generation: u64) -> bool {
        let mut state = self.lock();
        let current = state.flight.as_ref().is_some_and(|flight| flight.generation() == generation);
        state.grants += u64::from(current);
        current
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic runs under the lock; were it to, the state is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Finds what a caller without a (good) token gets: one that arrived meanwhile, the refresh in
    /// flight, a new refresh that the caller must run, or the reason why there is none.
    pub(super) fn join_or_start(
        &self,
        refused: Option<(&Token, &RefusedBy)>,
    ) -> Result<(Joined, Option<Start>)> {
        let now = self.now();
        let mut state = self.state.lock();
        let held = self.held.load();
        let usable = held.clone().filter(|held| held.freshness(now) != Freshness::Expired);
        if let Some(token) = &usable {
            match refused {
                Some((refused, _)) if refused.is_same(token) => {
                    state.last_refused = Some(token.clone());
                }
                _ => return Ok((Joined::Held(token.clone()), None)),
            }
        }
        if let Some(waiter) = state.waiter_at(now) {
            return Ok((Joined::Refresh(waiter), None));
        }
        let passage = state.pass_gate(now)?;
        let reason = match (usable, refused) {
            // A usable token that gets here is the refused one.
            (Some(_), Some((_, by))) => {
                state.check_refused(by, now)?;
                Reason::Refused(by.clone())
            }
            _ if held.is_some() => Reason::Expired,
            _ => Reason::Empty,
        };
        let replacing = refused.map(|(token, _)| token.clone()).or(held);
        let (start, waiter) = self.start(&mut state, now, passage, reason, replacing);
        Ok((Joined::Refresh(waiter), Some(start)))
    }

    /// Finds whether it is time for a refresh that nobody waits for, and the runtime to run it. Never
    /// waits, not even for the lock: whoever has it is deciding the same.
    pub(super) fn start_due(&self) -> Option<(Handle, Start)> {
        let now = self.now();
        let mut state = match self.state.0.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let spaced = state.spaced_until.is_some_and(|until| !now.has_reached(until));
        if spaced || state.is_in_flight(now) {
            return None;
        }
        let passage = state.pass_gate(now).ok()?;
        let held = self.held.load();
        let reason = match held.as_ref().map(|held| held.freshness(now)) {
            Some(Freshness::Fresh) => return None,
            Some(Freshness::Stale) => Reason::Stale,
            Some(Freshness::Expired) => Reason::Expired,
            None => Reason::Empty,
        };
        let runtime = Handle::try_current().ok()?;
        Some((runtime, self.start(&mut state, now, passage, reason, held).0))
    }

    fn start(
        &self,
        state: &mut Inner,
        now: Now,
        passage: Passage,
        reason: Reason,
        replacing: Option<Token>,
    ) -> (Start, Waiter) {
        state.generation += 1;
        let generation = state.generation;
        let (outcome, flight) = Flight::start(generation, now, self.policy.refresh_timeout);
        let waiter = flight.waiter_at(now);
        state.flight = Some(flight);
        let only_if_new_credentials = passage == Passage::IfNewCredentials;
        (Start { generation, reason, replacing, only_if_new_credentials, outcome }, waiter)
    }
}

impl Inner {
    /// Returns a waiter for the refresh in flight, if there is one.
    fn waiter_at(&mut self, now: Now) -> Option<Waiter> {
        self.is_in_flight(now);
        self.flight.as_ref().map(|flight| flight.waiter_at(now))
    }

    /// Tells whether a refresh is in flight. One that is lost is let go.
    fn is_in_flight(&mut self, now: Now) -> bool {
        self.flight.take_if(|flight| flight.is_lost(now));
        self.flight.is_some()
    }

    fn pass_gate(&self, now: Now) -> Result<Passage> {
        self.gate.as_ref().map_or(Ok(Passage::Free), |gate| gate.pass(now))
    }

    fn check_refused(&self, by: &RefusedBy, now: Now) -> Result<()> {
        match self.refused.get(by) {
            Some(refused) if !now.has_reached(refused.until) => {
                let why = "the tokens granted are refused again and again";
                Err(self.refused_error(why, by, now))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn granted_again_error(&self, by: &RefusedBy, now: Now) -> Error {
        self.refused_error("the refused token was granted once more", by, now)
    }

    fn refused_error(&self, why: &'static str, by: &RefusedBy, now: Now) -> Error {
        let refused = self.refused.get(by);
        let wait = refused.map_or(Duration::ZERO, |refused| now.until(refused.until));
        Error::new(ErrorKind::Unavailable, why).with_retry_after(wait)
    }
}
