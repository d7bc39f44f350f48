//! A request that was sent with a token: checks whether the response rejects the token, and handles
//! that.

use http::{Extensions, StatusCode};
use reqwest::{Request, Response};
use reqwest_middleware::Next;
use sitecore_token::Claims;
use tracing::{debug, warn};
use url::Url;

use super::{api::Api, deadline::Deadline, look_ahead::read_during, rejection::Rejections};
use crate::{cache::TokenCache, metrics, target::Rule, token::Token};

/// A request that was sent.
pub(super) struct Sent<'a> {
    pub(super) api: &'a Api,
    pub(super) token: Token,
    pub(super) cache: &'a TokenCache,
    pub(super) deadline: Deadline,
    /// A copy to send again, if the request can be replayed.
    pub(super) replay: Option<Box<Request>>,
}

impl Sent<'_> {
    /// Checks whether the response rejects the token. If so, replaces the token and replays the
    /// request.
    pub(super) async fn handle_response(
        self,
        response: Response,
        rejections: &Rejections,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let (response, rejection) = rejections.inspect(response).await;
        let Some(rejection) = rejection else {
            note_accepted(&response, &self.token, self.api, self.cache);
            return Ok(response);
        };
        self.api.note_rejected();
        let (cache, api) = (self.cache.label(), self.api.rule.name());
        let replaced = self.cache.replace_for(&self.api.name, &self.token);
        let replaced = self.deadline.limit(replaced, self.cache);
        let (response, replaced) = read_during(response, replaced).await;
        let other = match replaced {
            Ok(other) => other,
            Err(error) => {
                metrics::count_rejection(self.cache.name(), "not_replaced");
                debug!(cache, api, cause = %error.cause(), retry_in = error.retry_after().map(tracing::field::debug), "could not replace rejected token");
                return Ok(response);
            }
        };
        let mut replay = match self.replay {
            Some(replay) if rejection.allows_replay_of(&replay, response.url()) => replay,
            _ => {
                metrics::count_rejection(self.cache.name(), "replaced");
                return Ok(response);
            }
        };
        metrics::count_rejection(self.cache.name(), "replayed");
        debug!(cache, api, rejected = %self.token.fingerprint(), token = %other.fingerprint(), "retrying request with another token");
        drop(response);
        self.deadline.apply(&mut replay, self.cache);
        authenticate(&mut replay, &other);
        let response = next.run(*replay, extensions).await?;
        // This response is final. It says whether the API accepts the other token. Boxed, because it
        // would enlarge the future of every request.
        Ok(Box::pin(learn(response, &other, self.api, self.cache, rejections)).await)
    }
}

/// Tells the cache whether the response to a replay rejects the token.
async fn learn(
    response: Response,
    token: &Token,
    api: &Api,
    cache: &TokenCache,
    rejections: &Rejections,
) -> Response {
    if !api.rule.covers(response.url()) {
        warn_of_redirect(&api.rule, response.url());
        return response;
    }
    if !rejections.could_reject(&response) {
        note_accepted(&response, token, api, cache);
        return response;
    }
    let (response, rejection) = rejections.inspect(response).await;
    if rejection.is_some() {
        cache.record_rejection(&api.name, token);
        api.note_rejected();
    } else {
        note_accepted(&response, token, api, cache);
    }
    response
}

/// Tells the cache that the API accepted the token, if it did. Warns about a 403.
pub(super) fn note_accepted(response: &Response, token: &Token, api: &Api, cache: &TokenCache) {
    if response.status() < StatusCode::BAD_REQUEST {
        api.note_accepted(token, cache);
    }
    warn_if_forbidden(response, token, &api.rule);
}

/// Warns about a 403 and says whose token it was. The usual reason is that the API requires another
/// kind of client.
fn warn_if_forbidden(response: &Response, token: &Token, rule: &Rule) {
    if response.status() != StatusCode::FORBIDDEN {
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
        required = rule.client_kind.map(tracing::field::display),
        "API returned 403; the token was accepted, but its client is not allowed to do this"
    );
}

/// Adds a token to a request.
pub(super) fn authenticate(request: &mut Request, token: &Token) {
    let (name, value) = token.header();
    request.headers_mut().insert(name.clone(), value.clone());
}

/// Warns if the response came from an origin that the token was not meant for.
pub(super) fn warn_of_redirect(rule: &Rule, to: &Url) {
    if !rule.is_origin_of(to) {
        let host = to.host_str();
        warn!(
            host,
            "request was redirected to another origin; build the reqwest client with sitecore_auth::redirect_policy(), because reqwest may send the token there"
        );
    }
}
