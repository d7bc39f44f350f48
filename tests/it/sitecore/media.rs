//! Media upload end to end: a stream that cannot be sent twice, with the bearer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use reqwest::{Body, multipart};
use reqwest_middleware::ClientWithMiddleware;
use serde_json::Value;
use sitecore_auth::ErrorKind;
use sitecore_sandbox::{Api, Fault, Sandbox};

use crate::support::{auth_error, client_for, graphql};

const PIECES: usize = 256;
const PIECE: usize = 64 * 1024;

/// A file of 16 MB that is made while it is sent; counts how often it was begun.
fn file(begun: &Arc<AtomicUsize>) -> multipart::Form {
    let begun = Arc::clone(begun);
    let pieces = stream::iter(0..PIECES).map(move |piece| {
        begun.fetch_add(usize::from(piece == 0), Ordering::SeqCst);
        Ok::<_, std::io::Error>(vec![7_u8; PIECE])
    });
    let part = multipart::Part::stream(Body::wrap_stream(pieces)).file_name("video.mp4");
    multipart::Form::new().part("file", part)
}

async fn upload_url(client: &ClientWithMiddleware, sandbox: &Sandbox) -> String {
    let query = r#"mutation { uploadMedia(input: { itemPath: "Project/acme/video" }) { presignedUploadUrl } }"#;
    let answer = graphql(client, sandbox.authoring_url(), query).await;
    answer["data"]["uploadMedia"]["presignedUploadUrl"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_file_is_streamed_with_the_bearer() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = client_for(&sandbox, sandbox.environment());
    let url = upload_url(&client, &sandbox).await;
    let begun = Arc::default();
    let answer = client.post(url).multipart(file(&begun)).send().await.unwrap();
    let item: Value = answer.json().await.unwrap();
    assert_eq!(item["ItemPath"], "/sitecore/media library/Project/acme/video");
    let size = r#"{ item(where: { path: "/sitecore/media library/Project/acme/video" }) { field(name: "Size") { value } } }"#;
    let size = graphql(&client, sandbox.authoring_url(), size).await;
    assert_eq!(size["data"]["item"]["field"]["value"], (PIECES * PIECE).to_string());
    assert_eq!((sandbox.tokens_granted(), sandbox.rejections(Api::Authoring)), (1, 0));
}

#[tokio::test]
async fn an_upload_begins_with_a_fresh_token_and_is_not_repeated() {
    let life = Duration::from_secs(2);
    let sandbox = Sandbox::builder().token_lifetime(life).start().await.unwrap();
    let client = client_for(&sandbox, sandbox.environment());
    let url = upload_url(&client, &sandbox).await;
    tokio::time::sleep(life).await;
    // The token has expired meanwhile: another is had before the first byte is sent.
    let begun = Arc::default();
    let answer = client.post(&url).multipart(file(&begun)).send().await.unwrap();
    assert_eq!((answer.status(), sandbox.rejections(Api::Authoring)), (StatusCode::OK, 0));

    sandbox.set_token_lifetime(Duration::from_secs(60));
    let url = upload_url(&client, &sandbox).await;
    sandbox.revoke_tokens();
    let begun = Arc::default();
    let answer = client.post(&url).multipart(file(&begun)).send().await.unwrap();
    assert_eq!((answer.status(), begun.load(Ordering::SeqCst)), (StatusCode::UNAUTHORIZED, 1));
    // The new token is there already.
    let grants = sandbox.tokens_granted();
    let answer = client.post(&url).multipart(file(&begun)).send().await.unwrap();
    assert_eq!((answer.status(), sandbox.tokens_granted()), (StatusCode::OK, grants));
}

#[tokio::test]
async fn without_a_token_no_byte_of_the_file_is_sent() {
    let sandbox = Sandbox::start().await.unwrap();
    sandbox.break_down(Api::Token, Fault::status(401).body(r#"{"error":"access_denied"}"#));
    let client = client_for(&sandbox, sandbox.environment());
    let url = sandbox.url(Api::Authoring, "/sitecore/api/authoring/media/upload?token=x");
    let begun = Arc::default();
    let error = client.post(url).multipart(file(&begun)).send().await.unwrap_err();
    let error = auth_error(&error);
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("check its id, secret"), "{error}");
    assert_eq!((begun.load(Ordering::SeqCst), sandbox.calls(Api::Authoring)), (0, 0));
}

#[tokio::test]
async fn a_client_of_another_kind_may_not_upload() {
    let sandbox = Sandbox::start().await.unwrap();
    let right = client_for(&sandbox, sandbox.environment());
    let url = upload_url(&right, &sandbox).await;
    let wrong = client_for(&sandbox, sandbox.edge_administration());
    let begun = Arc::default();
    let answer = wrong.post(url).multipart(file(&begun)).send().await.unwrap();
    // One grant a client: another token of the same client would do no better.
    assert_eq!((answer.status(), sandbox.tokens_granted()), (StatusCode::FORBIDDEN, 2));
}
