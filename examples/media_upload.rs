//! Media upload: a mutation returns a URL, which requires the bearer token too. A file is sent
//! there as a stream. `cargo run --example media_upload`, on the embedded sandbox.
//!
//! A stream cannot be sent twice, so the middleware does not replay it if its token is rejected. It
//! replaces the token and returns the response, and the program starts again with a new stream.

use std::error::Error;

use futures_util::stream;
use reqwest::{
    Body, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap},
    multipart,
};
use serde_json::{Value, json};
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, Endpoint, Rejections, Target, TokenCache, TokenClient,
};
use sitecore_sandbox::Sandbox;

const UPLOAD: &str =
    "mutation($in: UploadMediaInput!) { uploadMedia(input: $in) { presignedUploadUrl } }";

/// Eight megabytes, which are never in memory all at once.
fn file() -> multipart::Form {
    let pieces = (0..128).map(|_| Ok::<_, std::io::Error>(vec![0_u8; 64 * 1024]));
    let part = multipart::Part::stream(Body::wrap_stream(stream::iter(pieces)));
    multipart::Form::new().part("file", part.file_name("video.mp4"))
}

/// Returns `true` for a login page, or a redirect to one, which the client does not follow.
fn asks_to_log_in(response: &Response) -> bool {
    response.status() == StatusCode::FOUND || is_html(response.headers())
}

fn is_html(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let sandbox = Sandbox::start().await?;
    let authoring = sandbox.authoring_url();
    let credentials =
        ClientCredentials::new(sandbox.environment().id(), sandbox.environment().secret());
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience())?;
    let cache = TokenCache::new(TokenClient::builder(credentials).endpoint(endpoint).build()?);
    // If the upload URL does not accept the token, it returns a login page with status 200, or
    // redirects to one.
    let rejections = Rejections::default()
        .when(StatusCode::OK, |headers, _| is_html(headers))
        .when(StatusCode::FOUND, |_, _| true);
    let target = Target::authoring(authoring.clone())?;
    let auth = AuthMiddleware::builder(cache).target(target).rejections(rejections).build()?;
    let client = auth.into_client(reqwest::Client::builder())?;

    let input = json!({ "in": { "itemPath": "Project/acme/video" } });
    let call = client.post(authoring).json(&json!({ "query": UPLOAD, "variables": input }));
    let upload: Value = call.send().await?.error_for_status()?.json().await?;
    let url = &upload["data"]["uploadMedia"]["presignedUploadUrl"];
    let url = url.as_str().ok_or_else(|| format!("no URL: {upload}"))?;
    // The token is revoked right before the upload.
    sandbox.revoke_tokens();
    let mut response = client.post(url).multipart(file()).send().await?;
    if asks_to_log_in(&response) {
        // The middleware has replaced the token. A stream cannot be sent twice.
        println!("asked to log in, starting again with a new stream");
        response = client.post(url).multipart(file()).send().await?;
    }
    let item: Value = response.error_for_status()?.json().await?;
    println!("uploaded to {}", item["ItemPath"]);
    Ok(())
}
