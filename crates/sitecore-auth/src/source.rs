//! Where a cache gets its tokens from: one method, and the ready-made sources.

use std::{fmt, future::Future, sync::Arc};

use async_trait::async_trait;
use secrecy::SecretString;
use sitecore_token::{TokenClient, TokenResponse};

use crate::{Result, Token, stamp::Life};

/// Gets tokens, one call a token. It need not cache, retry or guard against many callers: the
/// [`TokenCache`](crate::TokenCache) in front of it does.
///
/// An implementation wants the crate `async-trait`. For one in front of a [`TokenClient`], whose own `fetch` hides
/// this one:
///
/// ```
/// use sitecore_auth::{Result, Token, TokenClient, TokenSource};
///
/// struct Logged(TokenClient);
///
/// #[async_trait::async_trait]
/// impl TokenSource for Logged {
///     async fn fetch(&self, replacing: Option<&Token>) -> Result<Token> {
///         println!("asking for a token");
///         TokenSource::fetch(&self.0, replacing).await
///     }
/// }
/// ```
///
/// # Cancel safety
///
/// The futures are dropped when a refresh is out of time. No caller's fate drops them.
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// Gets one token.
    ///
    /// `replacing` is the token that the cache wants to be rid of, because it is old or was refused; a
    /// source that remembers tokens must not answer with it. The life of what is returned is counted
    /// from before this call.
    ///
    /// # Errors
    ///
    /// Whatever went wrong, by [`ErrorKind`](crate::ErrorKind): the cache repeats the call at once for
    /// a transient error, and leaves the source alone for a while after any.
    async fn fetch(&self, replacing: Option<&Token>) -> Result<Token>;

    /// Tells what the tokens are tied to, with the credentials in force: sources that say the same may share
    /// their tokens, through a store. `None` unless the source can say.
    ///
    /// # Errors
    ///
    /// Why the credentials in force cannot be had.
    async fn identity(&self) -> Result<Option<Identity>> {
        Ok(None)
    }

    /// Tells whether the source has other credentials than those that were refused last. While a refusal
    /// keeps the cache from asking, this is looked at about once a second if somebody calls; `true` lets
    /// it ask again at once. `false` unless the source can say better.
    async fn has_new_credentials(&self) -> bool {
        false
    }
}

/// What the tokens of a [`TokenSource`] are tied to.
#[derive(Clone)]
pub struct Identity {
    secret: SecretString,
    context: String,
}

impl Identity {
    /// Makes an identity of a secret, and of all else that decides which tokens are granted.
    pub fn new(secret: impl Into<SecretString>, context: impl Into<String>) -> Self {
        Self { secret: secret.into(), context: context.into() }
    }

    pub(crate) fn of(client: &TokenClient) -> Self {
        Self::new(client.credentials().client_secret().clone(), client.grant_context())
    }

    /// Returns the secret: nobody without it may read what is shared.
    #[must_use]
    pub fn secret(&self) -> &SecretString {
        &self.secret
    }

    /// Returns the rest. It is no secret.
    #[must_use]
    pub fn context(&self) -> &str {
        &self.context
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("context", &self.context).finish_non_exhaustive()
    }
}

#[async_trait]
impl TokenSource for TokenClient {
    async fn fetch(&self, _replacing: Option<&Token>) -> Result<Token> {
        // The inherent method: one grant.
        token_of(&Self::fetch(self).await?)
    }

    async fn identity(&self) -> Result<Option<Identity>> {
        Ok(Some(Identity::of(self)))
    }
}

pub(crate) fn token_of(answer: &TokenResponse) -> Result<Token> {
    let life = answer.expires_in().map_or(Life::Unknown, Life::Known);
    let token = Token::bearer_for(answer.access_token(), life)?;
    Ok(token.with_quota(answer.quota().cloned()))
}

#[async_trait]
impl<S: TokenSource + ?Sized> TokenSource for Arc<S> {
    async fn fetch(&self, replacing: Option<&Token>) -> Result<Token> {
        (**self).fetch(replacing).await
    }

    async fn identity(&self) -> Result<Option<Identity>> {
        (**self).identity().await
    }

    async fn has_new_credentials(&self) -> bool {
        (**self).has_new_credentials().await
    }
}

#[async_trait]
impl<S: TokenSource + ?Sized> TokenSource for Box<S> {
    async fn fetch(&self, replacing: Option<&Token>) -> Result<Token> {
        (**self).fetch(replacing).await
    }

    async fn identity(&self) -> Result<Option<Identity>> {
        (**self).identity().await
    }

    async fn has_new_credentials(&self) -> bool {
        (**self).has_new_credentials().await
    }
}

/// Makes a source of a closure. Its argument is what [`TokenSource::fetch`] calls `replacing`.
///
/// ```
/// use std::time::Duration;
/// use sitecore_auth::{Token, TokenCache, source_fn};
///
/// let cache = TokenCache::new(source_fn(|_replacing| async {
///     Token::bearer("from-somewhere-else", Duration::from_secs(900))
/// }));
/// ```
pub fn source_fn<F, Fut>(fetch: F) -> impl TokenSource + fmt::Debug
where
    F: Fn(Option<Token>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Token>> + Send + 'static,
{
    SourceFn(fetch)
}

struct SourceFn<F>(F);

#[async_trait]
impl<F, Fut> TokenSource for SourceFn<F>
where
    F: Fn(Option<Token>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Token>> + Send + 'static,
{
    async fn fetch(&self, replacing: Option<&Token>) -> Result<Token> {
        (self.0)(replacing.cloned()).await
    }
}

impl<F> fmt::Debug for SourceFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceFn")
    }
}
