//! A response is the same with the middleware as with a bare client: head, body, trailers and
//! errors. All requests go to the path whose responses are inspected.

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use axum::{body::Body, extract::Request};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use reqwest::{Client, Method};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use sha2::{Digest as _, Sha256};
use sitecore_auth::{AuthMiddleware, Target, Token, TokenCache, source_fn};
use url::Url;

use crate::support::{AfterWrite, DAY, RawServer, TestApi, frames};

const DATA: &str = r#"{"data":{"item":{"name":"Home"}}}"#;
const ERRORS: &str = r#"{"errors":[{"message":"m","extensions":{"code":"OTHER"}}],"data":null}"#;
const REJECTION: &str = r#"{"errors":[{"message":"m","path":["a"],"extensions":{"code":"AUTH_NOT_AUTHENTICATED"}}],"data":{"a":null}}"#;

/// A client with the middleware. It never replays, so that rejections are returned too.
fn client_with_auth(http: Client, origin: &Url) -> ClientWithMiddleware {
    let source = source_fn(|_| async { Token::bearer("token", DAY) });
    let auth = AuthMiddleware::builder(TokenCache::new(source))
        .target(Target::origin(origin.clone()).unwrap())
        .replay(false);
    ClientBuilder::new(http).with(auth.build().unwrap()).build()
}

/// The body and the additional headers of a case.
fn body_for(case: &str) -> (Body, &'static [(&'static str, &'static str)]) {
    let chunks = |text: &'static str| {
        let chunks: Vec<_> =
            text.as_bytes().chunks(5).map(|chunk| Frame::data(Bytes::from_static(chunk))).collect();
        stream::iter(chunks)
    };
    let trailers = || {
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]);
        stream::iter([Frame::trailers(trailers)])
    };
    let gzip = || {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(ERRORS.as_bytes()).unwrap();
        Body::from(encoder.finish().unwrap())
    };
    match case {
        "data" => (DATA.into(), &[]),
        "errors" => (ERRORS.into(), &[]),
        "rejection" => (REJECTION.into(), &[]),
        "empty" => (Body::empty(), &[]),
        "chunked-data" => (frames(chunks(DATA)), &[]),
        "chunked-errors" => (frames(chunks(ERRORS)), &[]),
        "chunked-rejection" => (frames(chunks(REJECTION)), &[]),
        "chunked-empty" => (frames(stream::empty()), &[]),
        "trailers-data" => (frames(chunks(DATA).chain(trailers())), &[("trailer", "x-sum")]),
        "trailers-rejection" => {
            (frames(chunks(REJECTION).chain(trailers())), &[("trailer", "x-sum")])
        }
        "trailers-open" => {
            (frames(chunks("{\"errors\":[").chain(trailers())), &[("trailer", "x-sum")])
        }
        "gzip" => (gzip(), &[("content-encoding", "gzip")]),
        "large" => (Body::from(DATA.repeat(10_000)), &[]),
        other => panic!("no case {other}"),
    }
}

const CASES: [&str; 13] = [
    "data",
    "errors",
    "rejection",
    "empty",
    "chunked-data",
    "chunked-errors",
    "chunked-rejection",
    "chunked-empty",
    "trailers-data",
    "trailers-rejection",
    "trailers-open",
    "gzip",
    "large",
];

fn respond(request: &Request) -> Response<Body> {
    let (body, headers) = body_for(request.uri().query().unwrap());
    let response =
        Response::builder().header("content-type", "application/json").header("x-own", "kept");
    let response =
        headers.iter().fold(response, |response, (name, value)| response.header(*name, *value));
    response.body(body).unwrap()
}

/// Everything that a caller can observe of a response.
async fn observe(response: reqwest::Response) -> BTreeMap<&'static str, String> {
    let length = response.content_length();
    let mut headers: Vec<_> =
        response.headers().iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
    headers.retain(|header| !header.starts_with("date"));
    headers.sort();
    let mut observed = BTreeMap::from([
        ("url", response.url().to_string()),
        ("status", format!("{:?} {:?}", response.status(), response.version())),
        ("headers", headers.join("\n")),
        ("remote", format!("{:?}", response.remote_addr())),
        ("length", format!("{length:?}")),
        ("extensions", response.extensions().len().to_string()),
    ]);
    let mut body = Response::<reqwest::Body>::from(response).into_body();
    let (mut data, mut end) = (Vec::new(), body.is_end_stream().to_string());
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => data.extend_from_slice(&bytes),
            Ok(Err(trailers)) => end += &format!("{:?}", trailers.into_trailers()),
            Err(error) => {
                end += &format!("{} {}", error.is_body(), error.is_timeout());
                break;
            }
        }
    }
    end += &body.is_end_stream().to_string();
    observed.insert("data", String::from_utf8(data).unwrap());
    observed.insert("end", end);
    observed
}

#[tokio::test]
async fn a_response_is_the_same_as_with_a_bare_client() {
    let api = TestApi::start(|_, request| respond(request)).await;
    let plain = Client::builder();
    for (version, http) in [("1.1", plain), ("2", Client::builder().http2_prior_knowledge())] {
        let http = http.build().unwrap();
        let with_auth = client_with_auth(http.clone(), api.origin());
        for case in CASES {
            for method in [Method::GET, Method::HEAD, Method::POST] {
                let url = format!("{}?{case}", api.authoring());
                let bare =
                    http.request(method.clone(), &url).bearer_auth("own").header("te", "trailers");
                let bare = observe(bare.send().await.unwrap()).await;
                let ours = with_auth.request(method.clone(), &url).header("te", "trailers");
                let ours = observe(ours.send().await.unwrap()).await;
                assert_eq!(ours, bare, "{case} {method} over HTTP/{version}");
                if case.starts_with("trailers") && method != Method::HEAD {
                    assert!(bare["end"].contains("x-sum"), "no trailers arrived: {bare:?}");
                }
            }
        }
    }
    assert_eq!(
        api.bearers().iter().filter(|bearer| *bearer == "token").count(),
        2 * 3 * CASES.len()
    );
}

#[tokio::test]
async fn an_interrupted_body_ends_where_it_does_without_the_middleware() {
    for (head, then) in [
        ("content-length: 4000", AfterWrite::Close),
        ("content-length: 4000", AfterWrite::Reset),
        ("transfer-encoding: chunked", AfterWrite::Close),
        ("content-length: 4000", AfterWrite::Hang),
    ] {
        for text in [&REJECTION[..40], DATA] {
            let body = if head.starts_with('t') {
                format!("{:x}\r\n{text}\r\n", text.len())
            } else {
                text.to_owned()
            };
            let bytes = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{head}\r\n\r\n{body}"
            );
            let server = RawServer::start(bytes, then).await;
            let origin: Url = format!("http://127.0.0.1:{}", server.port()).parse().unwrap();
            let url = origin.join("/sitecore/api/authoring/graphql/v1/").unwrap();
            let http = Client::builder().read_timeout(Duration::from_millis(300)).build().unwrap();
            let bare =
                observe(http.get(url.clone()).bearer_auth("own").send().await.unwrap()).await;
            let ours =
                observe(client_with_auth(http, &origin).get(url).send().await.unwrap()).await;
            let without_port = |mut observed: BTreeMap<&'static str, String>| {
                observed.remove("remote");
                observed
            };
            assert_eq!(without_port(ours), without_port(bare.clone()), "{head} {text}");
            assert!(bare["end"].contains("true "), "no error: {bare:?}");
        }
    }
}

#[tokio::test]
async fn fifty_megabytes_are_passed_through_byte_for_byte() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 50 * 1024 * 1024 / CHUNK;
    let chunk = |number: usize| match number {
        // It begins like a rejection, but does not end like one.
        0 => Bytes::from_static(br#"{"errors":[{"message":""#),
        _ => Bytes::from(vec![b'a' + u8::try_from(number % 26).unwrap(); CHUNK]),
    };
    let api = TestApi::start(move |_, _| {
        let body = frames(stream::iter(0..=CHUNKS).map(move |number| Frame::data(chunk(number))));
        Response::builder().header("content-type", "application/json").body(body).unwrap()
    })
    .await;
    let mut expected = Sha256::new();
    (0..=CHUNKS).for_each(|number| expected.update(chunk(number)));
    let mut response =
        client_with_auth(Client::new(), api.origin()).get(api.authoring()).send().await.unwrap();
    let (mut sum, mut length) = (Sha256::new(), 0);
    while let Some(bytes) = response.chunk().await.unwrap() {
        length += bytes.len();
        sum.update(&bytes);
    }
    assert_eq!(length, chunk(0).len() + CHUNKS * CHUNK);
    assert_eq!(sum.finalize(), expected.finalize());
}
