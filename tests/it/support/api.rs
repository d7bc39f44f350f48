//! An API whose responses the test builds frame by frame, which a mock server cannot do.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body, extract::Request};
use bytes::Bytes;
use futures_util::Stream;
use http::{Response, header::AUTHORIZATION};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::{net::TcpListener, task::JoinSet};
use url::Url;

/// Serves HTTP/1.1 and HTTP/2 in clear text on loopback.
pub(crate) struct TestApi {
    origin: Url,
    bearers: Arc<Mutex<Vec<String>>>,
    _server: JoinSet<()>,
}

impl TestApi {
    /// Starts an API that responds with what `respond` returns for a bearer token and its request.
    pub(crate) async fn start(
        respond: impl Fn(&str, &Request) -> Response<Body> + Clone + Send + Sync + 'static,
    ) -> Self {
        let bearers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&bearers);
        let router = Router::new().fallback(move |request: Request| {
            let header = request.headers().get(AUTHORIZATION);
            let bearer = header.map_or("", |value| value.to_str().unwrap());
            let bearer = bearer.trim_start_matches("Bearer ");
            seen.lock().unwrap().push(bearer.to_owned());
            let response = respond(bearer, &request);
            async { response }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            origin: format!("http://127.0.0.1:{port}").parse().unwrap(),
            bearers,
            _server: server,
        }
    }

    pub(crate) fn origin(&self) -> &Url {
        &self.origin
    }

    /// Returns the URL at which the Authoring API would be.
    pub(crate) fn authoring(&self) -> Url {
        self.origin.join("/sitecore/api/authoring/graphql/v1/").unwrap()
    }

    /// Returns the bearer token of each request so far, or an empty string if it had none.
    pub(crate) fn bearers(&self) -> Vec<String> {
        self.bearers.lock().unwrap().clone()
    }
}

/// Returns a body that consists of these frames and does not know its length.
pub(crate) fn frames(frames: impl Stream<Item = Frame<Bytes>> + Send + 'static) -> Body {
    use futures_util::StreamExt as _;
    Body::new(StreamBody::new(frames.map(Ok::<_, Infallible>)))
}
