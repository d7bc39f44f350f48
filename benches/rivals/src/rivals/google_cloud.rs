//! `google-cloud-auth`: Google's own. A background task keeps the token; each call builds a header
//! map.

use std::time::Duration;

use google_cloud_auth::credentials::{CacheableResource, Credentials, user_account::Builder};
use http::{Extensions, HeaderValue, header::AUTHORIZATION};
use serde_json::json;

use super::{Rival, text_of};
use crate::issuer::Issuer;

pub struct GoogleCloudAuth(Credentials);

impl Rival for GoogleCloudAuth {
    const NAME: &'static str = "google-cloud-auth 1.18.0";
    const SETUP: &'static str =
        "Loopback endpoint: the token URI in `user_account::Builder::with_token_uri`.";

    // A token that expires within the slack of 240 s is refreshed after 10 s.
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
        // As in its examples, without an entity tag. With one, it reports only that nothing has
        // changed, and the caller must cache the headers.
        let headers = self.0.headers(Extensions::new());
        match headers.await.map_err(text_of)? {
            CacheableResource::New { mut data, .. } => data.remove(AUTHORIZATION),
            CacheableResource::NotModified => None,
        }
        .ok_or_else(|| "no authorization".to_owned())
    }
}
