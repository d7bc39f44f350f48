//! Calls to Sitecore's APIs, with our kind of error.

use std::time::Duration;

use http::{StatusCode, header::RETRY_AFTER};
use reqwest::Response;
use reqwest_middleware::RequestBuilder;
use serde::de::DeserializeOwned;
use sitecore_token::ClientKind;
use url::Url;

use crate::{
    error::{Error, ErrorKind, Result},
    target::Target,
};

/// Sends a request. A response other than a success becomes an error.
pub(super) async fn send(request: RequestBuilder, client_kind: ClientKind) -> Result<Response> {
    let response = request.send().await.map_err(|error| match error {
        reqwest_middleware::Error::Middleware(error) => match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => Error::new(ErrorKind::Unavailable, error),
        },
        reqwest_middleware::Error::Reqwest(error) => unavailable(error),
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let host = response.url().host_str().unwrap_or_default();
    let error =
        |kind, advice: String| Error::new(kind, format!("{host} responded with {status}{advice}"));
    Err(match status {
        StatusCode::UNAUTHORIZED => error(
            ErrorKind::Refused,
            format!(
                "; add this host as a target of the middleware, with the credentials of {client_kind}"
            ),
        ),
        StatusCode::FORBIDDEN => {
            error(ErrorKind::Refused, format!("; this call requires {client_kind}"))
        }
        StatusCode::TOO_MANY_REQUESTS => {
            let error = error(ErrorKind::RateLimited, String::new());
            let wait = response.headers().get(RETRY_AFTER);
            match wait.and_then(|value| value.to_str().ok()?.parse().ok()) {
                Some(wait) => error.with_retry_after(Duration::from_secs(wait)),
                None => error,
            }
        }
        StatusCode::NOT_FOUND => {
            error(ErrorKind::Config, "; check the id or hash in the call".to_owned())
        }
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            error(ErrorKind::Unavailable, String::new())
        }
        _ => error(ErrorKind::Malformed, String::new()),
    })
}

/// Parses a JSON body. The error never quotes the body, which may contain a key.
pub(super) async fn parse_json<T: DeserializeOwned>(response: Response) -> Result<T> {
    let body = response.bytes().await.map_err(unavailable)?;
    serde_json::from_slice(&body).map_err(|error| {
        let (bytes, line) = (body.len(), error.line());
        let message =
            format!("the response ({bytes} bytes) is not the expected JSON, at line {line}");
        Error::new(ErrorKind::Malformed, message)
    })
}

pub(super) fn unavailable(error: reqwest::Error) -> Error {
    Error::new(ErrorKind::Unavailable, error)
}

/// Returns the same path on another origin, which must satisfy the rules for a target.
pub(super) fn with_origin(url: &Url, mut origin: Url) -> Result<Url> {
    Target::origin(origin.clone())?;
    origin.set_path(url.path());
    Ok(origin)
}

pub(super) fn append_path<'a>(mut url: Url, path: impl IntoIterator<Item = &'a str>) -> Url {
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

pub(super) fn parse_url(constant: &str) -> Url {
    Url::parse(constant).expect("the constant is a valid URL")
}
