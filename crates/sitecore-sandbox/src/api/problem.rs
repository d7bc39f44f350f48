//! RFC 9457 error responses and the bearer token check, shared by the REST APIs.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{FromRequest, Request, State, rejection::JsonRejection},
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cloud::{Api, Cloud};

/// Returns an error response as ASP.NET writes it, with a link to the status code's definition.
pub(crate) fn problem(status: StatusCode) -> Response {
    let section = match status {
        StatusCode::BAD_REQUEST => "rfc7231#section-6.5.1",
        StatusCode::UNAUTHORIZED => "rfc7235#section-3.1",
        StatusCode::FORBIDDEN => "rfc7231#section-6.5.3",
        StatusCode::NOT_FOUND => "rfc7231#section-6.5.4",
        StatusCode::METHOD_NOT_ALLOWED => "rfc7231#section-6.5.5",
        StatusCode::CONFLICT => "rfc7231#section-6.5.8",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "rfc7231#section-6.5.13",
        _ => "rfc7231#section-6",
    };
    let body = json!({
        "type": format!("https://tools.ietf.org/html/{section}"),
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "traceId": "00-00000000000000000000000000000000-0000000000000000-00",
    });
    let content_type = [(CONTENT_TYPE, "application/problem+json")];
    (status, content_type, body.to_string()).into_response()
}

/// Returns a value, or an error response if there is none.
pub(crate) fn found_or_404(value: Option<Value>) -> Response {
    match value {
        Some(value) => Json(value).into_response(),
        None => problem(StatusCode::NOT_FOUND),
    }
}

/// A JSON body. If it is not valid, the response is a problem too.
pub(crate) struct Input<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = Response;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Response> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if kind.is_some_and(|kind| kind.starts_with("text/json")) {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
        }
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(JsonRejection::MissingJsonContentType(_)) => {
                Err(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE))
            }
            Err(_) => Err(problem(StatusCode::BAD_REQUEST)),
        }
    }
}

/// An API and the prefix of the scopes that give access to it.
#[derive(Clone)]
struct RequiredScope {
    cloud: Arc<Cloud>,
    api: Api,
    prefix: &'static str,
}

/// Rejects all calls except those whose token has a scope with this prefix.
pub(crate) fn guarded(router: Router, cloud: Arc<Cloud>, api: Api, prefix: &'static str) -> Router {
    let required = RequiredScope { cloud, api, prefix };
    router.layer(from_fn_with_state(required, require_scope))
}

async fn require_scope(
    State(required): State<RequiredScope>,
    request: Request,
    next: Next,
) -> Response {
    let rejection = match required.cloud.claims(request.headers()) {
        Some(claims) if claims.has_scope_like(required.prefix) => return next.run(request).await,
        Some(_) => problem(StatusCode::FORBIDDEN),
        // In the manner of ASP.NET's bearer handler: a challenge, and no body.
        None => {
            let challenge = [(WWW_AUTHENTICATE, r#"Bearer error="invalid_token""#)];
            (StatusCode::UNAUTHORIZED, challenge).into_response()
        }
    };
    required.cloud.count_rejection(required.api);
    rejection
}
