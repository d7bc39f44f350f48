//! One token, kept usable: the handle that callers hold, and the way from a call to a token.
//!
//! The way of a call without a usable token: `obtain` here, `state` (what is there to join, may a refresh
//! start), `refresh` (the task that asks the source), `answer` (what becomes of the token and the gate); then
//! whoever waits is told. Nothing here knows HTTP.

mod answer;
mod builder;
mod flight;
mod gate;
mod held;
mod keep_fresh;
mod refresh;
mod state;
mod status;

use std::{fmt, future::poll_fn, sync::Arc, task::Poll};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

pub(crate) use self::refresh::check_runtime;
pub use self::{builder::TokenCacheBuilder, status::CacheStatus};
use self::{
    held::Held,
    state::{Joined, RefusedBy, State},
};
use crate::{
    Clock, Error, ErrorKind, Freshness, RefreshPolicy, Result, SystemClock, Token, TokenSource,
    clock::Now, telemetry,
};

/// How often a caller joins another refresh after the one it waited for was lost with its runtime.
const ELECTIONS: u32 = 8;

/// Keeps one token of one source usable, for any number of callers. A cheap handle: clones share the
/// token.
///
/// The contract:
///
/// 1. A token past its usable instant is never handed out. A usable one is never withheld or replaced by
///    an error.
/// 2. A caller waits only when there is no usable token. A stale token is handed out at once while one
///    refresh runs beside the caller.
/// 3. At most one refresh is in flight; all who wait share its result, the error too.
/// 4. A refresh belongs to nobody: dropping a caller neither stops it nor hurts another caller. If its
///    runtime dies, whoever waits starts the next one.
/// 5. After a failure there is an instant before which nobody asks again, the *gate*. Callers with a
///    usable token notice nothing, callers without fail at once.
/// 6. No error ends renewal for ever.
/// 7. A newer token wins: an answer that ends earlier does not replace a usable token.
/// 8. One short task per refresh, and nothing else is spawned.
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

struct Shared {
    source: Arc<dyn TokenSource>,
    policy: RefreshPolicy,
    /// `None` for the machine's, which is read without a call through a pointer.
    clock: Option<Arc<dyn Clock>>,
    /// For logs and metrics.
    name: String,
    /// The token held. Only `answer` changes it, and only under the lock of `state`.
    held: Held,
    state: State,
    /// Tells `keep_fresh` that the last handle is gone.
    gone: Arc<Notify>,
}

/// Why a refresh is started.
enum Reason {
    Empty,
    Stale,
    Expired,
    /// The token held, which is usable.
    Refused(RefusedBy),
}

impl Reason {
    /// Names it, for a label or a field.
    fn name(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Refused(RefusedBy::Api(_)) => "refused",
            Self::Refused(RefusedBy::Program) => "forced",
        }
    }
}

impl TokenCache {
    /// Makes an empty cache with the default policy. Nothing is asked for yet.
    pub fn new(source: impl TokenSource) -> Self {
        Self::with(Self::builder(source))
    }

    /// Starts a cache with a policy, a clock or a name of your own.
    pub fn builder(source: impl TokenSource) -> TokenCacheBuilder {
        TokenCacheBuilder {
            source: Arc::new(source),
            policy: RefreshPolicy::default(),
            clock: None,
            name: String::new(),
        }
    }

    fn with(settings: TokenCacheBuilder) -> Self {
        let shared = Shared {
            source: settings.source,
            policy: settings.policy,
            clock: settings.clock,
            name: settings.name,
            held: Held::default(),
            state: State::default(),
            gone: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the token held, if it is usable. Never waits; if the token is stale and this is a Tokio
    /// runtime, a refresh starts beside the caller.
    #[must_use]
    #[inline]
    pub fn current(&self) -> Option<Token> {
        let (token, freshness) = self.shared.usable(self.shared.now())?;
        if freshness == Freshness::Stale {
            refresh::start_beside(&self.shared);
        }
        Some(token)
    }

    /// Returns a usable token: at once if one is held, else as soon as the refresh that all callers
    /// share has brought it.
    ///
    /// # Errors
    ///
    /// Why there is none; [`Error::retry_after`] says when the cache will ask again. Outside a Tokio
    /// runtime, [`Config`](ErrorKind::Config).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the refresh goes on, and its token is kept.
    #[inline]
    pub fn token(&self) -> impl Future<Output = Result<Token>> + Send {
        let mut waiting: Option<BoxFuture<'_, Result<Token>>> = None;
        // By hand: the code of an `async fn` is not inlined into other crates, and a call of it costs a quarter
        // of what a header does.
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

    /// Returns a token other than `rejected`, which an API has refused: the one held if it is another,
    /// else what the next refresh brings. The token held goes on serving other callers meanwhile.
    ///
    /// # Errors
    ///
    /// As [`token`](Self::token); also if the source grants the same token again, or if too many
    /// tokens in a row have been refused. [`Error::retry_after`] says when it makes sense to ask again.
    ///
    /// # Cancel safety
    ///
    /// As [`token`](Self::token).
    pub async fn replace(&self, rejected: &Token) -> Result<Token> {
        self.obtain(Some((rejected, &RefusedBy::Program))).await
    }

    /// As [`replace`](Self::replace), for a token that this API has refused: what others refuse makes it wait for
    /// nothing.
    pub(crate) async fn replace_for(&self, api: Arc<str>, rejected: &Token) -> Result<Token> {
        self.obtain(Some((rejected, &RefusedBy::Api(api)))).await
    }

    /// Joins refreshes until there is a token other than the refused one. A refresh that was lost ends too: the
    /// caller joins the next one.
    async fn obtain(&self, refused: Option<(&Token, &RefusedBy)>) -> Result<Token> {
        for _ in 0..ELECTIONS {
            let waiter = match refresh::join(&self.shared, refused)? {
                Joined::Held(token) => return Ok(token),
                Joined::Refresh(waiter) => waiter,
            };
            let (generation, begun) = (waiter.generation, self.now());
            let outcome = waiter.outcome().await;
            let said =
                outcome.as_ref().map_or("lost", |outcome| telemetry::outcome(outcome, "token"));
            telemetry::waited(self.name(), said, self.now().elapsed_since(begun));
            match outcome {
                Some(outcome) => outcome?,
                None => self.shared.state.abandon(generation),
            }
        }
        Err(lost())
    }

    pub(crate) fn now(&self) -> Now {
        self.shared.now()
    }

    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    /// Returns the name for a log, which leaves out an empty one.
    pub(crate) fn label(&self) -> Option<&str> {
        self.shared.label()
    }
}

impl Shared {
    #[inline]
    fn now(&self) -> Now {
        let clock = self.clock.as_deref();
        clock.map_or_else(|| SystemClock.now(), Clock::now)
    }

    fn label(&self) -> Option<&str> {
        Some(self.name.as_str()).filter(|name| !name.is_empty())
    }

    /// Returns the token held and how good it is, unless it is expired.
    #[inline]
    fn usable(&self, now: Now) -> Option<(Token, Freshness)> {
        let token = self.held.load()?;
        match token.freshness(now) {
            Freshness::Expired => None,
            freshness => Some((token, freshness)),
        }
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.shared.held.load();
        f.debug_struct("TokenCache")
            .field("name", &self.shared.name)
            .field("held", &held)
            .finish_non_exhaustive()
    }
}

fn lost() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "every refresh was lost, or brought a token that was over when it arrived: is the runtime shutting down?",
    )
}
