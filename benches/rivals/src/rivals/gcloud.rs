//! `gcloud-auth`: the token source that the community's Google Cloud clients share.

use std::time::Duration;

use std::sync::Arc;

use gcloud_auth::{
    credentials::CredentialsFile, project::Config, token::DefaultTokenSourceProvider,
};
use http::HeaderValue;
use serde_json::json;
use token_source::{TokenSource, TokenSourceProvider as _};

use super::{Rival, sensitive, text_of};
use crate::issuer::Issuer;

pub struct GcloudAuth(Arc<dyn TokenSource>);

impl Rival for GcloudAuth {
    const NAME: &'static str = "gcloud-auth 1.4.0";
    const SETUP: &'static str =
        "Loopback endpoint: the `token_uri` of an authorized user in a `CredentialsFile`.";

    const STALE: Result<(Duration, Duration), &'static str> =
        Err("never refreshes ahead of expiry");

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        let file = json!({
            "type": "authorized_user",
            "client_id": "client",
            "client_secret": "secret",
            "refresh_token": "refresh",
            "token_uri": issuer.token_url(),
        })
        .to_string();
        let file = CredentialsFile::new_from_str(&file);
        let file = Box::new(file.await.map_err(text_of)?);
        let provider = DefaultTokenSourceProvider::new_with_credentials(Config::default(), file);
        Ok(Self(provider.await.map_err(text_of)?.token_source()))
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        // The text already begins with "Bearer".
        sensitive(self.0.token().await.map_err(text_of)?)
    }
}
