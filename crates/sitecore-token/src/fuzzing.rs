//! Entry points for the fuzz targets: the code that reads responses, without a network.

use std::time::{Duration, SystemTime};

use reqwest::{StatusCode, header::HeaderMap};
use url::Url;

use crate::{
    error::Result,
    quota,
    redact::Redactor,
    response::{RawResponse, TokenResponse},
    settings::ClientAuth,
};

/// Interprets the response to a token request whose secret was `secret`.
pub fn interpret(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    secret: &str,
) -> Result<TokenResponse> {
    let url = Url::parse("https://issuer.example/oauth/token").expect("a URL");
    let response = RawResponse {
        url: &url,
        client_id: "client",
        client_auth: ClientAuth::Body,
        status,
        headers,
        body,
        received_at: SystemTime::UNIX_EPOCH,
    };
    response.interpret(&Redactor { secrets: vec![secret.to_owned().into()] })
}

/// Reads from a response's headers how long to wait.
pub fn wait(headers: &HeaderMap) -> Option<Duration> {
    quota::rate_limit_wait(headers, SystemTime::UNIX_EPOCH)
}
