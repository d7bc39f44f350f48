//! The middleware: adds the token to requests for its targets, and replaces it once if it is
//! rejected.
//!
//! The cache provides the token, and `target` decides where it may be sent. `attempt` handles the
//! response and the replay. `rejection` decides whether a response rejects the token, with the help
//! of `www_authenticate` and `graphql`. `unauthenticated` watches the requests that get no token.

mod api;
mod attempt;
mod builder;
mod deadline;
pub(crate) mod graphql;
mod peek;
mod redirect;
mod rejection;
mod unauthenticated;
pub(crate) mod www_authenticate;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use futures_util::future::BoxFuture;
use http::{Extensions, HeaderName, header::AUTHORIZATION};
use reqwest::{Request, Response, redirect::Policy};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use sitecore_token::{ClientCredentials, Endpoint, TokenClient};
use tracing::{Level, debug, enabled};
use url::Url;

#[doc(hidden)]
pub use self::graphql::may_name_document;
use self::{
    api::Api,
    attempt::{Attempt, authenticate},
    deadline::Deadline,
    unauthenticated::{Handled, WarnedHosts, Why, is_watched},
};
pub use self::{api::WrongClient, builder::AuthMiddlewareBuilder, rejection::Rejections};
use crate::{
    cache::TokenCache,
    error::{Error, ErrorKind, Result},
    target::{API_KEY, Target},
};

/// The header in which some clients send an Edge key.
const GRAPHQL_KEY: HeaderName = HeaderName::from_static("x-gql-token");

/// The header in which Sitecore's own client for websites sends a context id.
const CONTEXT_ID: HeaderName = HeaderName::from_static("x-sitecore-contextid");

/// The headers that carry a credential of the caller's own.
#[doc(hidden)]
pub static CREDENTIAL_HEADERS: [HeaderName; 4] = [AUTHORIZATION, API_KEY, CONTEXT_ID, GRAPHQL_KEY];

/// The query parameters that carry a credential.
#[doc(hidden)]
pub const CREDENTIAL_PARAMETERS: [&str; 2] = ["sc_apikey", "sitecoreContextId"];

/// How many middlewares there are. If there are several, they tell each other which requests they
/// have authenticated, which costs two allocations.
static MIDDLEWARES: AtomicUsize = AtomicUsize::new(0);

/// Counts a middleware until its last clone is dropped.
#[derive(Debug)]
struct Counted;

impl Counted {
    fn new() -> Self {
        MIDDLEWARES.fetch_add(1, Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        MIDDLEWARES.fetch_sub(1, Relaxed);
    }
}

/// A `reqwest-middleware` [`Middleware`] that authenticates the requests for its targets.
///
/// # Which requests get a token
///
/// A request is passed on unchanged if it matches no target, if it carries [`NoAuth`], or if it
/// already has a credential:
///
/// - the header `Authorization`, `sc_apikey` or `x-sitecore-contextid`;
/// - the header `X-GQL-Token`, except in a call to Edge's Token API, where it names a key;
/// - the query parameter `sc_apikey` or `sitecoreContextId`.
///
/// Several middlewares with different credentials can therefore be added to one client. A request
/// that already has the header of this cache's tokens is passed on without a token too. The
/// middleware learns the name of that header from a token, so the request still waits for a token,
/// and fails if there is none. The middleware does not notice other custom headers.
///
/// reqwest adds its `default_headers` after all middleware. This middleware does not see them, and
/// the header that it sets takes precedence over them.
///
/// A request that carries a [`TokenCache`] as an extension
/// ([`with_extension`](reqwest_middleware::RequestBuilder::with_extension)) gets its token from
/// that cache. The targets stay the same.
///
/// If a request gets no token and its response is a rejection, the middleware logs a warning, once
/// per host. It checks only responses from Sitecore's hosts, from the targets' origins and from the
/// path of the Authoring API.
///
/// # Rejected tokens
///
/// If a response rejects the token (see [`Rejections`]), the token is replaced, once for all such
/// responses. The request is then replayed once, if that cannot repeat work and its body can be
/// cloned. The second response is final. If the replay of a `GET`, a `HEAD` or a GraphQL query
/// finds its connection closed, it is sent one more time.
///
/// The first response is returned unchanged if there is no other token or no replay. While the
/// token is being replaced, the body of that response is read, up to 128 KiB. A longer one is
/// returned at once, unless another token is already there. If the token was replaced, the next
/// request uses the new one.
///
/// If the API returns 403 because it requires another kind of client, the response has the
/// extension [`WrongClient`].
///
/// # Timeouts
///
/// A request's own `timeout()` covers the wait for a token, the request and the replay together. A
/// timeout set on the reqwest client is not visible here. It limits the request and the replay
/// separately, and not the wait for a token.
///
/// # Other middleware
///
/// [`into_client`](Self::into_client) builds a client with this middleware alone. To combine it
/// with others, build the reqwest client with [`redirect_policy`](Self::redirect_policy).
///
/// Add reqwest-retry before (outside) this middleware, so that each attempt gets a current token.
/// It treats a middleware's errors as fatal, unless its strategy inspects them, as
/// `HonourRetryAfter` (feature `retry`) does. reqwest-tracing can be added before or after.
///
/// ```
/// # fn main() -> Result<(), sitecore_auth::Error> {
/// use sitecore_auth::{AuthMiddleware, ClientCredentials, Target};
///
/// let credentials = ClientCredentials::new("id", "secret");
/// let client = AuthMiddleware::new(credentials, [Target::deploy()])?
///     .into_client(sitecore_auth::reqwest::Client::builder())?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AuthMiddleware {
    cache: TokenCache,
    apis: Arc<[Api]>,
    rejections: Arc<Rejections>,
    replay: bool,
    require_target: bool,
    warned: WarnedHosts,
    _counted: Arc<Counted>,
}

/// A request extension: the middleware passes this request on unchanged.
///
/// ```
/// # fn example(client: reqwest_middleware::ClientWithMiddleware) {
/// let request = client.get("https://edge.sitecorecloud.io/healthz").with_extension(sitecore_auth::NoAuth);
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "marker type")]
pub struct NoAuth;

/// A request extension: whether this request is replayed if its token is rejected. It takes
/// precedence over [`AuthMiddlewareBuilder::replay`].
///
/// ```
/// # fn example(client: reqwest_middleware::ClientWithMiddleware) {
/// let deployments = "https://xmclouddeploy-api.sitecorecloud.io/api/deployments/v1";
/// let request = client.post(deployments).with_extension(sitecore_auth::Replay(false));
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "newtype over a flag")]
pub struct Replay(pub bool);

impl AuthMiddleware {
    /// Creates a middleware that gets its tokens from Sitecore Cloud with these credentials.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the credentials are empty, if there is no target, or if a
    /// target would send the token in clear text.
    pub fn new(
        credentials: ClientCredentials,
        targets: impl IntoIterator<Item = Target>,
    ) -> Result<Self> {
        Self::with_tokens(TokenClient::new(credentials)?, targets)
    }

    /// Creates a middleware with the credentials and the issuer that the environment names. The
    /// variables are those of [`ClientCredentials::from_env`] and [`Endpoint::from_env`].
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if a variable is missing or malformed, and as
    /// [`new`](Self::new).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), sitecore_auth::Error> {
    /// use sitecore_auth::{AuthMiddleware, Target, reqwest};
    ///
    /// let auth = AuthMiddleware::from_env([Target::deploy()])?;
    /// let client = auth.into_client(reqwest::Client::builder())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_env(targets: impl IntoIterator<Item = Target>) -> Result<Self> {
        let tokens = TokenClient::builder(ClientCredentials::from_env()?);
        Self::with_tokens(tokens.endpoint(Endpoint::from_env()?).build()?, targets)
    }

    fn with_tokens(tokens: TokenClient, targets: impl IntoIterator<Item = Target>) -> Result<Self> {
        Self::builder(TokenCache::new(tokens)).targets(targets).build()
    }

    /// Returns a builder for a middleware that takes its tokens from this cache.
    pub fn builder(cache: TokenCache) -> AuthMiddlewareBuilder {
        AuthMiddlewareBuilder::new(cache)
    }

    /// Builds a client with this middleware alone, which is the usual way to use it.
    ///
    /// The redirect policy of `builder` is replaced by [`redirect_policy`](Self::redirect_policy),
    /// with reqwest's default for other redirects. If every target is on loopback, as in tests, all
    /// proxies of `builder` are dropped, including those of the environment.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if reqwest cannot build the client.
    pub fn into_client(self, builder: reqwest::ClientBuilder) -> Result<ClientWithMiddleware> {
        let builder = builder.redirect(self.redirect_policy(Policy::default()));
        let is_local = self.apis.iter().all(|api| api.rule.is_on_loopback());
        let builder = if is_local { builder.no_proxy() } else { builder };
        let client = builder.build().map_err(|error| Error::new(ErrorKind::Config, error))?;
        Ok(ClientBuilder::new(client).with(self).build())
    }

    /// Returns a redirect policy that keeps the token where its target is. If a target covers the
    /// first URL, the policy stops a redirect that leaves the target's folder, whether to another
    /// folder or to another origin. The response is then the redirect itself. All other redirects
    /// are left to `otherwise`.
    ///
    /// It also stops a redirect back to the first URL. The middleware could not detect such a
    /// redirect, and might replay a request that must not be replayed.
    ///
    /// Set it on every client that uses this middleware and is not built by
    /// [`into_client`](Self::into_client). By default, reqwest removes `Authorization` from a
    /// request that is redirected to another origin, but it adds the header again if that origin
    /// redirects once more (seen with 0.13.5). It never removes `sc_apikey`. Without this policy, a
    /// redirect to another origin and back again goes unnoticed too, because reqwest keeps no
    /// history. A CM redirects to the identity provider when it requires an interactive login.
    ///
    /// The policy sees no headers. So it also stops the redirects of requests with [`NoAuth`] or
    /// with a credential of the caller's own. Policies of several middlewares nest:
    ///
    /// ```
    /// # use sitecore_auth::AuthMiddleware;
    /// # fn example(deploy: AuthMiddleware, edge: AuthMiddleware) -> reqwest::Result<reqwest_middleware::ClientWithMiddleware> {
    /// use reqwest::redirect::Policy;
    ///
    /// let policy = deploy.redirect_policy(edge.redirect_policy(Policy::default()));
    /// let http = reqwest::Client::builder().redirect(policy).build()?;
    /// Ok(reqwest_middleware::ClientBuilder::new(http).with(deploy).with(edge).build())
    /// # }
    /// ```
    #[must_use]
    pub fn redirect_policy(&self, otherwise: Policy) -> Policy {
        redirect::redirect_policy(Arc::clone(&self.apis), otherwise)
    }

    /// Returns the cache that this middleware takes its tokens from.
    #[must_use]
    pub fn cache(&self) -> &TokenCache {
        &self.cache
    }

    fn api_for(&self, url: &Url) -> Option<&Api> {
        self.apis.iter().find(|api| api.rule.covers(url))
    }

    /// Sends a request without a token of ours.
    fn pass_on<'all>(
        &'all self,
        request: Request,
        extensions: &'all mut Extensions,
        next: Next<'all>,
        why: Why,
    ) -> BoxFuture<'all, reqwest_middleware::Result<Response>> {
        let is_unmatched = matches!(why, Why::NoTarget);
        if is_unmatched && self.require_target {
            let origin = request.url().origin().ascii_serialization();
            let targets = unauthenticated::names(self.apis.iter());
            let message = format!(
                "a request to {origin} is outside the targets of this middleware ({targets}); add a target for its URL, or set NoAuth on the request"
            );
            let error = Error::new(ErrorKind::Config, message).outside_targets();
            return Box::pin(async { Err(reqwest_middleware::Error::middleware(error)) });
        }
        let is_logged = is_unmatched && enabled!(Level::DEBUG);
        let is_watched = is_watched(request.url(), &self.apis);
        if !is_logged && !is_watched {
            return next.run(request, extensions);
        }
        // Logged inside the future, so that the event belongs to the caller's span.
        Box::pin(async move {
            if is_logged {
                log_unmatched(request.url());
            }
            if !is_watched {
                return next.run(request, extensions).await;
            }
            let (apis, rejections) = (&self.apis, &self.rejections);
            self.warned.send_and_check(request, extensions, next, why, apis, rejections).await
        })
    }
}

/// Returns `true` if a request carries a credential of the caller's own.
fn has_own_credential(request: &Request) -> bool {
    // In a call to the Token API, this header names the key that the call is about.
    let is_subject =
        |name: &HeaderName| *name == GRAPHQL_KEY && Target::is_token_api(request.url());
    // Requests have few headers, so comparing each one is cheaper than hashing the names.
    let mut names = request.headers().keys();
    names.any(|name| CREDENTIAL_HEADERS.contains(name) && !is_subject(name))
        || request.url().query().is_some_and(|query| {
            let mut parameters = url::form_urlencoded::parse(query.as_bytes());
            parameters.any(|(name, _)| {
                CREDENTIAL_PARAMETERS.iter().any(|known| name.eq_ignore_ascii_case(known))
            })
        })
}

impl Middleware for AuthMiddleware {
    // Written by hand instead of with `async_trait`: a request that matches no target needs no box,
    // and the future of the others holds the request once instead of twice.
    fn handle<'this, 'extensions, 'next, 'all>(
        &'this self,
        mut request: Request,
        extensions: &'extensions mut Extensions,
        next: Next<'next>,
    ) -> BoxFuture<'all, reqwest_middleware::Result<Response>>
    where
        'this: 'all,
        'extensions: 'all,
        'next: 'all,
        Self: 'all,
    {
        if extensions.get::<NoAuth>().is_some() {
            return next.run(request, extensions);
        }
        if has_own_credential(&request) {
            return self.pass_on(request, extensions, next, Why::OwnCredential);
        }
        let Some(api) = self.api_for(request.url()) else {
            return self.pass_on(request, extensions, next, Why::NoTarget);
        };
        Box::pin(async move {
            let own = extensions.get::<TokenCache>().cloned();
            let cache = own.as_ref().unwrap_or(&self.cache);
            let deadline = Deadline::of(&request, cache);
            // `current` would start a refresh for an expired or missing token too. That refresh
            // could fail before this caller waits for it, and so cost another one.
            let token = match cache.usable() {
                Some(token) => api.choose(token, cache),
                None => {
                    let token = deadline.limit(cache.token(), cache).await;
                    deadline.apply(&mut request, cache);
                    token.map_err(reqwest_middleware::Error::middleware)?
                }
            };
            let name = token.header().0;
            if *name != AUTHORIZATION && request.headers().contains_key(name) {
                // The caller has set a key of their own.
                return next.run(request, extensions).await;
            }
            if MIDDLEWARES.load(Relaxed) > 1 {
                extensions.insert(Handled);
            }
            let may_replay = extensions.get().map_or(self.replay, |Replay(replay)| *replay);
            let replay = if may_replay { request.try_clone().map(Box::new) } else { None };
            authenticate(&mut request, &token);
            let mut response = next.clone().run(request, extensions).await?;
            if !api.rule.covers(response.url()) {
                // The request was redirected. The token was not meant for that server, so its
                // response says nothing about the token.
                api.warn_of_redirect(response.url());
                return Ok(response);
            }
            if !self.rejections.could_reject(&response) {
                api.note_response(&mut response, &token, cache);
                return Ok(response);
            }
            let rejections = &*self.rejections;
            let attempt = Attempt { api, cache, rejections, deadline, token, replay };
            // Boxed, because this rare case would enlarge the future of every request.
            Box::pin(attempt.handle_response(response, extensions, next)).await
        })
    }
}

/// The path is left out, because it may contain a secret.
fn log_unmatched(url: &Url) {
    debug!(origin = url.origin().ascii_serialization(), "request matched no target");
}
