//! The APIs that a proxy serves. They are fixed when it starts.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use http::Extensions;
use reqwest::{Request, Response, redirect::Policy};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use sitecore_auth::{AuthMiddleware, TokenCache};
use tokio::time::Instant;
use url::Url;

use super::{body::IDLE_TIME, rewrite::Place};
use crate::{
    api::origin,
    args::Api,
    failure::{Failure, Kind, Result},
};

#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) api: Api,
    /// Where the proxy offers it: `/deploy`, or nothing if it is the only one.
    pub(crate) prefix: String,
    /// Its origin, with the path `/`.
    pub(crate) origin: Url,
    /// The path of its GraphQL endpoint, if it has one.
    pub(crate) endpoint: Option<String>,
    pub(crate) client: ClientWithMiddleware,
    pub(crate) cache: TokenCache,
    /// Where its credentials come from.
    pub(crate) source: String,
}

impl Upstream {
    pub(crate) fn new(
        api: Api,
        url: &Url,
        cache: TokenCache,
        source: String,
        is_only: bool,
    ) -> Result<Self> {
        let auth = AuthMiddleware::builder(cache.clone()).target(api.target(url)?);
        let auth = auth.require_target(true).build()?;
        // A redirect is for the caller to follow. The total time is not limited.
        let http = reqwest::Client::builder().redirect(Policy::none()).read_timeout(IDLE_TIME);
        let http = http.no_gzip().no_brotli().no_zstd().no_deflate();
        let http = if sitecore_token::is_loopback(url) { http.no_proxy() } else { http };
        let http = http.build().map_err(|error| {
            Failure::new(Kind::Unexpected, format!("cannot create an HTTP client: {error}"))
        })?;
        let endpoint = matches!(api, Api::Authoring | Api::Delivery).then(|| url.path().to_owned());
        Ok(Self {
            api,
            prefix: if is_only { String::new() } else { format!("/{}", api.name()) },
            origin: origin(url),
            endpoint,
            client: ClientBuilder::new(http).with(auth).with(Watch).build(),
            cache,
            source,
        })
    }

    /// Returns the path at the API that this path at the proxy stands for, if it is for this API.
    /// The folder itself stands for the GraphQL endpoint, if there is one.
    pub(crate) fn path<'a>(&'a self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(&*self.prefix)?;
        match (rest, &self.endpoint) {
            ("" | "/", Some(endpoint)) => Some(endpoint),
            ("", None) => Some("/"),
            _ => rest.starts_with('/').then_some(rest),
        }
    }

    /// Returns where callers that reach the proxy by this host find the API.
    pub(crate) fn place(&self, host: &str) -> Place {
        Place { origin: self.origin.clone(), proxied: format!("http://{host}{}", self.prefix) }
    }

    pub(crate) fn url(&self, path: &str, query: Option<&str>) -> Url {
        let mut url = self.origin.clone();
        url.set_path(path);
        url.set_query(query);
        url
    }
}

/// When a request was first sent to the API, and how many times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent(Arc<SentState>);

#[derive(Debug, Default)]
struct SentState {
    count: AtomicU32,
    first: OnceLock<Instant>,
}

impl Sent {
    pub(crate) fn is_replayed(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > 1
    }

    /// Returns when it was sent first, if it was.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.0.first.get().copied()
    }
}

/// A middleware behind the one that adds the token.
struct Watch;

#[async_trait]
impl Middleware for Watch {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        if let Some(Sent(state)) = extensions.get() {
            state.count.fetch_add(1, Ordering::Relaxed);
            state.first.get_or_init(Instant::now);
        }
        next.run(request, extensions).await
    }
}
