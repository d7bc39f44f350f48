//! Entry points for the fuzz targets: the code that reads responses, without a network.

use std::time::Duration;

use reqwest::{StatusCode, header::HeaderMap};
use url::Url;

use crate::{
    error::Result,
    quota,
    redact::Redactor,
    response::{RawResponse, TokenResponse},
};

/// Interprets the response to a token request whose secret was `secret`.
pub fn interpret(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    secret: &str,
) -> Result<TokenResponse> {
    let url = Url::parse("https://issuer.example/oauth/token").expect("a URL");
    let response = RawResponse { url: &url, status, headers, body };
    response.interpret(&Redactor { secrets: vec![secret] })
}

/// Reads from a response's headers how long to wait.
pub fn wait(headers: &HeaderMap) -> Option<Duration> {
    quota::rate_limit_wait(headers)
}
