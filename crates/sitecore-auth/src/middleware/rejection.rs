//! Which responses reject the token.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use reqwest::{Body, Request, Response};
use url::{Position, Url};

use super::{
    graphql::{self, Executed},
    peek::{PeekedResponse, soon},
    www_authenticate::{rejects_token, says_invalid_token},
};
use crate::{contain::contain, target::Target};

/// How much of a response is read to find out whether it rejects the token.
const LIMIT: usize = 16 * 1024;

/// How much is read of a response that rejects the token, or begins as if it did.
pub(super) const MAX_REJECTION: usize = 128 * 1024;

/// Which responses count as rejecting the token. The token is then replaced, and the request is
/// replayed if that is safe.
///
/// By default these are:
///
/// - a 401 without any challenge, or with one for Bearer ([RFC 9110 §11.6.1]), unless that says
///   `insufficient_scope` ([RFC 6750 §3.1]), which another token would not fix;
/// - a 403 whose challenge says `invalid_token`;
/// - on a path below `/sitecore/api/`, or one that ends in the path of the Authoring API's
///   endpoint, a JSON response of any status in which an error has the code
///   `AUTH_NOT_AUTHENTICATED`, in a single response or in one of a batch.
///
/// Whether the request is replayed is a separate question. A GraphQL request is replayed if it is
/// clearly a query, or if its response proves that nothing was executed: every field is null
/// because it was rejected.
///
/// To find Authoring's code, the middleware reads the first 16 KiB of a response, or up to 128 KiB
/// of one that begins with such errors. The response is then passed on unchanged. A response within
/// this limit is passed on once it is complete. For a longer one, the read timeout of the client
/// runs from the last part that was read. If the status already rejects the token, the middleware
/// waits for the body for 500 ms at most; without it, only a request with a safe method or a clear
/// query is replayed. `text/event-stream` and `multipart/*` are passed on unread.
///
/// ```
/// # fn example(cache: sitecore_auth::TokenCache, target: sitecore_auth::Target) -> Result<(), sitecore_auth::Error> {
/// use sitecore_auth::{AuthMiddleware, Rejections};
///
/// let rejections = Rejections::default().expired_403();
/// let auth = AuthMiddleware::builder(cache).target(target).rejections(rejections).build()?;
/// # Ok(())
/// # }
/// ```
///
/// [RFC 6750 §3.1]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1
/// [RFC 9110 §11.6.1]: https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1
#[derive(Clone)]
pub struct Rejections {
    graphql: bool,
    rules: Vec<Rule>,
}

#[derive(Clone)]
struct Rule {
    status: StatusCode,
    matches: Arc<Predicate>,
}

type Predicate = dyn Fn(&HeaderMap, &[u8]) -> bool + Send + Sync;

impl Rejections {
    /// Sets whether a GraphQL response of the Authoring API can reject the token by its error code;
    /// `true` by default. If `false`, such a response is passed on unread.
    #[must_use]
    pub fn graphql(mut self, graphql: bool) -> Self {
        self.graphql = graphql;
        self
    }

    /// Also treats a 403 whose body says "Token has expired" as a rejection. Sitecore's Brand
    /// API is reported to respond so.
    #[must_use]
    pub fn expired_403(self) -> Self {
        const WORDS: &[u8] = b"token has expired";
        self.when(StatusCode::FORBIDDEN, |_, body| {
            body.windows(WORDS.len()).any(|words| words.eq_ignore_ascii_case(WORDS))
        })
    }

    /// Also treats a response with this status as a rejection if `predicate` returns `true`. The
    /// predicate gets the headers and up to 16 KiB of the body, which is buffered first.
    ///
    /// Return `true` only if the API has executed nothing, because the request will be sent again.
    /// The predicate must not block. If it panics, that counts as `false`. It is not called for
    /// streams (`text/event-stream`, `multipart/*`).
    #[must_use]
    pub fn when(
        mut self,
        status: StatusCode,
        predicate: impl Fn(&HeaderMap, &[u8]) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.rules.push(Rule { status, matches: Arc::new(predicate) });
        self
    }

    /// Returns `true` if a response could reject the token, judging by its status and headers.
    pub(super) fn could_reject(&self, response: &Response) -> bool {
        let (status, headers) = (response.status(), response.headers());
        rejects_by_header(status, headers)
            || self.could_reject_by_graphql(response.url(), headers)
            || self.rules_for(status, headers).next().is_some()
    }

    pub(super) fn could_reject_by_graphql(&self, url: &Url, headers: &HeaderMap) -> bool {
        self.graphql && Target::is_authoring(url) && is_json(headers)
    }

    fn rules_for(&self, status: StatusCode, headers: &HeaderMap) -> impl Iterator<Item = &Rule> {
        let rules = self.rules.iter().filter(move |rule| rule.status == status);
        rules.filter(|_| !is_stream(headers))
    }

    /// Determines whether a response rejects the token, and what was executed.
    pub(super) async fn inspect(&self, response: &mut PeekedResponse) -> Option<Executed> {
        let by_header = rejects_by_header(response.status(), response.headers());
        if self.could_reject_by_graphql(response.url(), response.headers()) {
            let inspection = inspect_graphql(response);
            // If the status rejects the token, the body only shows whether the request may be
            // replayed, so it is not waited for long.
            let inspected = match by_header {
                true => soon(inspection).await.unwrap_or(Some(Executed::Unknown)),
                false => inspection.await,
            };
            if inspected.is_some() {
                return inspected;
            }
            // Authoring may have executed something, or rejected the request for another reason.
            // The rest of a long or interrupted body could say so.
            if by_header && (!response.is_whole() || graphql::is_response(response.start())) {
                return Some(Executed::Unknown);
            }
        }
        if by_header || self.matches_rule(response).await {
            return Some(Executed::Nothing);
        }
        None
    }

    async fn matches_rule(&self, response: &mut PeekedResponse) -> bool {
        if self.rules_for(response.status(), response.headers()).next().is_none() {
            return false;
        }
        response.read(LIMIT).await;
        let (status, headers, start) = (response.status(), response.headers(), response.start());
        let body = &start[..start.len().min(LIMIT)];
        let matches = |rule: &Rule| contain(|| (rule.matches)(headers, body)).unwrap_or(false);
        self.rules_for(status, headers).any(matches)
    }
}

/// Reads a response of Authoring, and determines whether it rejects the token, and what was
/// executed.
pub(super) async fn inspect_graphql(response: &mut PeekedResponse) -> Option<Executed> {
    response.read(LIMIT).await;
    if graphql::begins_like_rejection(response.start()) {
        response.read(MAX_REJECTION).await;
    }
    graphql::rejection(response.start(), response.is_whole())
}

/// Returns `true` if the status and the challenges of a response reject the token.
#[inline]
pub(super) fn rejects_by_header(status: StatusCode, headers: &HeaderMap) -> bool {
    match status {
        StatusCode::UNAUTHORIZED => rejects_token(headers),
        StatusCode::FORBIDDEN => says_invalid_token(headers),
        _ => false,
    }
}

/// Returns `true` if a request whose token was rejected may be replayed. `response_url` is where
/// its response came from.
pub(super) fn may_replay(request: &Request, executed: Executed, response_url: &Url) -> bool {
    // After a redirect, it was not the first request that was rejected. The first one may have been
    // executed.
    let is_redirected =
        response_url[..Position::AfterQuery] != request.url()[..Position::AfterQuery];
    if is_redirected {
        return request.method().is_safe();
    }
    executed == Executed::Nothing || is_repeatable(request)
}

/// Returns `true` if a request can be sent again even if it was executed.
pub(super) fn is_repeatable(request: &Request) -> bool {
    let url = request.url();
    let body = request.body().and_then(Body::as_bytes).unwrap_or_default();
    let is_clearly_query =
        || !may_name_operation(url) && Target::is_authoring(url) && graphql::is_clearly_query(body);
    // A `GET` executes no mutation (GraphQL over HTTP §6.2).
    request.method().is_safe() || is_clearly_query()
}

impl Default for Rejections {
    fn default() -> Self {
        Self { graphql: true, rules: Vec::new() }
    }
}

impl fmt::Debug for Rejections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statuses = self.rules.iter().map(|rule| rule.status);
        f.debug_struct("Rejections")
            .field("graphql", &self.graphql)
            .field("statuses", &statuses.collect::<Vec<_>>())
            .finish()
    }
}

/// Returns `true` if the URL may contain an operation. Some servers prefer it to the one in the
/// body.
fn may_name_operation(url: &Url) -> bool {
    url.query_pairs().any(|(name, _)| {
        graphql::may_name_document(&name)
            || ["operationName", "extensions"].iter().any(|known| name.eq_ignore_ascii_case(known))
    })
}

/// Returns `true` if the content type is JSON ([RFC 6839 §3.1]).
///
/// [RFC 6839 §3.1]: https://www.rfc-editor.org/rfc/rfc6839#section-3.1
fn is_json(headers: &HeaderMap) -> bool {
    let kind = media_type(headers);
    let suffix = kind.rsplit(|byte| b"/+".contains(byte)).next().unwrap_or_default();
    suffix.eq_ignore_ascii_case(b"json")
}

/// Returns `true` if the body is meant to be read as it arrives.
fn is_stream(headers: &HeaderMap) -> bool {
    let kind = media_type(headers).to_ascii_lowercase();
    kind == b"text/event-stream" || kind.starts_with(b"multipart/")
}

fn media_type(headers: &HeaderMap) -> &[u8] {
    let value = headers.get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}
