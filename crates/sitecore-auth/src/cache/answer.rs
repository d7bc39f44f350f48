//! What a refresh's answer does: to the token held, to the gate, to the next attempt.

use std::time::Duration;

use super::{
    Reason, Shared,
    gate::Gate,
    state::{Inner, Refused, RefusedBy, Start},
};
use crate::{Error, ErrorKind, Freshness, Result, Token, clock::Now};

/// How a refresh ended.
pub(super) enum Ended {
    Renewed(Token),
    /// The token held is as good; the source is asked again after this time.
    NoNewer(Duration),
    /// The token that an API refused was granted once more.
    RefusedAgain(Error),
    /// The gate is closed.
    Failed(Error),
    /// The gate stays closed: there are no new credentials, and nothing was asked for.
    StillClosed(Error),
}

impl Shared {
    /// Takes in what a refresh brought; nothing, if there was no reason to ask. `None` if the refresh had
    /// been given up: others have gone on without it.
    pub(super) fn complete(&self, start: &Start, brought: Result<Option<Token>>) -> Option<Ended> {
        let now = self.now();
        // The last failure is let go after the lock: its cause is the source's own, and may do what it likes then.
        let _before;
        let mut state = self.state.lock();
        _before = state.gate.as_ref().map(Gate::cause);
        state.flight.take_if(|flight| flight.generation() == start.generation)?;
        state.granted_again = None;
        let ended = match brought {
            Ok(Some(token)) => self.accept(&mut state, start, token, now),
            Ok(None) => Ok(state.stay_closed(now)),
            Err(error) => Err(error),
        };
        Some(ended.unwrap_or_else(|error| self.close_gate(&mut state, error, now)))
    }

    /// Puts a new token in the place of the one held, unless that is as good.
    ///
    /// After a refusal any other token will do. One that was asked for because of the age of the one held must not be
    /// the same, nor the one that was refused last, nor end earlier; but to end earlier is no fault where the one
    /// held is itself the refused one. Where none is usable, any will do.
    fn accept(&self, state: &mut Inner, start: &Start, token: Token, now: Now) -> Result<Ended> {
        let held = self.held.load();
        // The same token again has no new life, whatever the answer says.
        let token = match &held {
            Some(held) if held.is_same(&token) => token.not_outliving(held),
            _ => token,
        };
        if token.freshness(now) == Freshness::Expired {
            return Err(Error::new(ErrorKind::Malformed, "the token was over when it arrived"));
        }
        state.gate = None;
        state.failures = None;
        let was_refused = |token: &Token| {
            state.last_refused.as_ref().is_some_and(|refused| refused.is_same(token))
        };
        let is_refused_one = was_refused(&token);
        if let Reason::Refused(by) = &start.reason {
            // A token with an age was adopted from somebody else, and was no grant.
            if is_refused_one || token.age().is_zero() {
                self.count_refused(state, by, &token, now);
            }
            if is_refused_one {
                state.granted_again = Some(by.clone());
                return Ok(Ended::RefusedAgain(state.granted_again_error(by, now)));
            }
        } else {
            let held = held.filter(|held| held.freshness(now) != Freshness::Expired);
            if let Some(held) = held
                && (held.is_same(&token)
                    || is_refused_one
                    || (token.ends_before(&held, now) && !was_refused(&held)))
            {
                return Ok(Ended::NoNewer(self.space(state, &held, now)));
            }
            state.refused.clear();
        }
        state.spaced_until = None;
        if token.freshness(now) == Freshness::Stale {
            // Stale on arrival: without this, each call would ask for the next.
            self.space(state, &token, now);
        }
        self.held.store(&token);
        Ok(Ended::Renewed(token))
    }

    /// Counts a grant whose reason was a refusal: if this token is refused too, it is replaced the later.
    fn count_refused(&self, state: &mut Inner, by: &RefusedBy, token: &Token, now: Now) {
        let before = state.refused.get(by);
        let grants = before.map_or(0, |before| before.grants) + 1;
        let wait = self.policy.refused_wait(token.lifetime(), grants);
        let until = now.after(wait);
        state.refused.insert(by.clone(), Refused { grants, until });
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
        let named = error.retry_after().map(|wait| policy.server_wait(wait, fastrand::f64()));
        let gate = Gate::close(error, now, own, named.unwrap_or_default());
        let error = gate.error(now);
        state.gate = Some(gate);
        Ended::Failed(error)
    }
}

impl Inner {
    /// There were no new credentials: the gate stays as it is.
    fn stay_closed(&mut self, now: Now) -> Ended {
        Ended::StillClosed(self.gate.as_mut().map_or_else(super::lost, |gate| gate.looked(now)))
    }
}
