//! Which responses reject the token.

use std::{fmt, sync::Arc};

use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use reqwest::{Request, Response};
use url::{Position, Url};

use super::{
    graphql::{self, Verdict, Watch},
    look_ahead::{LIMIT, look_ahead},
    www_authenticate::rejects_token,
};
use crate::target::Target;

/// Which responses count as rejecting the token. The token is then replaced, and the request is
/// replayed if that is safe.
///
/// By default these are:
///
/// - a 401, unless all of its challenges ([RFC 9110 §11.6.1]) are for schemes other than Bearer, or
///   one of them says `insufficient_scope` ([RFC 6750 §3.1]), which another token would not fix;
/// - on the path of the Authoring API, a 200 with a GraphQL response in which *every* error has the
///   code `AUTH_NOT_AUTHENTICATED` and no field has data. The request is replayed only if the
///   response proves that nothing was executed, or if it is clearly not a mutation.
///
/// To detect the latter, the middleware reads at most the first 16 KiB of a response. As soon as it
/// is clear that the response does not reject the token, it is passed on unchanged.
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

/// A response rejected the token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejection {
    NothingExecuted,
    /// A part of a mutation may have been executed.
    MaybeExecuted,
}

impl Rejections {
    /// Sets whether a 200 with a GraphQL response from the Authoring API can reject the token;
    /// `true` by default. If `false`, such a response is passed on unread.
    #[must_use]
    pub fn graphql(mut self, graphql: bool) -> Self {
        self.graphql = graphql;
        self
    }

    /// Also treats a 403 whose body says "Token has expired" as a rejection, as Sitecore's Brand
    /// API does.
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
    /// The predicate must not block.
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
        response.status() == StatusCode::UNAUTHORIZED
            || self.could_reject_by_graphql(response)
            || self.rules.iter().any(|rule| rule.status == response.status())
    }

    fn could_reject_by_graphql(&self, response: &Response) -> bool {
        self.graphql
            && response.status() == StatusCode::OK
            && Target::is_authoring(response.url())
            && is_json(response.headers())
    }

    /// Determines whether a response rejects the token. The returned response is the same as the
    /// given one.
    pub(super) async fn inspect(&self, response: Response) -> (Response, Option<Rejection>) {
        if response.status() == StatusCode::UNAUTHORIZED && rejects_token(response.headers()) {
            return (response, Some(Rejection::NothingExecuted));
        }
        if !self.could_reject_by_graphql(&response) {
            return self.inspect_custom(response).await;
        }
        match inspect_graphql(response).await {
            (response, None) => self.inspect_custom(response).await,
            rejected => rejected,
        }
    }

    async fn inspect_custom(&self, response: Response) -> (Response, Option<Rejection>) {
        let status = response.status();
        if !self.rules.iter().any(|rule| rule.status == status) {
            return (response, None);
        }
        let headers = response.headers().clone();
        let matches = |body: &[u8]| {
            let mut rules = self.rules.iter();
            rules.any(|rule| rule.status == status && (rule.matches)(&headers, body))
        };
        let (response, matched) =
            look_ahead(response, |body, is_all| is_all.then(|| matches(body))).await;
        (response, matched.unwrap_or(false).then_some(Rejection::NothingExecuted))
    }
}

impl Rejection {
    /// Returns `true` if the request may be replayed. `response_url` is where its response came
    /// from.
    pub(super) fn allows_replay_of(self, request: &Request, response_url: &Url) -> bool {
        // After a redirect, the rejected request is not the one that was sent first, which may have
        // been executed.
        let is_redirected =
            response_url[..Position::AfterQuery] != request.url()[..Position::AfterQuery];
        if is_redirected && !request.method().is_safe() {
            return false;
        }
        self == Self::NothingExecuted || !graphql::may_be_mutation(request)
    }
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

/// Reads as little of a GraphQL response as possible. A response of unknown length may be a
/// long-lived stream, so it is read further only while it begins with `errors`, as a rejection
/// does.
async fn inspect_graphql(response: Response) -> (Response, Option<Rejection>) {
    let length = response.content_length();
    if length.is_some_and(|length| length > LIMIT as u64) {
        return (response, None);
    }
    let mut watch = Watch::default();
    let (response, rejection) = look_ahead(response, |start, is_all| {
        if !watch.is_decisive(start) && !is_all {
            return None;
        }
        if length.is_none() && !graphql::may_begin_with_errors(start) {
            return Some(None);
        }
        match graphql::read(start) {
            Verdict::Open => is_all.then_some(None),
            Verdict::Accepted => Some(None),
            Verdict::Rejected => Some(Some(Rejection::NothingExecuted)),
            Verdict::RejectedInPart => Some(Some(Rejection::MaybeExecuted)),
        }
    })
    .await;
    (response, rejection.flatten())
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = value.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    ["application/json", "application/graphql-response+json"]
        .iter()
        .any(|json| kind.eq_ignore_ascii_case(json))
}
