//! Which answers say that the token is no good.

use std::{fmt, sync::Arc};

use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use reqwest::{Request, Response};
use url::{Position, Url};

use super::{
    challenge::refuses_token,
    graphql::{self, Verdict, Watch},
    look_ahead::{LIMIT, look_ahead},
    target::Target,
};

/// Which answers say that the token is no good, so that it is replaced and the request sent once more.
///
/// By default these:
///
/// - 401, unless all its challenges ([RFC 9110 §11.6.1]) are of other schemes than Bearer, or one says
///   `insufficient_scope` ([RFC 6750 §3.1]), which no other token would mend;
/// - on the path of the Authoring API, 200 with a GraphQL answer in which *every* error has the code
///   `AUTH_NOT_AUTHENTICATED` and nothing was executed: that is how Authoring says it. If the answer cannot
///   show that nothing was executed, a mutation is not sent again.
///
/// To find the latter, the layer looks at the first 16 KiB of an answer at most, and hands it on, whole, as
/// soon as it is clear that it is no refusal.
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
    others: Vec<Other>,
}

#[derive(Clone)]
struct Other {
    status: StatusCode,
    says_so: Arc<Predicate>,
}

type Predicate = dyn Fn(&HeaderMap, &[u8]) -> bool + Send + Sync;

/// A token was refused by an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing was executed.
    Whole,
    /// A part of a mutation may have been executed.
    InPart,
}

impl Rejections {
    /// Sets whether a GraphQL answer 200 of the Authoring API can be a refusal; on by default. Off, such
    /// an answer is handed on unread.
    #[must_use]
    pub fn graphql(mut self, graphql: bool) -> Self {
        self.graphql = graphql;
        self
    }

    /// Adds 403 whose body says "Token has expired", as Sitecore's Brand API does.
    #[must_use]
    pub fn expired_403(self) -> Self {
        const WORDS: &[u8] = b"token has expired";
        self.when(StatusCode::FORBIDDEN, |_, body| {
            body.windows(WORDS.len()).any(|words| words.eq_ignore_ascii_case(WORDS))
        })
    }

    /// Adds the answers of this status of which the predicate says so, being shown the headers and the
    /// body: all of it, or its first 16 KiB, which are waited for.
    ///
    /// It must say so only where the API has executed nothing: the request is sent once more. It must not
    /// block.
    #[must_use]
    pub fn when(
        mut self,
        status: StatusCode,
        says_so: impl Fn(&HeaderMap, &[u8]) -> bool + Send + Sync + 'static,
    ) -> Self {
        let says_so = Arc::new(says_so);
        self.others.push(Other { status, says_so });
        self
    }

    /// Tells whether an answer can refuse the token, by its head alone.
    pub(super) fn may_refuse(&self, answer: &Response) -> bool {
        answer.status() == StatusCode::UNAUTHORIZED
            || self.may_refuse_by_graphql(answer)
            || self.others.iter().any(|other| other.status == answer.status())
    }

    fn may_refuse_by_graphql(&self, answer: &Response) -> bool {
        self.graphql
            && answer.status() == StatusCode::OK
            && Target::is_authoring(answer.url())
            && is_json(answer.headers())
    }

    /// Finds out whether an answer refuses the token. The answer that is returned is as the one given.
    pub(super) async fn find_refusal(&self, answer: Response) -> (Response, Option<Refusal>) {
        if answer.status() == StatusCode::UNAUTHORIZED && refuses_token(answer.headers()) {
            return (answer, Some(Refusal::Whole));
        }
        if !self.may_refuse_by_graphql(&answer) {
            return self.find_other_refusal(answer).await;
        }
        match find_graphql_refusal(answer).await {
            (answer, None) => self.find_other_refusal(answer).await,
            refused => refused,
        }
    }

    async fn find_other_refusal(&self, answer: Response) -> (Response, Option<Refusal>) {
        let status = answer.status();
        if !self.others.iter().any(|other| other.status == status) {
            return (answer, None);
        }
        let headers = answer.headers().clone();
        let says_so = |body: &[u8]| {
            let mut others = self.others.iter();
            others.any(|other| other.status == status && (other.says_so)(&headers, body))
        };
        let (answer, refuses) =
            look_ahead(answer, |body, is_all| is_all.then(|| says_so(body))).await;
        (answer, refuses.unwrap_or(false).then_some(Refusal::Whole))
    }
}

impl Refusal {
    /// Tells whether the request may be sent again whose answer came from there.
    pub(super) fn allows_replay_of(self, request: &Request, answered_from: &Url) -> bool {
        // After a redirect what was refused is not what was sent first: that may have been executed.
        let redirected =
            answered_from[..Position::AfterQuery] != request.url()[..Position::AfterQuery];
        if redirected && !request.method().is_safe() {
            return false;
        }
        self == Self::Whole || !graphql::may_be_mutation(request)
    }
}

impl Default for Rejections {
    fn default() -> Self {
        Self { graphql: true, others: Vec::new() }
    }
}

impl fmt::Debug for Rejections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others = self.others.iter().map(|other| other.status);
        f.debug_struct("Rejections")
            .field("graphql", &self.graphql)
            .field("others", &others.collect::<Vec<_>>())
            .finish()
    }
}

/// Looks at as little of a GraphQL answer as it takes. One of unknown length may be a stream that lasts: it
/// is read on only while it begins as a refusal does, with `errors`.
async fn find_graphql_refusal(answer: Response) -> (Response, Option<Refusal>) {
    let length = answer.content_length();
    if length.is_some_and(|length| length > LIMIT as u64) {
        return (answer, None);
    }
    let mut watch = Watch::default();
    let (answer, refusal) = look_ahead(answer, |start, is_all| {
        if !watch.is_decisive(start) && !is_all {
            return None;
        }
        if length.is_none() && !graphql::may_begin_with_errors(start) {
            return Some(None);
        }
        match graphql::read(start) {
            Verdict::Open => is_all.then_some(None),
            Verdict::Accepted => Some(None),
            Verdict::Refused => Some(Some(Refusal::Whole)),
            Verdict::RefusedInPart => Some(Some(Refusal::InPart)),
        }
    })
    .await;
    (answer, refusal.flatten())
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = value.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    ["application/json", "application/graphql-response+json"]
        .iter()
        .any(|json| kind.eq_ignore_ascii_case(json))
}
