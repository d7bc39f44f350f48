//! `google-cloud-auth`: Google's own; a background task keeps the token, each call makes a map of headers.

use std::time::Duration;

use google_cloud_auth::credentials::{CacheableResource, Credentials, user_account::Builder};
use http::{Extensions, HeaderValue, header::AUTHORIZATION};
use serde_json::json;

use super::{Rival, text_of};
use crate::issuer::Issuer;

pub struct GoogleCloudAuth(Credentials);

impl Rival for GoogleCloudAuth {
    const NAME: &'static str = "google-cloud-auth 1.18.0";
    const FED: &'static str =
        "By the loopback endpoint, through `user_account::Builder::with_token_uri`.";

    // Its task looks again after 10 s at what lies within its slack of 240 s.
    const STALE: Result<(Duration, Duration), &'static str> =
        Ok((Duration::from_millis(120_000), Duration::from_millis(9_800)));

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        let user = json!({
            "type": "authorized_user",
            "client_id": "client",
            "client_secret": "secret",
            "refresh_token": "refresh",
        });
        let builder = Builder::new(user).with_token_uri(issuer.token_url());
        builder.build().map(Self).map_err(text_of)
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        // As in its examples, without an entity tag: a caller with one would be told that nothing has
        // changed, and had to keep a cache of its own.
        let headers = self.0.headers(Extensions::new());
        match headers.await.map_err(text_of)? {
            CacheableResource::New { mut data, .. } => data.remove(AUTHORIZATION),
            CacheableResource::NotModified => None,
        }
        .ok_or_else(|| "no authorization".to_owned())
    }
}
