//! Calls to Sitecore's APIs, with our kind of error.

use std::{error::Error as StdError, fmt};

use http::StatusCode;
use reqwest::Response;
use reqwest_middleware::RequestBuilder;
use serde::de::DeserializeOwned;
use sitecore_token::{ClientKind, retry_after_from_now};
use url::Url;

use crate::{
    error::{Error, ErrorKind, Result},
    target::Target,
};

/// Sends a request. A response other than a success becomes an error.
pub(super) async fn send(request: RequestBuilder, client_kind: ClientKind) -> Result<Response> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| Error::new(ErrorKind::Config, error))?;
    let host = request.url().host_str().unwrap_or_default().to_owned();
    let response = client.execute(request).await.map_err(|error| {
        if let Some(found) = Error::find(&error) {
            return found.clone();
        }
        match error {
            reqwest_middleware::Error::Reqwest(error) => interrupted(&host, error),
            reqwest_middleware::Error::Middleware(error) => {
                Error::new(ErrorKind::Unavailable, error)
            }
        }
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let error =
        |kind, advice: String| Error::new(kind, format!("{host} responded with {status}{advice}"));
    let failure = match status {
        StatusCode::UNAUTHORIZED => error(
            ErrorKind::Refused,
            format!(
                "; use the credentials of {client_kind}, and add this host as a target of the middleware"
            ),
        ),
        StatusCode::FORBIDDEN => {
            error(ErrorKind::Refused, format!("; this call requires {client_kind}"))
        }
        StatusCode::TOO_MANY_REQUESTS => {
            error(ErrorKind::RateLimited, "; try again later".to_owned())
        }
        StatusCode::NOT_FOUND => {
            error(ErrorKind::Config, "; check the id or hash in the call".to_owned())
        }
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            error(ErrorKind::Unavailable, "; try again later".to_owned())
        }
        StatusCode::BAD_REQUEST => {
            error(ErrorKind::Malformed, "; check what was sent, such as the label".to_owned())
        }
        _ => error(ErrorKind::Malformed, ", which was not expected; check the origin".to_owned()),
    };
    Err(match retry_after_from_now(response.headers()) {
        Some(wait) if failure.is_transient() => failure.with_retry_after(wait),
        _ => failure,
    })
}

/// Parses a JSON body. The error never quotes the body, which may contain a key.
pub(super) async fn parse_json<T: DeserializeOwned>(response: Response) -> Result<T> {
    let host = response.url().host_str().unwrap_or_default().to_owned();
    let body = response.bytes().await.map_err(|error| interrupted(&host, error))?;
    serde_json::from_slice(&body).map_err(|error| {
        let (bytes, line) = (body.len(), error.line());
        let message = format!(
            "the response of {host} ({bytes} bytes) is not the expected JSON, at line {line}"
        );
        Error::new(ErrorKind::Malformed, message)
    })
}

/// Returns the error of a call whose response did not arrive completely. The URL is left out.
pub(super) fn interrupted(host: &str, error: reqwest::Error) -> Error {
    let is_connect = error.is_connect();
    let message = if is_connect {
        format!("could not connect to {host}; check the host name, the network and the firewall")
    } else if error.is_timeout() {
        format!("{host} did not complete its response in time; try again later")
    } else {
        format!("the connection to {host} was interrupted; try again later")
    };
    let cause = Interrupted { message, source: error.without_url() };
    let error = Error::new(ErrorKind::Unavailable, cause);
    if is_connect { error.with_never_reached_issuer() } else { error }
}

/// What happened to a call, and why.
#[derive(Debug)]
struct Interrupted {
    message: String,
    source: reqwest::Error,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Interrupted {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

/// Returns the same path on another origin, which must satisfy the rules for a target.
pub(super) fn with_origin(url: &Url, mut origin: Url) -> Result<Url> {
    Target::origin(origin.clone())?.into_rules()?;
    origin.set_path(url.path());
    Ok(origin)
}

/// Checks an id or a hash before it becomes a segment of a path.
pub(super) fn check_segment<'a>(what: &str, segment: &'a str) -> Result<&'a str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+=:".contains(&byte);
    let is_valid = segment.bytes().all(is_plain) && !matches!(segment, "" | "." | "..");
    if is_valid {
        return Ok(segment);
    }
    // The value is left out: it may be a key, passed by mistake.
    let length = segment.chars().count();
    let message = format!(
        "invalid {what} ({length} characters); use the {what} that the API returned, not a key or label"
    );
    Err(Error::new(ErrorKind::Config, message))
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
