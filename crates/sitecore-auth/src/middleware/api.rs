//! An API that the middleware authenticates requests for, and which tokens it last accepted and
//! rejected.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use crate::{
    cache::{RejectedBy, TokenCache},
    target::Rule,
    token::Token,
};

#[derive(Debug)]
pub(super) struct Api {
    pub(super) rule: Rule,
    /// The name by which the cache knows it.
    pub(super) name: RejectedBy,
    /// The fingerprint of the token that it accepted last, so that the cache is told once per
    /// token. Zero means none.
    accepted: AtomicU32,
}

impl Api {
    pub(super) fn new(rule: Rule) -> Self {
        let name = RejectedBy::Api(Arc::from(rule.name()));
        Self { rule, name, accepted: AtomicU32::new(0) }
    }

    /// Returns the token to send: the current one, or another one if this API has rejected the
    /// current one.
    pub(super) fn choose(&self, current: Token, cache: &TokenCache) -> Token {
        if current.is_rejected() {
            return cache.current_for(&self.name).unwrap_or(current);
        }
        current
    }

    pub(super) fn note_accepted(&self, token: &Token, cache: &TokenCache) {
        let fingerprint = token.fingerprint().number();
        if self.accepted.load(Relaxed) != fingerprint {
            self.accepted.store(fingerprint, Relaxed);
            cache.record_acceptance(&self.name, token);
        }
    }

    /// Forgets what it accepted last, so that the cache is told if it accepts that token again.
    pub(super) fn note_rejected(&self) {
        self.accepted.store(0, Relaxed);
    }
}
