//! Scripted faults: what an API does instead of, before or during its response.

use std::{collections::VecDeque, future::pending, io, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;

use crate::shared::Shared;

/// A fault that an API applies to one call.
///
/// ```
/// use std::time::Duration;
/// use sitecore_sandbox::Fault;
///
/// let overloaded = Fault::status(503).header("retry-after", "5").body("<h1>busy</h1>");
/// let slow = Fault::delay(Duration::from_secs(2));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fault(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Response { status: u16, headers: Vec<(String, String)>, body: String },
    Delay(Duration),
    Hang,
    Cut,
    Drip(Duration),
}

impl Fault {
    /// Responds with this status and an empty body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self(Kind::Response { status, headers: Vec::new(), body: String::new() })
    }

    /// Responds with status 200 and an HTML page.
    #[must_use]
    pub fn garbage() -> Self {
        Self::status(200)
            .header(CONTENT_TYPE.as_str(), "text/html")
            .body("<!doctype html><title>Please sign in to the guest network</title>")
    }

    /// Waits this long, then responds as usual.
    #[must_use]
    pub fn delay(time: Duration) -> Self {
        Self(Kind::Delay(time))
    }

    /// Never responds.
    #[must_use]
    pub fn hang() -> Self {
        Self(Kind::Hang)
    }

    /// Starts a normal response, but closes the connection halfway through the body.
    #[must_use]
    pub fn cut() -> Self {
        Self(Kind::Cut)
    }

    /// Responds as usual, but sends the body one byte at a time, with this pause before each.
    #[must_use]
    pub fn drip(pause: Duration) -> Self {
        Self(Kind::Drip(pause))
    }

    /// Adds a header to the response of [`status`](Self::status) or [`garbage`](Self::garbage).
    /// Other faults ignore it.
    ///
    /// # Panics
    ///
    /// If the header name or value is invalid.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        assert!(HeaderName::try_from(name).is_ok(), "invalid header name {name:?}");
        assert!(HeaderValue::try_from(value).is_ok(), "invalid header value {value:?}");
        if let Kind::Response { headers, .. } = &mut self.0 {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Sets the response body of [`status`](Self::status) or [`garbage`](Self::garbage). Other
    /// faults ignore it.
    #[must_use]
    pub fn body(mut self, text: impl Into<String>) -> Self {
        if let Kind::Response { body, .. } = &mut self.0 {
            *body = text.into();
        }
        self
    }

    /// Applies the fault to one call.
    pub(crate) async fn inflict(self, request: Request, next: Next) -> Response {
        match self.0 {
            Kind::Response { status, headers, body } => {
                let mut response = Response::new(Body::from(body));
                *response.status_mut() =
                    StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
                for (name, value) in headers {
                    if let (Ok(name), Ok(value)) =
                        (HeaderName::try_from(name), HeaderValue::try_from(value))
                    {
                        response.headers_mut().append(name, value);
                    }
                }
                response
            }
            Kind::Delay(time) => {
                tokio::time::sleep(time).await;
                next.run(request).await
            }
            Kind::Hang => pending().await,
            Kind::Cut => {
                in_pieces(next.run(request).await, |body| {
                    let half = body.slice(..body.len() / 2);
                    let cut = Err(io::Error::from(io::ErrorKind::ConnectionReset));
                    Body::from_stream(stream::iter([Ok(half), cut]))
                })
                .await
            }
            Kind::Drip(pause) => {
                in_pieces(next.run(request).await, |body| {
                    Body::from_stream(stream::unfold(body, move |mut rest| async move {
                        if rest.is_empty() {
                            return None;
                        }
                        tokio::time::sleep(pause).await;
                        Some((Ok::<_, io::Error>(rest.split_to(1)), rest))
                    }))
                })
                .await
            }
        }
    }
}

/// Replaces the way a response's body is sent, but keeps its `Content-Length`.
async fn in_pieces(response: Response, send: impl FnOnce(Bytes) -> Body) -> Response {
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    parts.headers.insert(CONTENT_LENGTH, body.len().into());
    Response::from_parts(parts, send(body))
}

/// The faults queued for an API's next calls, and the fault for all calls after them.
#[derive(Default)]
pub(crate) struct Script(Shared<(VecDeque<Fault>, Option<Fault>)>);

impl Script {
    pub(crate) fn push(&self, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().0.extend(faults);
    }

    pub(crate) fn set_lasting(&self, fault: Option<Fault>) {
        let mut script = self.0.lock();
        script.0.clear();
        script.1 = fault;
    }

    pub(crate) fn next(&self) -> Option<Fault> {
        let mut script = self.0.lock();
        script.0.pop_front().or_else(|| script.1.clone())
    }
}
