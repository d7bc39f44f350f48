//! Applies scripted faults to calls.

use std::{future::pending, io};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_LENGTH},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;

use crate::cloud::{Fault, Kind};

/// Applies the fault to one call.
pub(crate) async fn inflict(fault: Fault, request: Request, next: Next) -> Response {
    match fault.0 {
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

/// Replaces the way a response's body is sent, but keeps its `Content-Length`.
async fn in_pieces(response: Response, send: impl FnOnce(Bytes) -> Body) -> Response {
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    parts.headers.insert(CONTENT_LENGTH, body.len().into());
    Response::from_parts(parts, send(body))
}
