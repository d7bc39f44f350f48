//! `azure_core`: the policy of Azure's HTTP pipeline that adds bearer tokens to requests.

use std::time::Duration;

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::{
    Bytes, Error,
    credentials::{AccessToken, TokenCredential, TokenRequestOptions},
    error::ErrorKind,
    http::{
        AsyncRawResponse, Context, Method, Request, StatusCode, Url,
        headers::{AUTHORIZATION, Headers},
        policies::{Policy, PolicyResult, auth::BearerTokenAuthorizationPolicy},
    },
    time::OffsetDateTime,
};
use http::HeaderValue;

use super::{Rival, sensitive, text_of};
use crate::issuer::Issuer;

pub struct Azure {
    policy: BearerTokenAuthorizationPolicy,
    /// Not part of the rival: each request is a clone of this one, so that no URL is parsed.
    request: Request,
    /// Not part of the rival: the policy requires a next one that sends the request.
    rest: [Arc<dyn Policy>; 1],
}

impl Rival for Azure {
    const NAME: &'static str = "azure_core 1.1.0";
    const SETUP: &'static str = "In process: a `TokenCredential` in a \
                                 `BearerTokenAuthorizationPolicy`, called by `Policy::send`.";

    // Within the five minutes before expiry in which it is refreshed.
    const STALE: Result<(Duration, Duration), &'static str> =
        Ok((Duration::from_millis(307_000), Duration::from_millis(7_200)));

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        let credential = Arc::new(Credential(issuer.clone()));
        let url = Url::parse("https://api.example.com/").map_err(text_of)?;
        Ok(Self {
            policy: BearerTokenAuthorizationPolicy::new(credential, ["scope"]),
            request: Request::new(url, Method::Get),
            rest: [Arc::new(Transport)],
        })
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        let mut request = self.request.clone();
        let context = Context::new();
        let sent = self.policy.send(&context, &mut request, &self.rest);
        sent.await.map_err(text_of)?;
        // Its headers are text; its own transport also converts them to header values.
        let text = request.headers().get_str(&AUTHORIZATION);
        sensitive(text.map_err(text_of)?.to_owned())
    }
}

#[derive(Debug)]
struct Credential(Issuer);

#[async_trait]
impl TokenCredential for Credential {
    async fn get_token(
        &self,
        _scopes: &[&str],
        _options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let granted = self.0.request_token().await;
        let granted = granted.map_err(|failed| Error::new(ErrorKind::Credential, failed))?;
        let expires_on = OffsetDateTime::now_utc() + granted.lifetime;
        Ok(AccessToken::new(granted.token, expires_on))
    }
}

/// Returns an empty response at once.
#[derive(Debug)]
struct Transport;

#[async_trait]
impl Policy for Transport {
    async fn send(
        &self,
        _ctx: &Context,
        _request: &mut Request,
        _next: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        let headers = Headers::new();
        Ok(AsyncRawResponse::from_bytes(StatusCode::Ok, headers, Bytes::new()))
    }
}
