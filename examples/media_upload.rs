//! Media upload: a mutation returns a URL, which requires the bearer token too. A file is sent
//! there as a stream. `cargo run --example media_upload`, on the embedded sandbox.
//!
//! A stream cannot be sent twice, so the middleware does not replay it if its token is rejected. It
//! replaces the token and returns the 401, and the program starts again with a new stream.
mod support;
use std::{process::ExitCode, time::Duration};

use futures_util::stream;
use reqwest::{Body, StatusCode, multipart};
use reqwest_middleware::ClientBuilder;
use serde_json::{Value, json};
use sitecore_auth::{AuthMiddleware, TokenCache};
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

async fn run() -> Result<()> {
    let sandbox = Sandbox::builder().token_lifetime(Duration::from_secs(60)).start().await?;
    let cloud = Cloud::of(sandbox)?;
    let cache = TokenCache::new(cloud.tokens(Kind::Environment)?);
    let auth = AuthMiddleware::builder(cache).target(cloud.authoring()?).build()?;
    let client = ClientBuilder::new(cloud.http()?).with(auth).build();

    let input = json!({ "in": { "itemPath": "Project/acme/video" } });
    let upload = graphql(&client, &cloud.authoring_url()?, UPLOAD, input).await?;
    let url = upload["uploadMedia"]["presignedUploadUrl"].as_str().ok_or("no URL")?;
    if let Some(sandbox) = &cloud.sandbox {
        // The token is revoked right before the upload.
        sandbox.revoke_tokens();
    }
    let mut response = client.post(url).multipart(file()).send().await?;
    if response.status() == StatusCode::UNAUTHORIZED {
        println!("{}, starting again with a new stream", response.status());
        response = client.post(url).multipart(file()).send().await?;
    }
    let item: Value = response.error_for_status()?.json().await?;
    println!("uploaded to {}", item["ItemPath"]);
    Ok(())
}
