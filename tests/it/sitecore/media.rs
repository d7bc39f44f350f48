//! Media upload end to end: a streamed body that cannot be replayed, with the token.

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
use sitecore_auth::{AuthMiddleware, ErrorKind, Rejections, Target};
use sitecore_sandbox::{Api, Fault, Sandbox};

use crate::support::{auth_error, cache_for, client_for, graphql};

const PIECES: usize = 256;
const PIECE: usize = 64 * 1024;

/// A 16 MiB file that is generated while it is sent. Counts how often sending has started.
fn file(started: &Arc<AtomicUsize>) -> multipart::Form {
    let started = Arc::clone(started);
    let pieces = stream::iter(0..PIECES).map(move |piece| {
        started.fetch_add(usize::from(piece == 0), Ordering::SeqCst);
        Ok::<_, std::io::Error>(vec![7_u8; PIECE])
    });
    let part = multipart::Part::stream(Body::wrap_stream(pieces)).file_name("video.mp4");
    multipart::Form::new().part("file", part)
}

async fn upload_url(client: &ClientWithMiddleware, sandbox: &Sandbox) -> String {
    let query = r#"mutation { uploadMedia(input: { itemPath: "Project/acme/video" }) { presignedUploadUrl } }"#;
    let response = graphql(client, sandbox.authoring_url(), query).await;
    response["data"]["uploadMedia"]["presignedUploadUrl"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_file_is_streamed_with_the_token() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = client_for(&sandbox, sandbox.environment());
    let url = upload_url(&client, &sandbox).await;
    let started = Arc::default();
    let response = client.post(url).multipart(file(&started)).send().await.unwrap();
    let item: Value = response.json().await.unwrap();
    assert_eq!(item["ItemPath"], "/sitecore/media library/Project/acme/video");
    let size = r#"{ item(where: { path: "/sitecore/media library/Project/acme/video" }) { field(name: "Size") { value } } }"#;
    let size = graphql(&client, sandbox.authoring_url(), size).await;
    assert_eq!(size["data"]["item"]["field"]["value"], (PIECES * PIECE).to_string());
    assert_eq!((sandbox.tokens_granted(), sandbox.rejections(Api::Authoring)), (1, 0));
}

#[tokio::test]
async fn an_upload_starts_with_a_fresh_token_and_is_not_replayed() {
    let lifetime = Duration::from_secs(2);
    let sandbox = Sandbox::builder().token_lifetime(lifetime).start().await.unwrap();
    // Without a valid token, the upload URL returns a login page. Only the content type shows that.
    let is_html = |headers: &http::HeaderMap, _: &[u8]| {
        headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
    };
    let target = Target::authoring(sandbox.authoring_url()).unwrap();
    let auth = AuthMiddleware::builder(cache_for(&sandbox, sandbox.environment()))
        .target(target)
        .rejections(
            Rejections::default()
                .when(StatusCode::OK, is_html)
                .when(StatusCode::FOUND, |_, _| true),
        );
    let client = auth.build().unwrap().into_client(reqwest::Client::builder()).unwrap();
    let url = upload_url(&client, &sandbox).await;
    tokio::time::sleep(lifetime).await;
    // The token has expired, so another is fetched before the first byte is sent.
    let started = Arc::default();
    let response = client.post(&url).multipart(file(&started)).send().await.unwrap();
    assert_eq!((response.status(), sandbox.rejections(Api::Authoring)), (StatusCode::OK, 0));

    sandbox.set_token_lifetime(Duration::from_secs(60));
    let url = upload_url(&client, &sandbox).await;
    sandbox.revoke_tokens();
    let started = Arc::default();
    let response = client.post(&url).multipart(file(&started)).send().await.unwrap();
    assert_eq!((response.status(), started.load(Ordering::SeqCst)), (StatusCode::OK, 1));
    assert!(response.text().await.unwrap().starts_with("<!DOCTYPE html>"));
    // The new token is already cached.
    let granted = sandbox.tokens_granted();
    let response = client.post(&url).multipart(file(&started)).send().await.unwrap();
    let item: Value = response.json().await.unwrap();
    assert_eq!(item["ItemPath"], "/sitecore/media library/Project/acme/video");
    assert_eq!(sandbox.tokens_granted(), granted);
}

#[tokio::test]
async fn a_redirect_to_a_login_page_can_count_as_a_rejection() {
    let sandbox = Sandbox::start().await.unwrap();
    let auth = AuthMiddleware::builder(cache_for(&sandbox, sandbox.environment()))
        .target(Target::authoring(sandbox.authoring_url()).unwrap())
        .rejections(Rejections::default().when(StatusCode::FOUND, |_, _| true));
    let client = auth.build().unwrap().into_client(reqwest::Client::builder()).unwrap();
    let url = upload_url(&client, &sandbox).await;
    let login = Fault::status(302).header("location", "https://login.example/");
    sandbox.script(Api::Authoring, [login]);
    let started = Arc::default();
    let response = client.post(&url).multipart(file(&started)).send().await.unwrap();
    // The redirect is not followed, and the token is replaced.
    assert_eq!((response.status(), sandbox.tokens_granted()), (StatusCode::FOUND, 2));
}

#[tokio::test]
async fn without_a_token_no_byte_of_the_file_is_sent() {
    let sandbox = Sandbox::start().await.unwrap();
    sandbox.break_down(Api::Token, Fault::status(401).body(r#"{"error":"access_denied"}"#));
    let client = client_for(&sandbox, sandbox.environment());
    let url = sandbox.url(Api::Authoring, "/sitecore/api/authoring/media/upload?token=x");
    let started = Arc::default();
    let error = client.post(url).multipart(file(&started)).send().await.unwrap_err();
    let error = auth_error(&error);
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("check the client id"), "{error}");
    assert_eq!((started.load(Ordering::SeqCst), sandbox.calls(Api::Authoring)), (0, 0));
}

#[tokio::test]
async fn a_client_of_another_kind_may_not_upload() {
    let sandbox = Sandbox::start().await.unwrap();
    let right = client_for(&sandbox, sandbox.environment());
    let url = upload_url(&right, &sandbox).await;
    let wrong = client_for(&sandbox, sandbox.edge_administration());
    let started = Arc::default();
    let response = wrong.post(url).multipart(file(&started)).send().await.unwrap();
    // One token per client: another token of the same client would not help.
    assert_eq!((response.status(), sandbox.tokens_granted()), (StatusCode::FORBIDDEN, 2));
}
