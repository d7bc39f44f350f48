//! The proxy's own errors. Callers can tell them from Sitecore's by the header
//! `X-Sitecore-Auth-Error`.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::json;
use sitecore_auth::ErrorKind;

use super::body::{Body, full};
use crate::failure::{for_shells, root_cause};

/// Marks the proxy's own errors.
pub(crate) const MARK: HeaderName = HeaderName::from_static("x-sitecore-auth-error");

/// Why the proxy did not pass a request on, or got no response.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    retry_after: Option<Duration>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), retry_after: None }
    }

    /// The request is one that the proxy does not pass on.
    pub(crate) fn bad_request(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, kind, detail)
    }

    /// The caller may not do this.
    pub(crate) fn forbidden(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, kind, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_such_upstream", detail)
    }

    /// The request is meant for another server.
    pub(crate) fn misdirected(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", detail)
    }

    /// The API's response cannot be passed on.
    pub(crate) fn bad_response(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "upstream", detail)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns what is wrong if the operator has to solve it: there is no token, or no usable
    /// response from the API.
    pub(crate) fn reason(&self) -> Option<&str> {
        let is_ours = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY];
        is_ours.contains(&self.status).then_some(&*self.detail)
    }

    pub(crate) fn response(self) -> Response<Body> {
        let wait = self.retry_after.map(|wait| wait.as_secs_f64().ceil() as u64);
        let object = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "kind": self.kind,
            "detail": self.detail,
            "retry_after": wait,
        });
        let mut response = Response::new(full(Bytes::from(object.to_string())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(MARK, HeaderValue::from_static(self.kind));
        if let Some(wait) = wait {
            headers.insert(RETRY_AFTER, wait.into());
        }
        response
    }
}

/// The request could not be sent.
impl From<reqwest_middleware::Error> for Problem {
    fn from(error: reqwest_middleware::Error) -> Self {
        let Some(auth) = sitecore_auth::Error::find(&error) else {
            return Self::upstream(error);
        };
        let kind = match auth.kind() {
            ErrorKind::Config if auth.is_outside_targets() => {
                let detail = "this path is outside the API, so it gets no token; check it for a double slash or a missing prefix";
                return Self::forbidden("outside_api", detail);
            }
            ErrorKind::Config => "config",
            ErrorKind::Refused => "refused",
            ErrorKind::RateLimited => "rate_limited",
            ErrorKind::Malformed => "malformed",
            _ => "unavailable",
        };
        let detail = format!("no token is available: {}", for_shells(&auth.cause()));
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail);
        problem.retry_after = auth.retry_after().filter(|wait| !wait.is_zero());
        problem
    }
}

impl Problem {
    fn upstream(error: reqwest_middleware::Error) -> Self {
        let detail = match error {
            reqwest_middleware::Error::Reqwest(error) => {
                let is_connect = error.is_connect();
                // The URL may contain a key in its query.
                let reason = root_cause(&error.without_url());
                match is_connect {
                    true => format!("the API could not be reached: {reason}"),
                    false => format!(
                        "the API did not complete its response: {reason}; the call may have been carried out"
                    ),
                }
            }
            reqwest_middleware::Error::Middleware(error) => error.to_string(),
        };
        Self::bad_response(detail)
    }
}
