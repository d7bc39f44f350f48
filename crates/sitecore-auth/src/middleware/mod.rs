//! The middleware: adds the token to requests for its targets, and replaces it once if it is
//! rejected.
//!
//! The cache provides the token, and `target` decides where it may be sent. `sent` handles the
//! response. `rejection` decides whether a response rejects the token, with the help of
//! `www_authenticate` and `graphql`.

mod api;
mod deadline;
pub(crate) mod graphql;
mod look_ahead;
mod redirect;
mod rejection;
mod sent;
pub(crate) mod www_authenticate;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{Extensions, header::AUTHORIZATION};
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next};
use sitecore_token::{ClientCredentials, TokenClient};
use tracing::{Level, debug, enabled};
use url::Url;

use self::{
    api::Api,
    deadline::Deadline,
    sent::{Sent, authenticate, note_accepted, warn_of_redirect},
};
pub use self::{redirect::redirect_policy, rejection::Rejections};
use crate::{
    cache::TokenCache,
    error::{Error, ErrorKind, Result},
    target::{API_KEY, Target},
};

/// A `reqwest-middleware` [`Middleware`] that authenticates the requests for its targets.
///
/// # Which requests get a token
///
/// A request is passed on unchanged if it matches no target, if it carries [`NoAuth`], or if it
/// already has an `Authorization` or `sc_apikey` header. Several middlewares with different
/// credentials can therefore be added to one client. A request that already has the header that
/// this cache's tokens use is passed on unchanged too. The middleware does not notice other custom
/// headers.
///
/// reqwest adds its `default_headers` after all middleware. They are not seen here, and a header
/// that is set here takes precedence over them.
///
/// A request that carries a [`TokenCache`] as an extension
/// ([`with_extension`](reqwest_middleware::RequestBuilder::with_extension)) gets its token from
/// that cache. The targets stay the same.
///
/// # Rejected tokens
///
/// If a response rejects the token (see [`Rejections`]), the token is replaced, once for all such
/// responses. The request is then replayed once, provided its body can be cloned. The second
/// response is final.
///
/// The first response is returned unchanged if there is no other token, if replay is off, if the
/// body is a stream, or if a replay might repeat work. If the token was replaced, the next request
/// uses the new one.
///
/// # Timeouts
///
/// A request's own `timeout()` covers the wait for a token, the request and the replay together. A
/// timeout set on the reqwest client is not visible here. It limits the request and the replay
/// separately, and not the wait for a token.
///
/// # Other middleware
///
/// Add reqwest-retry before (outside) this middleware, so that each attempt gets a current token.
/// It treats errors of a middleware as fatal, unless its strategy looks into them. reqwest-tracing
/// can be added before or after.
///
/// ```
/// # fn main() -> Result<(), sitecore_auth::Error> {
/// use sitecore_auth::{AuthMiddleware, ClientCredentials, Target};
///
/// let credentials = ClientCredentials::new("id", "secret");
/// let auth = AuthMiddleware::new(credentials, [Target::deploy()])?;
/// let http = reqwest::Client::builder().redirect(sitecore_auth::redirect_policy()).build().unwrap();
/// let client = reqwest_middleware::ClientBuilder::new(http).with(auth).build();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AuthMiddleware {
    cache: TokenCache,
    apis: Arc<[Api]>,
    rejections: Arc<Rejections>,
    replay: bool,
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
    /// [`Config`](ErrorKind::Config) if the credentials are empty, or if there is no target.
    pub fn new(
        credentials: ClientCredentials,
        targets: impl IntoIterator<Item = Target>,
    ) -> Result<Self> {
        let cache = TokenCache::new(TokenClient::new(credentials)?);
        let builder = targets.into_iter().fold(Self::builder(cache), AuthMiddlewareBuilder::target);
        builder.build()
    }

    /// Returns a builder for a middleware that takes its tokens from this cache.
    pub fn builder(cache: TokenCache) -> AuthMiddlewareBuilder {
        AuthMiddlewareBuilder {
            cache,
            targets: Vec::new(),
            rejections: Rejections::default(),
            replay: true,
        }
    }

    /// Returns the cache that this middleware takes its tokens from.
    #[must_use]
    pub fn cache(&self) -> &TokenCache {
        &self.cache
    }

    fn api_for(&self, url: &Url) -> Option<&Api> {
        self.apis.iter().find(|api| api.rule.covers(url))
    }
}

/// Returns `true` if a request carries a credential of the caller's own, or opts out.
fn opts_out(request: &Request, extensions: &Extensions) -> bool {
    // Requests have few headers, so comparing each one is cheaper than hashing two names.
    let mut names = request.headers().keys();
    names.any(|name| *name == AUTHORIZATION || *name == API_KEY)
        || extensions.get::<NoAuth>().is_some()
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
        if opts_out(&request, extensions) {
            return next.run(request, extensions);
        }
        let Some(api) = self.api_for(request.url()) else {
            if !enabled!(Level::DEBUG) {
                return next.run(request, extensions);
            }
            // Logged inside the future, so that the event belongs to the caller's span.
            return Box::pin(async move {
                log_untargeted(request.url());
                next.run(request, extensions).await
            });
        };
        Box::pin(async move {
            let own = extensions.get::<TokenCache>().cloned();
            let cache = own.as_ref().unwrap_or(&self.cache);
            let deadline = Deadline::of(&request, cache);
            let token = match cache.current() {
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
            let may_replay = extensions.get().map_or(self.replay, |Replay(replay)| *replay);
            let replay = if may_replay { request.try_clone().map(Box::new) } else { None };
            authenticate(&mut request, &token);
            let response = next.clone().run(request, extensions).await?;
            if !api.rule.covers(response.url()) {
                // The request was redirected. The token was not meant for that server, so its
                // response says nothing about the token.
                warn_of_redirect(&api.rule, response.url());
                return Ok(response);
            }
            if !self.rejections.could_reject(&response) {
                note_accepted(&response, &token, api, cache);
                return Ok(response);
            }
            let sent = Sent { api, token, cache, deadline, replay };
            // Boxed like everything rare, because it would enlarge the future of every request.
            Box::pin(sent.handle_response(response, &self.rejections, extensions, next)).await
        })
    }
}

fn log_untargeted(url: &Url) {
    let (scheme, host, path) = (url.scheme(), url.host_str(), url.path());
    debug!(scheme, host, path, "request matched no target");
}

/// Builder for an [`AuthMiddleware`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct AuthMiddlewareBuilder {
    cache: TokenCache,
    targets: Vec<Target>,
    rejections: Rejections,
    replay: bool,
}

impl AuthMiddlewareBuilder {
    /// Adds a target. At least one is needed.
    pub fn target(mut self, target: Target) -> Self {
        self.targets.push(target);
        self
    }

    /// Sets which responses count as rejecting the token.
    pub fn rejections(mut self, rejections: Rejections) -> Self {
        self.rejections = rejections;
        self
    }

    /// Sets whether a request is replayed if its token is rejected; `true` by default. The rejected
    /// token is replaced in any case. `false` saves the copy of each request.
    pub fn replay(mut self, replay: bool) -> Self {
        self.replay = replay;
        self
    }

    /// Builds the middleware.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if there is no target.
    pub fn build(self) -> Result<AuthMiddleware> {
        let Self { cache, targets, rejections, replay } = self;
        if targets.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "no target configured; add one, for example Target::authoring(host)",
            ));
        }
        let apis = targets.into_iter().flat_map(Target::into_rules).map(Api::new).collect();
        Ok(AuthMiddleware { cache, apis, rejections: rejections.into(), replay })
    }
}
