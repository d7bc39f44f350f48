//! The one mutable place: which refresh is in flight, when the next may start, and what its answer
//! does to the token held.
//!
//! Every method takes the lock, decides and lets go: under it nothing waits, spawns, logs or does I/O.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch};

use super::{
    CacheStatus, Reason, Shared,
    flight::{Flight, Outcome, Waiter},
    gate::{Gate, Passage},
};
use crate::{Error, ErrorKind, Freshness, Result, Token, clock::Now, policy::Backoff};

#[derive(Default)]
pub(super) struct State(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Counts refreshes, so that one that comes back late is known for what it is.
    generation: u64,
    flight: Option<Flight>,
    gate: Option<Gate>,
    /// Failures in a row that closed the gate by the same backoff.
    failures: Option<(Backoff, u32)>,
    /// A stale token is not renewed before: the issuer had nothing newer.
    spaced_until: Option<Now>,
    /// The token that was refused last.
    rejected: Option<Token>,
    /// Grants in a row whose reason was that the token before had been refused.
    refused_grants: u32,
    /// If the token held is refused, it is not replaced before.
    refused_until: Option<Now>,
    /// Calls of the source, since the cache was made.
    grants: u64,
}

/// How a refresh ended.
pub(super) enum Ended {
    Renewed(Token),
    /// The token held is as good; the source is asked again after this time.
    NoNewer(Duration),
    Failed(Error),
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
        self.lock()
            .flight
            .take_if(|flight| flight.generation() == generation);
    }

    /// Counts a grant that is about to begin. `false` if its refresh has been given up meanwhile: then
    /// others ask, and this one must not.
    pub(super) fn begin_grant(&self, generation: u64) -> bool {
        let mut state = self.lock();
        let current = state
            .flight
            .as_ref()
            .is_some_and(|flight| flight.generation() == generation);
        state.grants += u64::from(current);
        current
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic runs under the lock; were it to, the state is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Finds what a caller without a (good) token gets: one that arrived meanwhile, the refresh in
    /// flight, a new refresh that the caller must run, or the reason why there is none.
    pub(super) fn join(&self, rejected: Option<&Token>) -> Result<(Joined, Option<Start>)> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let held = self.held.load_full().map(Token);
        let usable = held
            .clone()
            .filter(|held| held.freshness(now) != Freshness::Expired);
        if let Some(token) = &usable {
            match rejected {
                Some(rejected) if rejected.is_same(token) => state.rejected = Some(token.clone()),
                _ => return Ok((Joined::Held(token.clone()), None)),
            }
        }
        if let Some(waiter) = state.waiter_at(now) {
            return Ok((Joined::Refresh(waiter), None));
        }
        let passage = state.pass_gate(now)?;
        let reason = match (usable, &held) {
            // A usable token that gets here is the rejected one.
            (Some(_), _) => {
                state.check_refused(now)?;
                Reason::Refused
            }
            (None, Some(_)) => Reason::Expired,
            (None, None) => Reason::Empty,
        };
        let (start, waiter) =
            self.start(&mut state, now, passage, reason, rejected.cloned().or(held));
        Ok((Joined::Refresh(waiter), Some(start)))
    }

    /// Finds whether it is time for a refresh that nobody waits for, and the runtime to run it. Never
    /// waits, not even for the lock: whoever has it is deciding the same.
    pub(super) fn start_due(&self) -> Option<(Handle, Start)> {
        let now = self.clock.now();
        let mut state = match self.state.0.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let spaced = state
            .spaced_until
            .is_some_and(|until| !now.has_reached(until));
        if spaced || state.is_in_flight(now) {
            return None;
        }
        let passage = state.pass_gate(now).ok()?;
        let held = self.held.load_full().map(Token);
        let reason = match held.as_ref().map(|held| held.freshness(now)) {
            Some(Freshness::Fresh) => return None,
            Some(Freshness::Stale) => Reason::Stale,
            Some(Freshness::Expired) => Reason::Expired,
            None => Reason::Empty,
        };
        let runtime = Handle::try_current().ok()?;
        Some((
            runtime,
            self.start(&mut state, now, passage, reason, held).0,
        ))
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
        (
            Start {
                generation,
                reason,
                replacing,
                only_if_new_credentials,
                outcome,
            },
            waiter,
        )
    }

    /// Takes in what a refresh brought; nothing, if there was no reason to ask. `None` if the refresh had
    /// been given up: others have gone on without it.
    pub(super) fn complete(&self, start: &Start, brought: Result<Option<Token>>) -> Option<Ended> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state
            .flight
            .take_if(|flight| flight.generation() == start.generation)?;
        let ended = match brought {
            Ok(Some(token)) => self.accept(&mut state, start, token, now),
            Ok(None) => Ok(state.stay_closed(now)),
            Err(error) => Err(error),
        };
        Some(ended.unwrap_or_else(|error| self.close_gate(&mut state, error, now)))
    }

    /// Puts a new token in the place of the one held, unless the one held is as good.
    fn accept(&self, state: &mut Inner, start: &Start, token: Token, now: Now) -> Result<Ended> {
        let held = self.held.load_full().map(Token);
        // The same token again has no new life, whatever the answer says.
        let token = match &held {
            Some(held) if held.is_same(&token) => token.not_outliving(held),
            _ => token,
        };
        if token.freshness(now) == Freshness::Expired {
            return Err(Error::new(
                ErrorKind::Malformed,
                "the token was over when it arrived",
            ));
        }
        state.gate = None;
        state.failures = None;
        let was_refused = |token: &Token| {
            state
                .rejected
                .as_ref()
                .is_some_and(|rejected| rejected.is_same(token))
        };
        let same_again = was_refused(&token);
        if start.reason == Reason::Refused {
            // A token with an age was adopted from somebody else, and was no grant.
            if same_again || token.age().is_zero() {
                state.refused_grants += 1;
                let wait = self
                    .policy
                    .refused_wait(token.lifetime(), state.refused_grants);
                state.refused_until = Some(now.after(wait));
            }
            if same_again {
                return Ok(Ended::Failed(
                    state.refused_error("the refused token was granted once more", now),
                ));
            }
        } else {
            let held = held.filter(|held| held.freshness(now) != Freshness::Expired);
            if let Some(held) = held
                && (held.is_same(&token)
                    || same_again
                    || (token.ends_before(&held, now) && !was_refused(&held)))
            {
                return Ok(Ended::NoNewer(self.space(state, &held, now)));
            }
            state.refused_grants = 0;
            state.refused_until = None;
        }
        state.spaced_until = None;
        if token.freshness(now) == Freshness::Stale {
            // Stale on arrival: without this, each call would ask for the next.
            self.space(state, &token, now);
        }
        self.held.store(Some(Arc::clone(&token.0)));
        Ok(Ended::Renewed(token))
    }

    /// Puts off the next renewal to half of the token's remaining use. Returns how long.
    fn space(&self, state: &mut Inner, held: &Token, now: Now) -> Duration {
        let left = now.until(held.unusable_from());
        let wait = (left / 2).max(self.policy.least_spacing).min(left);
        state.spaced_until = Some(now.after(wait));
        wait
    }

    /// Closes the gate after a failure. The error tells for how long.
    fn close_gate(&self, state: &mut Inner, error: Error, now: Now) -> Ended {
        let held = self.usable(now).map(|(held, _)| held);
        let policy = &self.policy;
        let backoff = match (error.kind(), &held) {
            (ErrorKind::Refused, _) => policy.gate_refused,
            (_, Some(_)) => policy.gate_with_token,
            (_, None) => policy.gate_without_token,
        };
        let failures = match state.failures {
            Some((before, failures)) if before == backoff => failures.saturating_add(1),
            _ => 1,
        };
        state.failures = Some((backoff, failures));
        let own = policy.own_wait(backoff, failures, fastrand::f64());
        // Our own gate opens when the token held is over: then somebody is in need.
        let own = held.map_or(own, |held| own.min(now.until(held.unusable_from())));
        let named = error
            .retry_after()
            .map(|wait| policy.server_wait(wait, fastrand::f64()));
        let gate = Gate::close(error, now, own, named.unwrap_or_default());
        let error = gate.error(now);
        state.gate = Some(gate);
        Ended::Failed(error)
    }

    /// Describes the cache as it is now.
    pub(super) fn status(&self) -> CacheStatus {
        let now = self.clock.now();
        let state = self.state.lock();
        let held = self.held.load_full().map(Token);
        let gate = state.gate.as_ref();
        let due = held.as_ref().map_or(now, Token::stale_from);
        let waits = [
            now.until(due),
            state
                .spaced_until
                .map_or(Duration::ZERO, |until| now.until(until)),
            gate.map_or(Duration::ZERO, |gate| gate.left(now)),
        ];
        CacheStatus {
            now,
            freshness: held.as_ref().map(|held| held.freshness(now)),
            next_attempt_in: waits.into_iter().max().filter(|_| due != Now::NEVER),
            refreshing: state
                .flight
                .as_ref()
                .is_some_and(|flight| !flight.is_lost(now)),
            last_error: gate.map(|gate| gate.error(now)),
            grants: state.grants,
            held,
        }
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
        self.gate
            .as_ref()
            .map_or(Ok(Passage::Free), |gate| gate.pass(now))
    }

    /// There were no new credentials: the gate stays as it is.
    fn stay_closed(&mut self, now: Now) -> Ended {
        Ended::Failed(
            self.gate
                .as_mut()
                .map_or_else(super::lost, |gate| gate.looked(now)),
        )
    }

    fn check_refused(&self, now: Now) -> Result<()> {
        match self.refused_until {
            Some(until) if !now.has_reached(until) => {
                Err(self.refused_error("the tokens granted are refused again and again", now))
            }
            _ => Ok(()),
        }
    }

    fn refused_error(&self, why: &'static str, now: Now) -> Error {
        let wait = self
            .refused_until
            .map_or(Duration::ZERO, |until| now.until(until));
        Error::new(ErrorKind::Unavailable, why).with_retry_after(wait)
    }
}
