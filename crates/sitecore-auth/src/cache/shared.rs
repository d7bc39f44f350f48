//! What the handles of one cache share.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{slot::TokenSlot, state::State};
use crate::{
    clock::{Clock, Moment, SystemClock},
    freshness::Freshness,
    policy::RefreshPolicy,
    source::TokenSource,
    token::Token,
};

pub(super) struct Shared {
    pub(super) source: Arc<dyn TokenSource>,
    pub(super) policy: RefreshPolicy,
    /// `None` for the machine's clocks, which are then read without dynamic dispatch.
    pub(super) clock: Option<Arc<dyn Clock>>,
    /// For logs and metrics.
    pub(super) name: String,
    /// The current token. Only `outcome` changes it, and only while it holds the lock of `state`.
    pub(super) slot: TokenSlot,
    pub(super) state: State,
    /// Notifies `keep_fresh` that the last handle is gone.
    pub(super) gone: Arc<Notify>,
}

impl Shared {
    #[inline]
    pub(super) fn now(&self) -> Moment {
        let clock = self.clock.as_deref();
        clock.map_or_else(|| SystemClock.now(), Clock::now)
    }

    pub(super) fn label(&self) -> Option<&str> {
        Some(self.name.as_str()).filter(|name| !name.is_empty())
    }

    /// Returns the current token and its state, unless it has expired.
    #[inline]
    pub(super) fn usable(&self, now: Moment) -> Option<(Token, Freshness)> {
        let token = self.slot.load()?;
        match token.freshness(now) {
            Freshness::Expired => None,
            freshness => Some((token, freshness)),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.gone.notify_waiters();
    }
}
