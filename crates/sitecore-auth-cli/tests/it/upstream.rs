//! An API that shows what it gets, and streams.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{any, get, post},
};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime};

/// It runs until its runtime is dropped.
pub(crate) struct EchoApi {
    pub(crate) address: SocketAddr,
    /// The bytes that it has received in uploads.
    pub(crate) received: Arc<AtomicU64>,
    /// The requests that it has received.
    pub(crate) requests: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Counters {
    received: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
    address: SocketAddr,
}

impl EchoApi {
    pub(crate) fn start(runtime: &Runtime) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Counters { received: Arc::default(), requests: Arc::default(), address };
        let (received, requests) = (counters.received.clone(), counters.requests.clone());
        let router = Router::new()
            .route("/api/upload", post(upload))
            .route("/api/download", get(download))
            .route("/api/events", get(events))
            .route("/api/redirect", get(redirect))
            .route("/api/hang", get(hang))
            .fallback(any(echo))
            .with_state(counters);
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, received, requests }
    }

    pub(crate) fn count(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Returns the request, and headers that a caller must not see.
async fn echo(State(counters): State<Counters>, request: Request) -> Response {
    counters.requests.fetch_add(1, Ordering::SeqCst);
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 24).await.unwrap();
    let object = json!({
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "headers": headers(&parts.headers),
        "length": body.len(),
        "body": String::from_utf8_lossy(&body[..body.len().min(1_000)]),
    });
    let mut response = Json(object).into_response();
    for (name, value) in [
        ("set-cookie", "session=1"),
        ("access-control-allow-origin", "*"),
        ("connection", "x-internal"),
        ("x-internal", "1"),
        ("x-kept", "1"),
    ] {
        let name = HeaderName::from_static(name);
        response.headers_mut().append(name, HeaderValue::from_static(value));
    }
    response
}

fn headers(headers: &HeaderMap) -> Value {
    let pairs = headers.iter().map(|(name, value)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    pairs.collect()
}

async fn upload(State(counters): State<Counters>, body: Body) -> Json<Value> {
    let mut stream = body.into_data_stream();
    let mut length = 0_u64;
    while let Some(Ok(chunk)) = stream.next().await {
        length += chunk.len() as u64;
        counters.received.fetch_add(chunk.len() as u64, Ordering::SeqCst);
    }
    Json(json!({ "length": length }))
}

/// 200 MB.
async fn download() -> Body {
    let chunk = Bytes::from(vec![7; 1_000_000]);
    Body::from_stream(stream::iter((0..200).map(move |_| Ok::<_, Infallible>(chunk.clone()))))
}

/// Three events, half a second apart.
async fn events() -> Response {
    let events = stream::iter(0..3).then(|number| async move {
        if number > 0 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok::<_, Infallible>(format!("data: {number}\n\n"))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

async fn redirect(State(counters): State<Counters>, request: Request) -> Response {
    let to = match request.uri().query() {
        Some("elsewhere") => "https://elsewhere.example/x".to_owned(),
        Some("relative") => "other".to_owned(),
        _ => format!("http://{}/api/target?a=1", counters.address),
    };
    (StatusCode::FOUND, [(header::LOCATION, to)]).into_response()
}

async fn hang(State(counters): State<Counters>) {
    counters.requests.fetch_add(1, Ordering::SeqCst);
    std::future::pending::<()>().await;
}
