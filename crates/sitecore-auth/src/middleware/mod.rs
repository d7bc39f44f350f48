//! The layer: puts the token on requests for its targets, and replaces it once if it is refused.
//!
//! How a token is come by is the cache's business; where it may go is `target`'s; what becomes of an answer is
//! `sent`'s, and what it says about the token the business of `rejections`, which asks `challenge` and `graphql`.

pub(crate) mod challenge;
mod deadline;
pub(crate) mod graphql;
mod look_ahead;
mod redirect;
mod rejections;
mod sent;
mod target;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{Extensions, header::AUTHORIZATION};
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next};
use sitecore_token::{ClientCredentials, TokenClient};
use tracing::{Level, debug, enabled};
use url::Url;

use self::{
    deadline::Deadline,
    sent::{Sent, authenticate, explain_if_forbidden, warn_of_redirect},
    target::Rule,
};
pub use self::{redirect::redirect_policy, rejections::Rejections, target::Target};
use crate::{Error, ErrorKind, Result, TokenCache, edge::API_KEY};

/// A [`reqwest_middleware::Middleware`] that authenticates the requests for its targets.
///
/// A request is passed on untouched if it is for no target, or if it carries `Authorization` or
/// `sc_apikey` already: several layers with credentials of their own can stand on one client. A key of
/// the caller's own in another header, which this layer's tokens go into, is left alone too, once a token
/// is there; layers whose tokens go into different other headers do not see each other. Headers from
/// reqwest's `default_headers` are added below every layer: they are not seen here, and the header set
/// here wins over them.
///
/// A request that carries a [`TokenCache`] as an extension
/// ([`with_extension`](reqwest_middleware::RequestBuilder::with_extension)) gets its token from that
/// one, under the same targets.
///
/// A request that carries [`NoAuth`] is passed on untouched.
///
/// Among other layers: reqwest-retry belongs outside (added before this one), so that each attempt has a fresh
/// header, and wants a strategy that looks into this layer's errors, which it takes as fatal otherwise.
/// reqwest-tracing may stand on either side.
///
/// A request's own `timeout()` is one deadline for the wait for a token, the request and its replay;
/// a timeout set on the whole client is not seen here, and counts for each of them.
///
/// An answer that refuses the token (see [`Rejections`]) has the token replaced, by one grant for all such
/// answers, and the request is sent once more, if its body can be cloned. The second answer is final. If
/// there is no other token, the body is a stream, or the request was redirected and might do its work twice,
/// the first answer goes back as it came, and the next call has the new token.
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
    targets: Arc<[Target]>,
    rejections: Arc<Rejections>,
    replay: bool,
}

/// A request extension: the layer leaves this request alone.
///
/// ```
/// # fn example(client: reqwest_middleware::ClientWithMiddleware) {
/// let request = client.get("https://edge.sitecorecloud.io/healthz").with_extension(sitecore_auth::NoAuth);
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing to add: it is its own name")]
pub struct NoAuth;

/// A request extension: whether this request is sent once more if its token is refused, whatever the layer
/// does by default ([`AuthMiddlewareBuilder::replay`]).
///
/// ```
/// # fn example(client: reqwest_middleware::ClientWithMiddleware) {
/// let deployments = "https://xmclouddeploy-api.sitecorecloud.io/api/deployments/v1";
/// let request = client.post(deployments).with_extension(sitecore_auth::Replay(false));
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a switch has one part")]
pub struct Replay(pub bool);

impl AuthMiddleware {
    /// Makes a layer that gets its tokens from Sitecore Cloud with these credentials.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the credentials are empty, or there is no target: a token goes
    /// only where the program says.
    pub fn new(
        credentials: ClientCredentials,
        targets: impl IntoIterator<Item = Target>,
    ) -> Result<Self> {
        let cache = TokenCache::new(TokenClient::new(credentials)?);
        let builder = targets.into_iter().fold(Self::builder(cache), AuthMiddlewareBuilder::target);
        builder.build()
    }

    /// Starts a layer in front of a cache.
    pub fn builder(cache: TokenCache) -> AuthMiddlewareBuilder {
        AuthMiddlewareBuilder {
            cache,
            targets: Vec::new(),
            rejections: Rejections::default(),
            replay: true,
        }
    }

    /// Returns the cache that this layer takes its tokens from.
    #[must_use]
    pub fn cache(&self) -> &TokenCache {
        &self.cache
    }

    fn rule_for(&self, url: &Url) -> Option<&Rule> {
        self.targets.iter().find_map(|target| target.rule_for(url))
    }
}

/// Tells whether a request carries a header of the caller's own, or wants none.
fn is_left_alone(request: &Request, extensions: &Extensions) -> bool {
    // A request has few headers: to look at each costs less than to hash two names.
    let mut names = request.headers().keys();
    names.any(|name| *name == AUTHORIZATION || *name == API_KEY)
        || extensions.get::<NoAuth>().is_some()
}

impl Middleware for AuthMiddleware {
    // By hand, as `async_trait` would write it, but for two things: a request that is none of ours costs no box, and
    // the others' future holds the request once instead of twice.
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
        if is_left_alone(&request, extensions) {
            return next.run(request, extensions);
        }
        let Some(rule) = self.rule_for(request.url()) else {
            if !enabled!(Level::DEBUG) {
                return next.run(request, extensions);
            }
            // Within the future, and so within the span of whoever awaits it.
            return Box::pin(async move {
                say_untargeted(request.url());
                next.run(request, extensions).await
            });
        };
        Box::pin(async move {
            let own = extensions.get::<TokenCache>().cloned();
            let cache = own.as_ref().unwrap_or(&self.cache);
            let deadline = Deadline::of(&request, cache);
            let token = match cache.current() {
                Some(token) => token,
                None => {
                    let token = deadline.bound(cache.token(), cache).await;
                    deadline.shorten(&mut request, cache);
                    token.map_err(reqwest_middleware::Error::middleware)?
                }
            };
            let name = token.header().0;
            if *name != AUTHORIZATION && request.headers().contains_key(name) {
                // A key of the caller's own, in the header that this cache's keys go into.
                return next.run(request, extensions).await;
            }
            let replay = extensions.get().map_or(self.replay, |Replay(replay)| *replay);
            let again = if replay { request.try_clone().map(Box::new) } else { None };
            authenticate(&mut request, &token);
            let answer = next.clone().run(request, extensions).await?;
            if !rule.covers(answer.url()) {
                // After a redirect. The answer says nothing about the token, which was not meant for there.
                warn_of_redirect(rule, answer.url());
                return Ok(answer);
            }
            if !self.rejections.may_refuse(&answer) {
                explain_if_forbidden(&answer, &token, rule);
                return Ok(answer);
            }
            let sent = Sent { rule, token, cache, deadline, again };
            // Boxed, as all that seldom happens: each request's future would be the larger for it.
            Box::pin(sent.judge(answer, &self.rejections, extensions, next)).await
        })
    }
}

fn say_untargeted(url: &Url) {
    let (scheme, host, path) = (url.scheme(), url.host_str(), url.path());
    debug!(scheme, host, path, "no target of this layer covers this request");
}

/// Settings of an [`AuthMiddleware`].
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

    /// Sets which answers say that the token is no good.
    pub fn rejections(mut self, rejections: Rejections) -> Self {
        self.rejections = rejections;
        self
    }

    /// Sets whether a request whose token was refused is sent once more with another; on by default.
    /// Off saves the copy of each request. The refused token is replaced either way.
    pub fn replay(mut self, replay: bool) -> Self {
        self.replay = replay;
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if there is no target.
    pub fn build(self) -> Result<AuthMiddleware> {
        let Self { cache, targets, rejections, replay } = self;
        if targets.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "no target: say where the token may go, for example Target::authoring(host)",
            ));
        }
        Ok(AuthMiddleware { cache, targets: targets.into(), rejections: rejections.into(), replay })
    }
}
