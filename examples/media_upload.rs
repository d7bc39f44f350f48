//! Media upload: a mutation gives a URL that wants the bearer too, and a file goes there as a stream.
//! `cargo run --example media_upload`, on the embedded sandbox.
//!
//! A stream cannot be sent twice, so it is not sent again if its token is refused: the layer replaces the
//! token and hands the 401 on, and the program begins anew with a new stream, as here.
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

/// Eight megabytes that are never in memory at once.
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

    let wanted = json!({ "in": { "itemPath": "Project/acme/video" } });
    let given = graphql(&client, &cloud.authoring_url()?, UPLOAD, wanted).await?;
    let url = given["uploadMedia"]["presignedUploadUrl"].as_str().ok_or("no URL")?;
    if let Some(sandbox) = &cloud.sandbox {
        // Somebody revokes the token just now.
        sandbox.revoke_tokens();
    }
    let mut answer = client.post(url).multipart(file()).send().await?;
    if answer.status() == StatusCode::UNAUTHORIZED {
        println!("{}: once more, from the start", answer.status());
        answer = client.post(url).multipart(file()).send().await?;
    }
    let item: Value = answer.error_for_status()?.json().await?;
    println!("uploaded to {}", item["ItemPath"]);
    Ok(())
}
