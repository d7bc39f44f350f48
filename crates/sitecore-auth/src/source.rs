//! Where a cache gets its tokens from: the [`TokenSource`] trait and the ready-made sources.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;
use sitecore_token::{TokenClient, TokenResponse};

use crate::{error::Result, freshness::Lifetime, token::Token};

/// Fetches tokens, one per call.
///
/// A source need not cache, retry, or handle concurrent callers. The
/// [`TokenCache`](crate::TokenCache) in front of it does. A source should return a new token on
/// each call. A token that is returned again keeps its expiry. Once that has passed, the token is
/// used for up to 5 min at a time. Each time costs a call.
///
/// An implementation needs the crate `async-trait`. This one wraps a [`TokenClient`], whose
/// inherent `fetch` hides the trait's:
///
/// ```
/// use sitecore_auth::{FetchContext, Result, Token, TokenClient, TokenSource};
///
/// struct Logged(TokenClient);
///
/// #[async_trait::async_trait]
/// impl TokenSource for Logged {
///     async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
///         println!("requesting a token");
///         TokenSource::fetch(&self.0, context).await
///     }
/// }
/// ```
///
/// # Cancel safety
///
/// The futures are dropped when the refresh reaches its time limit. A caller that goes away does
/// not drop them.
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// Fetches one token. Its lifetime is counted from before this call.
    ///
    /// # Errors
    ///
    /// The reason, as an [`ErrorKind`](crate::ErrorKind). The cache repeats the call after a
    /// transient error, and does not call the source for a while after a failed refresh.
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token>;

    /// Returns a key, derived from the current credentials, that identifies whose tokens this
    /// source fetches. Sources with equal keys may share tokens through a store. `None` if the
    /// source cannot tell.
    ///
    /// # Errors
    ///
    /// The reason why the current credentials cannot be read.
    async fn sharing_key(&self) -> Result<Option<SharingKey>> {
        Ok(None)
    }

    /// Returns `true` if the current credentials differ from those that the issuer last refused or
    /// rate-limited.
    ///
    /// During the cooldown that follows, the cache calls this at most once a second if there are
    /// callers. `true` ends the cooldown. A call that panics or takes longer than 2 s counts as
    /// `false`. After `true`, and after such a call, the time until the next call doubles, up to a
    /// minute. The default is `false`.
    async fn has_new_credentials(&self) -> bool {
        false
    }

    /// Called when an API has accepted a token whose request [the budget paid
    /// for](FetchContext::uses_budget). A source that shares the budget with other processes then
    /// gives the request back to it.
    #[doc(hidden)]
    fn give_back_budget(&self) {}
}

/// Describes one call of [`TokenSource::fetch`]: which token it replaces, why, and how much time is
/// left.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FetchContext<'a> {
    replacing: Option<&'a Token>,
    rejected: bool,
    elapsed: Duration,
    time_left: Duration,
    uses_budget: bool,
    cache: &'a str,
    cache_number: u32,
}

impl<'a> FetchContext<'a> {
    /// Creates the context of a first fetch, which replaces no token. Caches create it for you; a
    /// test of your own source can use this.
    #[must_use]
    pub fn new(time_left: Duration) -> Self {
        Self {
            replacing: None,
            rejected: false,
            elapsed: Duration::ZERO,
            time_left,
            uses_budget: false,
            cache: "",
            cache_number: 0,
        }
    }

    /// Sets what only a cache knows: its name and number, and whether its budget for rejected
    /// tokens pays for this token request.
    pub(crate) fn with_cache(self, cache: &'a str, cache_number: u32, uses_budget: bool) -> Self {
        Self { uses_budget, cache, cache_number, ..self }
    }

    /// Sets the token to replace, and whether it was rejected.
    #[must_use]
    pub fn with_replacing(self, token: &'a Token, rejected: bool) -> Self {
        Self { replacing: Some(token), rejected, ..self }
    }

    /// Moves the context forward in time. Use this in a source that waits before it calls another
    /// one.
    #[must_use]
    pub fn after(self, waited: Duration) -> Self {
        Self {
            elapsed: self.elapsed.saturating_add(waited),
            time_left: self.time_left.saturating_sub(waited),
            ..self
        }
    }

    /// Returns the token to replace, if there is one. A source that remembers tokens must not
    /// return it.
    #[must_use]
    pub fn replacing(&self) -> Option<&'a Token> {
        self.replacing
    }

    /// Returns `true` if an API or the program rejected that token. Otherwise the refresh has
    /// another reason, such as the token's age.
    #[must_use]
    pub fn rejected(&self) -> bool {
        self.rejected
    }

    /// Returns how long this refresh had been running when the source was called, plus what
    /// [`after`](Self::after) added.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Returns how much time this refresh has left. The future is dropped after that.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.time_left
    }

    /// Returns `true` if the budget for rejected tokens pays for this token request. Processes that
    /// share tokens share that budget.
    #[doc(hidden)]
    #[must_use]
    pub fn uses_budget(&self) -> bool {
        self.uses_budget
    }

    /// Returns the name of the cache, for metrics; empty if it has none.
    #[doc(hidden)]
    #[must_use]
    pub fn cache(&self) -> &'a str {
        self.cache
    }

    /// Returns the number of the cache, which no other cache of this process has. Several caches can
    /// share one source.
    #[doc(hidden)]
    #[must_use]
    pub fn cache_number(&self) -> u32 {
        self.cache_number
    }
}

/// Identifies whose tokens a [`TokenSource`] fetches. See [`TokenSource::sharing_key`].
#[derive(Clone)]
pub struct SharingKey {
    secret: SecretString,
    context: String,
}

impl SharingKey {
    /// Creates a key from a secret, and from everything else that determines which tokens are
    /// granted.
    pub fn new(secret: impl Into<SecretString>, context: impl Into<String>) -> Self {
        Self { secret: secret.into(), context: context.into() }
    }

    pub(crate) fn of(client: &TokenClient) -> Self {
        Self::new(client.credentials().client_secret().clone(), client.token_context())
    }

    /// Returns the secret. Only those who have it can read shared tokens.
    #[must_use]
    pub fn secret(&self) -> &SecretString {
        &self.secret
    }

    /// Returns what the key contains besides the secret. It is safe to show.
    #[must_use]
    pub fn context(&self) -> &str {
        &self.context
    }
}

impl fmt::Debug for SharingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharingKey").field("context", &self.context).finish_non_exhaustive()
    }
}

#[async_trait]
impl TokenSource for TokenClient {
    async fn fetch(&self, _context: FetchContext<'_>) -> Result<Token> {
        // The inherent method: one token request.
        token_from(&Self::fetch(self).await?)
    }

    async fn sharing_key(&self) -> Result<Option<SharingKey>> {
        Ok(Some(SharingKey::of(self)))
    }
}

pub(crate) fn token_from(response: &TokenResponse) -> Result<Token> {
    let lifetime = response.expires_in().map_or(Lifetime::Unknown, Lifetime::Known);
    let token = Token::bearer_with(response.access_token(), lifetime)?;
    Ok(token.with_quota(response.quota().cloned()))
}

/// Implements the trait for a pointer to a source.
macro_rules! forward {
    ($pointer:ident) => {
        #[async_trait]
        impl<S: TokenSource + ?Sized> TokenSource for $pointer<S> {
            async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
                (**self).fetch(context).await
            }

            async fn sharing_key(&self) -> Result<Option<SharingKey>> {
                (**self).sharing_key().await
            }

            async fn has_new_credentials(&self) -> bool {
                (**self).has_new_credentials().await
            }

            fn give_back_budget(&self) {
                (**self).give_back_budget();
            }
        }
    };
}

forward!(Arc);
forward!(Box);

/// Creates a source from a closure. The future cannot borrow the context. Copy what it needs before
/// the `async` block.
///
/// ```
/// use std::time::Duration;
/// use sitecore_auth::{Token, TokenCache, source_fn};
///
/// let cache = TokenCache::new(source_fn(|context| {
///     println!("replacing {:?}", context.replacing());
///     async { Token::bearer("from-somewhere-else", Duration::from_secs(900)) }
/// }));
/// ```
pub fn source_fn<F, Fut>(fetch: F) -> impl TokenSource + fmt::Debug
where
    F: Fn(FetchContext<'_>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Token>> + Send + 'static,
{
    SourceFn(fetch)
}

struct SourceFn<F>(F);

#[async_trait]
impl<F, Fut> TokenSource for SourceFn<F>
where
    F: Fn(FetchContext<'_>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Token>> + Send + 'static,
{
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
        (self.0)(context).await
    }
}

impl<F> fmt::Debug for SourceFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceFn")
    }
}
