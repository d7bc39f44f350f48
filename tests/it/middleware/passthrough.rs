//! An answer that passes the layer is the one that a bare client gets: head, body, trailers, errors. All
//! of it on the path where answers are looked at.

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

use crate::support::{Api, DAY, RawServer, Then, frames};

const DATA: &str = r#"{"data":{"item":{"name":"Home"}}}"#;
const ERRORS: &str = r#"{"errors":[{"message":"m","extensions":{"code":"OTHER"}}],"data":null}"#;
const REFUSAL: &str = r#"{"errors":[{"message":"m","path":["a"],"extensions":{"code":"AUTH_NOT_AUTHENTICATED"}}],"data":{"a":null}}"#;

/// A client with the layer, which never replays, so that a refusal goes back too.
fn layered(http: Client, origin: &Url) -> ClientWithMiddleware {
    let source = source_fn(|_| async { Token::bearer("token", DAY) });
    let auth = AuthMiddleware::builder(TokenCache::new(source))
        .target(Target::origin(origin.clone()).unwrap())
        .replay(false);
    ClientBuilder::new(http).with(auth.build().unwrap()).build()
}

/// What a body is made of, by the name of the request's query.
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
        "refusal" => (REFUSAL.into(), &[]),
        "empty" => (Body::empty(), &[]),
        "chunked-data" => (frames(chunks(DATA)), &[]),
        "chunked-errors" => (frames(chunks(ERRORS)), &[]),
        "chunked-refusal" => (frames(chunks(REFUSAL)), &[]),
        "chunked-empty" => (frames(stream::empty()), &[]),
        "trailers-data" => (frames(chunks(DATA).chain(trailers())), &[("trailer", "x-sum")]),
        "trailers-refusal" => (frames(chunks(REFUSAL).chain(trailers())), &[("trailer", "x-sum")]),
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
    "refusal",
    "empty",
    "chunked-data",
    "chunked-errors",
    "chunked-refusal",
    "chunked-empty",
    "trailers-data",
    "trailers-refusal",
    "trailers-open",
    "gzip",
    "large",
];

fn answer(request: &Request) -> Response<Body> {
    let (body, headers) = body_for(request.uri().query().unwrap());
    let answer =
        Response::builder().header("content-type", "application/json").header("x-own", "kept");
    let answer = headers.iter().fold(answer, |answer, (name, value)| answer.header(*name, *value));
    answer.body(body).unwrap()
}

/// All that can be seen of an answer.
async fn seen(answer: reqwest::Response) -> BTreeMap<&'static str, String> {
    let length = answer.content_length();
    let mut headers: Vec<_> =
        answer.headers().iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
    headers.retain(|header| !header.starts_with("date"));
    headers.sort();
    let mut seen = BTreeMap::from([
        ("url", answer.url().to_string()),
        ("status", format!("{:?} {:?}", answer.status(), answer.version())),
        ("headers", headers.join("\n")),
        ("remote", format!("{:?}", answer.remote_addr())),
        ("length", format!("{length:?}")),
        ("extensions", answer.extensions().len().to_string()),
    ]);
    let mut body = Response::<reqwest::Body>::from(answer).into_body();
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
    seen.insert("data", String::from_utf8(data).unwrap());
    seen.insert("end", end);
    seen
}

#[tokio::test]
async fn an_answer_is_the_one_that_a_bare_client_gets() {
    let api = Api::start(|_, request| answer(request)).await;
    let plain = Client::builder();
    for (version, http) in [("1.1", plain), ("2", Client::builder().http2_prior_knowledge())] {
        let http = http.build().unwrap();
        let layered = layered(http.clone(), api.origin());
        for case in CASES {
            for method in [Method::GET, Method::HEAD, Method::POST] {
                let url = format!("{}?{case}", api.authoring());
                let bare =
                    http.request(method.clone(), &url).bearer_auth("own").header("te", "trailers");
                let bare = seen(bare.send().await.unwrap()).await;
                let ours = layered.request(method.clone(), &url).header("te", "trailers");
                let ours = seen(ours.send().await.unwrap()).await;
                assert_eq!(ours, bare, "{case} {method} over HTTP/{version}");
                if case.starts_with("trailers") && method != Method::HEAD {
                    assert!(bare["end"].contains("x-sum"), "no trailers came at all: {bare:?}");
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
async fn a_body_that_breaks_off_breaks_off_where_it_does_without_the_layer() {
    for (head, then) in [
        ("content-length: 4000", Then::Close),
        ("content-length: 4000", Then::Reset),
        ("transfer-encoding: chunked", Then::Close),
        ("content-length: 4000", Then::Hang),
    ] {
        for text in [&REFUSAL[..40], DATA] {
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
            let bare = seen(http.get(url.clone()).bearer_auth("own").send().await.unwrap()).await;
            let ours = seen(layered(http, &origin).get(url).send().await.unwrap()).await;
            let without_port = |mut seen: BTreeMap<&'static str, String>| {
                seen.remove("remote");
                seen
            };
            assert_eq!(without_port(ours), without_port(bare.clone()), "{head} {text}");
            assert!(bare["end"].contains("true "), "no error: {bare:?}");
        }
    }
}

#[tokio::test]
async fn fifty_megabytes_pass_byte_for_byte() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 50 * 1024 * 1024 / CHUNK;
    let chunk = |number: usize| match number {
        // It begins as a refusal would, and does not end as one.
        0 => Bytes::from_static(br#"{"errors":[{"message":""#),
        _ => Bytes::from(vec![b'a' + u8::try_from(number % 26).unwrap(); CHUNK]),
    };
    let api = Api::start(move |_, _| {
        let body = frames(stream::iter(0..=CHUNKS).map(move |number| Frame::data(chunk(number))));
        Response::builder().header("content-type", "application/json").body(body).unwrap()
    })
    .await;
    let mut expected = Sha256::new();
    (0..=CHUNKS).for_each(|number| expected.update(chunk(number)));
    let mut answer =
        layered(Client::new(), api.origin()).get(api.authoring()).send().await.unwrap();
    let (mut sum, mut length) = (Sha256::new(), 0);
    while let Some(bytes) = answer.chunk().await.unwrap() {
        length += bytes.len();
        sum.update(&bytes);
    }
    assert_eq!(length, chunk(0).len() + CHUNKS * CHUNK);
    assert_eq!(sum.finalize(), expected.finalize());
}
