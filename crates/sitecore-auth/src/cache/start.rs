//! Whether a caller gets a token, joins a refresh or starts one.
//!
//! Every method locks the state, decides and unlocks it. Nothing waits, spawns, logs or does I/O
//! while the lock is held.

use tokio::runtime::Handle;

use super::{
    cooldown::Permit,
    shared::Shared,
    state::{CacheState, Join, Reason, Refresh, RejectedBy},
    waiter::{InFlight, Waiter},
};
use crate::{clock::Moment, error::Result, freshness::Freshness, token::Token};

impl Shared {
    /// Determines what a caller without a usable token gets: a token that has arrived in the
    /// meantime, the refresh in flight, a new refresh that the caller must run, or the reason why
    /// there is no token.
    pub(super) fn join_or_start(
        &self,
        rejected: Option<(&Token, &RejectedBy)>,
    ) -> Result<(Join, Option<Refresh>)> {
        let now = self.now();
        let mut state = self.state.lock();
        let current = self.slot.load();
        let usable = current.clone().filter(|current| current.freshness(now) != Freshness::Expired);
        if let Some(token) = &usable {
            match rejected {
                Some((rejected, _)) if rejected.is_same(token) => {}
                _ => return Ok((Join::Ready(token.clone()), None)),
            }
        }
        if let Some((token, _)) = rejected {
            state.last_rejected = Some(token.clone());
        }
        if let Some(waiter) = state.waiter_at(now) {
            return Ok((Join::Wait(waiter), None));
        }
        let permit = state.permit(now)?;
        let reason = match (usable, rejected) {
            // A usable token at this point is the rejected one.
            (Some(_), Some((_, by))) => {
                state.check_rejections(by, now)?;
                Reason::Rejected(by.clone())
            }
            _ if current.is_some() => Reason::Expired,
            _ => Reason::Empty,
        };
        let replacing = rejected.map(|(token, _)| token.clone()).or(current);
        let (refresh, waiter) = self.start(&mut state, now, permit, reason, replacing);
        Ok((Join::Wait(waiter), Some(refresh)))
    }

    /// Returns a background refresh if one is due, and the runtime to run it on. Never waits, not
    /// even for the lock: its holder makes the same decision.
    pub(super) fn start_due(&self) -> Option<(Handle, Refresh)> {
        let now = self.now();
        let mut state = self.state.try_lock()?;
        let is_deferred = state.refresh_not_before.is_some_and(|until| !now.has_reached(until));
        if is_deferred || state.is_refreshing(now) {
            return None;
        }
        let permit = state.permit(now).ok()?;
        let current = self.slot.load();
        let reason = match current.as_ref().map(|current| current.freshness(now)) {
            Some(Freshness::Fresh) => return None,
            Some(Freshness::Stale) => Reason::Stale,
            Some(Freshness::Expired) => Reason::Expired,
            None => Reason::Empty,
        };
        let runtime = Handle::try_current().ok()?;
        Some((runtime, self.start(&mut state, now, permit, reason, current).0))
    }

    fn start(
        &self,
        state: &mut CacheState,
        now: Moment,
        permit: Permit,
        reason: Reason,
        replacing: Option<Token>,
    ) -> (Refresh, Waiter) {
        state.generation += 1;
        let generation = state.generation;
        let (result, in_flight) = InFlight::start(generation, now, self.policy.refresh_timeout);
        let waiter = in_flight.waiter_at(now);
        state.in_flight = Some(in_flight);
        (Refresh { generation, reason, permit, result, replacing }, waiter)
    }
}
