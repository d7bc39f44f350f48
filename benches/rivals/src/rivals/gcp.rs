//! `gcp_auth`: one token per set of scopes, for a Google service account.

use std::time::Duration;

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use gcp_auth::{CustomServiceAccount, TokenProvider as _};
use http::HeaderValue;
use serde_json::json;

use super::{Rival, bearer, text_of};
use crate::issuer::Issuer;

/// The scopes of the crate's own example.
const SCOPES: &[&str] = &["https://www.googleapis.com/auth/cloud-platform"];

pub struct GcpAuth(CustomServiceAccount);

impl Rival for GcpAuth {
    const NAME: &'static str = "gcp_auth 0.12.7";
    const SETUP: &'static str =
        "Loopback endpoint: the `token_uri` of a key for `CustomServiceAccount::from_json`.";

    // Within the 20 s before expiry in which it is refreshed.
    const STALE: Result<(Duration, Duration), &'static str> =
        Ok((Duration::from_millis(27_000), Duration::from_millis(7_200)));

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        let account = json!({
            "type": "service_account",
            "project_id": "project",
            "client_email": "rival@project.iam.gserviceaccount.com",
            "private_key": private_key()?,
            "token_uri": issuer.token_url(),
        });
        let account = CustomServiceAccount::from_json(&account.to_string());
        account.map(Self).map_err(text_of)
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        let token = self.0.token(SCOPES).await.map_err(text_of)?;
        bearer(token.as_str())
    }
}

/// Generates the key with which the crate signs a JWT for each token request. A key in the
/// repository would alarm every secret scanner.
fn private_key() -> Result<String, String> {
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(text_of)?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(text_of)?;
    let der = BASE64_STANDARD.encode(der.as_ref());
    Ok(format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n"))
}
