//! Media upload: a mutation returns a URL, which requires the bearer token too. A file is sent
//! there as a stream. `cargo run --example media_upload`, on the embedded sandbox.
//!
//! A stream cannot be sent twice, so the middleware does not replay it if its token is rejected. It
//! replaces the token and returns the response, and the program starts again with a new stream.
mod support;
use std::{process::ExitCode, time::Duration};

use futures_util::stream;
use reqwest::{
    Body, StatusCode,
    header::{CONTENT_TYPE, HeaderMap},
    multipart,
};
use serde_json::{Value, json};
use sitecore_auth::{AuthMiddleware, Rejections, TokenCache};
use sitecore_sandbox::Sandbox;
use support::{Cloud, Kind, Result, graphql};

const UPLOAD: &str =
    "mutation($in: UploadMediaInput!) { uploadMedia(input: $in) { presignedUploadUrl } }";

#[tokio::main]
async fn main() -> ExitCode {
    support::exit(run().await)
}

/// Eight megabytes, which are never in memory all at once.
fn file() -> multipart::Form {
    let pieces = (0..128).map(|_| Ok::<_, std::io::Error>(vec![0_u8; 64 * 1024]));
    let part = multipart::Part::stream(Body::wrap_stream(stream::iter(pieces)));
    multipart::Form::new().part("file", part.file_name("video.mp4"))
}

fn is_html(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
}

async fn run() -> Result<()> {
    let sandbox = Sandbox::builder().token_lifetime(Duration::from_secs(60)).start().await?;
    let cloud = Cloud::of(sandbox)?;
    let cache = TokenCache::new(cloud.tokens(Kind::Environment)?);
    // If the upload URL does not accept the token, it returns a login page with status 200.
    let rejections = Rejections::default().when(StatusCode::OK, |headers, _| is_html(headers));
    let auth = AuthMiddleware::builder(cache).target(cloud.authoring()?).rejections(rejections);
    let client = auth.build()?.into_client(reqwest::Client::builder())?;

    let input = json!({ "in": { "itemPath": "Project/acme/video" } });
    let upload = graphql(&client, &cloud.authoring_url()?, UPLOAD, input).await?;
    let url = upload["uploadMedia"]["presignedUploadUrl"].as_str().ok_or("no URL")?;
    if let Some(sandbox) = &cloud.sandbox {
        // The token is revoked right before the upload.
        sandbox.revoke_tokens();
    }
    let mut response = client.post(url).multipart(file()).send().await?;
    if is_html(response.headers()) {
        // The middleware has replaced the token. A stream cannot be sent twice.
        println!("a login page, starting again with a new stream");
        response = client.post(url).multipart(file()).send().await?;
    }
    let item: Value = response.error_for_status()?.json().await?;
    println!("uploaded to {}", item["ItemPath"]);
    Ok(())
}
