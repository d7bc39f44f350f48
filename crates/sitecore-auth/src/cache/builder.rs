//! A cache with numbers or a clock of one's own.

use std::{fmt, sync::Arc};

use super::TokenCache;
use crate::{Clock, RefreshPolicy, Result, TokenSource};

/// Settings of a [`TokenCache`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct TokenCacheBuilder {
    pub(super) source: Arc<dyn TokenSource>,
    pub(super) policy: RefreshPolicy,
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) name: String,
}

impl TokenCacheBuilder {
    /// Sets the numbers.
    pub fn policy(mut self, policy: RefreshPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the clock; [`SystemClock`](crate::SystemClock) by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Sets a name, by which logs and metrics tell this cache from others in the program; empty by default. It is
    /// not a secret, and few values of it make good metrics.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Builds the cache. Nothing is asked for yet.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config), naming the number of the policy that makes no sense.
    pub fn build(self) -> Result<TokenCache> {
        self.policy.check()?;
        Ok(TokenCache::with(self))
    }
}

impl fmt::Debug for TokenCacheBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCacheBuilder")
            .field("name", &self.name)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
