//! Caches one token and keeps it usable. Nothing in here knows HTTP.
//!
//! `state` makes the decisions, with `tokens`, `cooldown` and `rejections`. A call without a usable
//! token goes through `obtain` in this file to `callers`, which asks the state what to do, and
//! starts the job that it returns. `refresh` has the tasks that call the source. `shared` locks the
//! state, passes their results to it, and informs the waiting callers.

mod callers;
mod cooldown;
mod decision;
mod keep_fresh;
mod refresh;
mod rejections;
mod runtime;
mod shared;
mod slot;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod tokens;
mod view;
mod waiter;

use std::{
    fmt,
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use futures_util::future::BoxFuture;

pub use self::status::CacheStatus;
pub(crate) use self::{decision::RejectedBy, runtime::runtime_with_timers};
use self::{
    decision::{Need, Outcome, Reply, lost, too_short},
    shared::{Guarded, Shared},
    slot::TokenSlot,
    waiter::Waiter,
};
use crate::{
    clock::{CacheClock, Clock, Moment},
    contain::contain,
    error::{Error, Result},
    metrics,
    policy::RefreshPolicy,
    source::TokenSource,
    token::Token,
};

/// How many refreshes and checks a caller waits for before it gives up.
const MAX_WAITS: u32 = 8;

/// Caches the token of one source and keeps it usable for any number of callers. Cheap to clone;
/// clones share the token.
///
/// # Guarantees
///
/// 1. A token past its usable time is never returned. A usable token is never withheld or replaced
///    by an error. It is discarded only for another token (see 8).
/// 2. A caller waits only if no token meets its need: there is no usable one, it was rejected, or
///    it does not last long enough. A stale token is returned at once while one refresh runs in the
///    background.
/// 3. At most one refresh is in flight. All waiting callers share its result, including an error.
/// 4. Refreshes are independent of callers: dropping a caller neither cancels the refresh nor
///    affects other callers. If the runtime of a refresh is shut down, the next caller starts
///    another one. If that happens twice in a row and no caller waits, a cooldown starts, but the
///    first caller in need still starts another one. The time limit of a refresh counts from its
///    start. A token that arrives after that limit is still used.
/// 5. A failed refresh starts a *cooldown*, during which no token request is made. Callers whose
///    token is usable, and was not rejected by their own API, notice nothing. The others fail at
///    once, except that one of them may wait for a check for new credentials. If no caller waited
///    for the failed refresh, the first one in need starts another, unless the issuer specified a
///    wait.
/// 6. New credentials end the cooldown after a refusal or a rate limit.
///    [`retry_now`](Self::retry_now) ends any cooldown.
/// 7. No error stops refreshing permanently. If the source returns a token again after it expired
///    here, that token is used for up to 5 min more.
/// 8. A usable token that was not rejected is replaced only by one that does not expire earlier.
/// 9. A new token *settles* before it is put to use, as long as the previous one is still good. By
///    then, even an API whose clock is behind accepts it.
/// 10. The cache spawns one short task per refresh, and one per check for new credentials.
/// 11. No call panics. A panic in a source or its errors, in a clock or in a metrics recorder is
///     contained.
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
        static CACHES: AtomicU32 = AtomicU32::new(0);

        metrics::describe();
        let shared = Shared {
            number: CACHES.fetch_add(1, Relaxed),
            source: builder.source,
            policy: builder.policy,
            clock: CacheClock::new(builder.clock),
            name: builder.name,
            slot: TokenSlot::default(),
            guarded: Mutex::default(),
            gone: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the current token if it is usable. Never waits for a refresh. Starts one in the
    /// background if the token is stale, expired or missing. That needs a Tokio runtime with
    /// timers.
    #[must_use]
    #[inline]
    pub fn current(&self) -> Option<Token> {
        self.shared.usable().or_else(|| self.shared.refresh_in_background())
    }

    /// Returns a usable token: the current one at once, or the result of the refresh that all
    /// callers share.
    ///
    /// # Errors
    ///
    /// The reason why there is no token. [`Error::retry_after`](crate::Error::retry_after) says
    /// when the cache will make the next token request. [`Config`](crate::ErrorKind::Config) if
    /// there is no usable token and no Tokio runtime with timers.
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
                && let Some(token) = self.shared.usable()
            {
                return Poll::Ready(Ok(token));
            }
            let obtain = || Box::pin(self.obtain(Need::Token)) as _;
            waiting.get_or_insert_with(obtain).as_mut().poll(context)
        })
    }

    /// Returns a token other than `rejected`, which an API has rejected. This is a token that the
    /// cache already has, or the result of the next refresh. Meanwhile, other callers still get the
    /// current token.
    ///
    /// # Errors
    ///
    /// As [`token`](Self::token). Also if the source returns the same token again, or if a token
    /// that replaced a rejected one has been rejected too, or if APIs have rejected too many
    /// tokens. [`Error::retry_after`](crate::Error::retry_after) says when to try again.
    ///
    /// # Cancel safety
    ///
    /// As [`token`](Self::token).
    pub async fn replace(&self, rejected: &Token) -> Result<Token> {
        self.replace_for(&RejectedBy::Caller, rejected).await
    }

    /// As [`replace`](Self::replace), for a token that this API has rejected. The rejections of
    /// other APIs do not delay the replacement, unless all of them together have used up the
    /// budget.
    pub(crate) async fn replace_for(&self, api: &RejectedBy, rejected: &Token) -> Result<Token> {
        self.obtain(Need::Other { rejected, by: api }).await
    }

    /// Returns the current token if it is usable. Starts a refresh only if the token is stale.
    #[inline]
    pub(crate) fn usable(&self) -> Option<Token> {
        self.shared.usable()
    }

    /// Returns the token to send to this API: the current one, unless the API has rejected that and
    /// the cache has a newer one, or the previous one, which the API accepted.
    pub(crate) fn current_for(&self, api: &RejectedBy) -> Option<Token> {
        match self.shared.join(Need::TokenOf(api), None) {
            Reply::Ready(token) => Some(token),
            _ => None,
        }
    }

    /// Records that this API rejected the token, without asking for another.
    pub(crate) fn record_rejection(&self, api: &RejectedBy, token: &Token) {
        let record = |guarded: &mut Guarded| guarded.state.tokens.record_rejection(token, api);
        self.shared.update(self.shared.lock(), record);
    }

    /// Records that this API accepted the token.
    pub(crate) fn record_acceptance(&self, api: &RejectedBy, token: &Token) {
        let now = self.now();
        let record = |guarded: &mut Guarded| guarded.state.record_acceptance(token, api, now);
        if self.shared.update(self.shared.lock(), record) {
            contain(|| self.shared.source.give_back_budget());
        }
    }

    /// Returns a token that can be used for at least this long: one that the cache has, or one from
    /// a refresh. Use it for a connection or a job that outlasts a request.
    ///
    /// This rejects nothing. Other callers keep the current token until the new one has settled. A
    /// call can cost one or two token requests, so ask for much less than the lifetime.
    ///
    /// # Errors
    ///
    /// As [`token`](Self::token). [`Config`](crate::ErrorKind::Config) if even a new token could
    /// not be used for that long: the current one's lifetime, less the margin, is shorter.
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the issuer returns no token that lasts
    /// that long.
    ///
    /// # Cancel safety
    ///
    /// As [`token`](Self::token).
    pub async fn token_valid_for(&self, time: Duration) -> Result<Token> {
        self.obtain(Need::TokenFor(time)).await
    }

    /// Ends a cooldown, whatever caused it, even a wait that the server specified. The next caller
    /// that needs a token starts a refresh. Call this when you know that the cause is fixed. It
    /// does not shorten the wait before another rejected token is replaced.
    pub fn retry_now(&self) {
        self.shared.update(self.shared.lock(), |guarded| guarded.state.end_cooldown());
    }

    /// Joins refreshes until there is a token that meets the need.
    async fn obtain(&self, need: Need<'_>) -> Result<Token> {
        for round in 0..MAX_WAITS {
            let runtime = match runtime_with_timers() {
                Ok(runtime) => runtime,
                // Without a runtime nothing can start, so only the tokens at hand can help.
                Err(error) => {
                    // Puts a settled token to use, if it is time.
                    self.shared.join(Need::Look, None);
                    return self.shared.find(need).ok_or(error);
                }
            };
            let waiter = match self.shared.join(need, Some(&runtime)) {
                Reply::Ready(token) => return Ok(token),
                Reply::Fail(error) => return Err(self.allow_for_lag(error)),
                Reply::Wait(waiter) => waiter,
                // Only for callers that do not wait.
                Reply::Nothing => break,
            };
            match self.wait(waiter).await {
                Outcome::Refreshed(token) if need.is_met_by(&token, self.now()) => {
                    return Ok(token);
                }
                Outcome::Failed(error) | Outcome::RejectedAgain(error) => {
                    // Another refresh may have brought a token by now.
                    let Some(token) = self.shared.find(need) else {
                        return Err(self.allow_for_lag(error));
                    };
                    contain(|| drop(error));
                    return Ok(token);
                }
                // The first refresh may have been started for another caller.
                Outcome::Refreshed(_) if matches!(need, Need::TokenFor(_)) && round > 0 => {
                    return Err(too_short());
                }
                Outcome::Refreshed(_)
                | Outcome::Unchanged(_)
                | Outcome::StoodStill
                | Outcome::LookAgain => {}
            }
        }
        Err(lost())
    }

    /// Extends the wait in an error, so that a caller that waits for exactly that long is not too
    /// early.
    fn allow_for_lag(&self, error: Error) -> Error {
        match error.retry_after().filter(|wait| !wait.is_zero()) {
            Some(wait) => error.with_retry_after(wait.saturating_add(self.shared.clock.lag())),
            None => error,
        }
    }

    async fn wait(&self, mut waiter: Waiter) -> Outcome {
        let started = self.now();
        let outcome = waiter.wait().await;
        let outcome = outcome.unwrap_or_else(|_elapsed| self.shared.time_out(waiter.number));
        let label = match &outcome {
            Outcome::Failed(error) | Outcome::RejectedAgain(error) => metrics::kind_label(error),
            Outcome::StoodStill | Outcome::LookAgain => "lost",
            Outcome::Refreshed(_) | Outcome::Unchanged(_) => "token",
        };
        metrics::record_wait(self.name(), label, self.now().elapsed_since(started));
        outcome
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
    /// is dropped. For a key without expiry, it only checks every 30 s whether the key was
    /// replaced. Outside a Tokio runtime, or in one without timers, it logs a warning and ends at
    /// once.
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

    /// Returns a number that no other cache of this process has.
    pub(crate) fn number(&self) -> u32 {
        self.shared.number
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
        let token = self.shared.slot.latest();
        f.debug_struct("TokenCache")
            .field("name", &self.shared.name)
            .field("token", &token)
            .finish_non_exhaustive()
    }
}
