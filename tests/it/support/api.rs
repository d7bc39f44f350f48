//! An API whose answers the test makes, frame by frame: what a mock server cannot do.

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

/// Speaks HTTP/1.1 and HTTP/2, in clear text on loopback.
pub(crate) struct Api {
    origin: Url,
    bearers: Arc<Mutex<Vec<String>>>,
    _server: JoinSet<()>,
}

impl Api {
    /// Answers each request as `answer` says, which is given the bearer token.
    pub(crate) async fn start(
        answer: impl Fn(&str, &Request) -> Response<Body> + Clone + Send + Sync + 'static,
    ) -> Self {
        let bearers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&bearers);
        let router = Router::new().fallback(move |request: Request| {
            let header = request.headers().get(AUTHORIZATION);
            let bearer = header.map_or("", |value| value.to_str().unwrap());
            let bearer = bearer.trim_start_matches("Bearer ");
            seen.lock().unwrap().push(bearer.to_owned());
            let answer = answer(bearer, &request);
            async { answer }
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

    /// Where the Authoring API would be.
    pub(crate) fn authoring(&self) -> Url {
        self.origin.join("/sitecore/api/authoring/graphql/v1/").unwrap()
    }

    /// The bearer token of each request so far; an empty one for none.
    pub(crate) fn bearers(&self) -> Vec<String> {
        self.bearers.lock().unwrap().clone()
    }
}

/// A body of these frames, of unknown length.
pub(crate) fn frames(frames: impl Stream<Item = Frame<Bytes>> + Send + 'static) -> Body {
    use futures_util::StreamExt as _;
    Body::new(StreamBody::new(frames.map(Ok::<_, Infallible>)))
}
