//! Caches one token and keeps it usable. Nothing in here knows HTTP.
//!
//! A call without a usable token goes through `obtain` in this file, `start` (is there a refresh to
//! join, may a new one start), `refresh` (the task that calls the source) and `outcome` (what its
//! result changes). Then its waiters continue.

mod cooldown;
mod keep_fresh;
mod outcome;
mod refresh;
mod shared;
mod slot;
mod start;
mod state;
mod status;
mod waiter;

use std::{fmt, future::poll_fn, sync::Arc, task::Poll};

use futures_util::future::BoxFuture;

pub(crate) use self::refresh::check_runtime;
pub use self::status::CacheStatus;
use self::{
    shared::Shared,
    slot::TokenSlot,
    state::{Join, RejectedBy, State},
    waiter::{MAX_REJOINS, lost},
};
use crate::{
    clock::{Clock, Moment},
    error::Result,
    freshness::Freshness,
    metrics,
    policy::RefreshPolicy,
    source::TokenSource,
    token::Token,
};

/// Caches the token of one source and keeps it usable for any number of callers. Cheap to clone;
/// clones share the token.
///
/// # Guarantees
///
/// 1. A token past its usable time is never returned. A usable token is never withheld or replaced
///    by an error.
/// 2. A caller waits only if there is no usable token. A stale token is returned at once while one
///    refresh runs in the background.
/// 3. At most one refresh is in flight. All waiting callers share its result, including an error.
/// 4. Refreshes are independent of callers: dropping a caller neither cancels the refresh nor
///    affects other callers. If the runtime of a refresh dies, the next waiter starts another one.
/// 5. A failed refresh starts a *cooldown*, during which no token request is made unless the source
///    has new credentials. Callers with a usable token notice nothing. Callers without one fail at
///    once.
/// 6. No error stops refreshing permanently.
/// 7. A usable token is replaced only by one that does not expire earlier, unless it was rejected.
/// 8. The cache spawns one short task per refresh and nothing else.
///
/// ```
/// # async fn example() -> Result<(), sitecore_auth::Error> {
/// use sitecore_auth::{ClientCredentials, TokenCache, TokenClient};
///
/// let client = TokenClient::new(ClientCredentials::new("id", "secret"))?;
/// let cache = TokenCache::new(client);
/// assert!(cache.current().is_none());
/// # if false {
/// let token = cache.token().await?;
/// let (name, value) = token.header();
/// # }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenCache {
    shared: Arc<Shared>,
}

impl TokenCache {
    /// Creates an empty cache with the default policy. No token is fetched yet.
    pub fn new(source: impl TokenSource) -> Self {
        Self::from_builder(Self::builder(source))
    }

    /// Returns a builder for a cache with its own policy, clock or name.
    pub fn builder(source: impl TokenSource) -> TokenCacheBuilder {
        TokenCacheBuilder {
            source: Arc::new(source),
            policy: RefreshPolicy::default(),
            clock: None,
            name: String::new(),
        }
    }

    fn from_builder(builder: TokenCacheBuilder) -> Self {
        let shared = Shared {
            source: builder.source,
            policy: builder.policy,
            clock: builder.clock,
            name: builder.name,
            slot: TokenSlot::default(),
            state: State::default(),
            gone: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the current token if it is usable. Never waits. If the token is stale and this is a
    /// Tokio runtime, it starts a refresh in the background.
    #[must_use]
    #[inline]
    pub fn current(&self) -> Option<Token> {
        let (token, freshness) = self.shared.usable(self.shared.now())?;
        if freshness == Freshness::Stale {
            refresh::refresh_in_background(&self.shared);
        }
        Some(token)
    }

    /// Returns a usable token: the current one at once, or the result of the refresh that all
    /// callers share.
    ///
    /// # Errors
    ///
    /// The reason why there is no token. [`Error::retry_after`](crate::Error::retry_after) says
    /// when the cache will make the next token request. [`Config`](crate::ErrorKind::Config)
    /// outside a Tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing. The refresh continues, and the cache keeps its token.
    #[inline]
    pub fn token(&self) -> impl Future<Output = Result<Token>> + Send {
        let mut waiting: Option<BoxFuture<'_, Result<Token>>> = None;
        // Hand-written because an `async fn` is not inlined across crates; the call would cost a
        // quarter of the whole fast path.
        poll_fn(move |context| {
            if waiting.is_none()
                && let Some(token) = self.current()
            {
                return Poll::Ready(Ok(token));
            }
            let obtain = || Box::pin(self.obtain(None)) as _;
            waiting.get_or_insert_with(obtain).as_mut().poll(context)
        })
    }

    /// Returns a token other than `rejected`, which an API has rejected. This is the current token
    /// if it is a different one, or the result of the next refresh. Meanwhile, other callers still
    /// get the current token.
    ///
    /// # Errors
    ///
    /// As [`token`](Self::token). Also if the source returns the same token again, or if a token
    /// that replaced a rejected one has been rejected too.
    /// [`Error::retry_after`](crate::Error::retry_after) says when to try again.
    ///
    /// # Cancel safety
    ///
    /// As [`token`](Self::token).
    pub async fn replace(&self, rejected: &Token) -> Result<Token> {
        self.obtain(Some((rejected, &RejectedBy::Caller))).await
    }

    /// As [`replace`](Self::replace), for a token that this API has rejected. The rejections of
    /// other APIs do not delay the replacement.
    pub(crate) async fn replace_for(&self, api: Arc<str>, rejected: &Token) -> Result<Token> {
        self.obtain(Some((rejected, &RejectedBy::Api(api)))).await
    }

    /// Joins refreshes until there is a token other than the rejected one. If a refresh is lost,
    /// the caller joins the next one.
    async fn obtain(&self, rejected: Option<(&Token, &RejectedBy)>) -> Result<Token> {
        for _ in 0..MAX_REJOINS {
            let waiter = match refresh::join(&self.shared, rejected)? {
                Join::Ready(token) => return Ok(token),
                Join::Wait(waiter) => waiter,
            };
            let (generation, started) = (waiter.generation, self.now());
            let result = waiter.wait().await;
            let label =
                result.as_ref().map_or("lost", |result| metrics::outcome_label(result, "token"));
            metrics::record_wait(self.name(), label, self.now().elapsed_since(started));
            match result {
                Some(result) => result?,
                None => self.shared.state.abandon(generation),
            }
        }
        Err(lost())
    }

    /// Returns a snapshot of the cache. Never waits for a refresh.
    #[must_use]
    pub fn status(&self) -> CacheStatus {
        self.shared.status()
    }

    /// Returns a future that keeps the token fresh without traffic. Spawn it.
    ///
    /// It fetches a token if there is none, refreshes it when it is stale, and notices within 30 s
    /// that the machine has slept. It does not keep the cache alive, and ends when the last handle
    /// is dropped. For a key without expiry it idles. Outside a Tokio runtime, or in one without
    /// timers, it logs a warning and ends at once.
    ///
    /// ```
    /// # fn example(cache: sitecore_auth::TokenCache) {
    /// tokio::spawn(cache.keep_fresh());
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the refreshing. A refresh in flight continues.
    pub fn keep_fresh(&self) -> impl Future<Output = ()> + Send + 'static {
        keep_fresh::keep_fresh(&self.shared)
    }

    pub(crate) fn now(&self) -> Moment {
        self.shared.now()
    }

    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    /// Returns the name for a log, or `None` if it is empty.
    pub(crate) fn label(&self) -> Option<&str> {
        self.shared.label()
    }
}

/// Builder for a [`TokenCache`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct TokenCacheBuilder {
    source: Arc<dyn TokenSource>,
    policy: RefreshPolicy,
    clock: Option<Arc<dyn Clock>>,
    name: String,
}

impl TokenCacheBuilder {
    /// Sets the refresh policy.
    pub fn policy(mut self, policy: RefreshPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the clock; [`SystemClock`](crate::SystemClock) by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Sets the name that identifies this cache in logs and metrics; empty by default. The name is
    /// not secret. Use few different names, because each is a metric label.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Builds the cache. No token is fetched yet.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if a number of the policy is out of range. The error
    /// names it.
    pub fn build(self) -> Result<TokenCache> {
        self.policy.check()?;
        Ok(TokenCache::from_builder(self))
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

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.shared.slot.load();
        f.debug_struct("TokenCache")
            .field("name", &self.shared.name)
            .field("token", &token)
            .finish_non_exhaustive()
    }
}
