//! A request that was sent with a token: what its answer says of the token, and what is done about that.

use http::{Extensions, StatusCode};
use reqwest::{Request, Response};
use reqwest_middleware::Next;
use tracing::{debug, warn};
use url::Url;

use super::{Rejections, deadline::Deadline, look_ahead::read_during, target::Rule};
use crate::{Claims, Token, TokenCache, telemetry};

/// A request that was sent.
pub(super) struct Sent<'a> {
    pub(super) rule: &'a Rule,
    pub(super) token: Token,
    pub(super) cache: &'a TokenCache,
    pub(super) deadline: Deadline,
    /// To be sent once more, if it can be.
    pub(super) again: Option<Box<Request>>,
}

impl Sent<'_> {
    /// Finds out whether the answer refuses the token. If so, has it replaced, and sends the request once more.
    pub(super) async fn judge(
        self,
        answer: Response,
        rejections: &Rejections,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let (answer, refusal) = rejections.find_refusal(answer).await;
        let Some(refusal) = refusal else {
            explain_if_forbidden(&answer, &self.token, self.rule);
            return Ok(answer);
        };
        let (cache, api) = (self.cache.label(), self.rule.name());
        let replaced = self.cache.replace_for(self.rule.name().into(), &self.token);
        let replaced = self.deadline.bound(replaced, self.cache);
        let (answer, replaced) = read_during(answer, replaced).await;
        let other = match replaced {
            Ok(other) => other,
            Err(error) => {
                telemetry::refused(self.cache.name(), "not_replaced");
                debug!(cache, api, cause = %error.cause(), again_in = ?error.retry_after(), "the refused token could not be replaced");
                return Ok(answer);
            }
        };
        let mut again = match self.again {
            Some(again) if refusal.allows_replay_of(&again, answer.url()) => again,
            _ => {
                telemetry::refused(self.cache.name(), "replaced");
                return Ok(answer);
            }
        };
        telemetry::refused(self.cache.name(), "replayed");
        debug!(cache, api, refused = %self.token.fingerprint(), token = %other.fingerprint(), "a request is sent once more");
        drop(answer);
        self.deadline.shorten(&mut again, self.cache);
        authenticate(&mut again, &other);
        next.run(*again, extensions).await
    }
}

/// Says whose token it was that may not do what was asked: as a rule a client of another kind is wanted.
pub(super) fn explain_if_forbidden(answer: &Response, token: &Token, rule: &Rule) {
    if answer.status() != StatusCode::FORBIDDEN {
        return;
    }
    let claims = token.claims();
    let claims = claims.as_ref();
    let name = |name| claims.and_then(|claims| claims.sitecore(name));
    warn!(
        api = rule.name(),
        token = %token.fingerprint(),
        granted_to = claims.and_then(Claims::client_kind).map(tracing::field::display),
        organization = name("org_name"),
        environment = name("tenant_name"),
        wanted = rule.wanted.map(tracing::field::display),
        "an API answered 403: the token is good, but its client may not do this"
    );
}

/// Puts a token on a request.
pub(super) fn authenticate(request: &mut Request, token: &Token) {
    let (name, value) = token.header();
    request.headers_mut().insert(name.clone(), value.clone());
}

/// Warns of an answer from where the token was not meant to go.
pub(super) fn warn_of_redirect(rule: &Rule, to: &Url) {
    if !rule.is_origin_of(to) {
        let host = to.host_str();
        warn!(
            host,
            "a request was redirected to another origin: give the client sitecore_auth::redirect_policy(), for reqwest can take the token there"
        );
    }
}
