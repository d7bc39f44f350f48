//! A redirect policy that keeps the token where its target is.

use std::sync::Arc;

use reqwest::redirect::Policy;
use url::{Position, Url};

use super::api::Api;

/// Returns a policy that stops a redirect out of the rule that covers the first URL, or back to
/// that URL, and leaves all others to `otherwise`.
pub(super) fn redirect_policy(apis: Arc<[Api]>, otherwise: Policy) -> Policy {
    Policy::custom(move |attempt| {
        let first = attempt.previous().first();
        let mut rules = apis.iter().map(|api| &api.rule);
        let rule = first.and_then(|first| rules.find(|rule| rule.covers(first)));
        match rule {
            Some(rule) if !rule.covers(attempt.url()) => attempt.stop(),
            // The middleware could not tell that there was a redirect, and might replay the first
            // request.
            Some(_) if first.is_some_and(|first| is_same(first, attempt.url())) => attempt.stop(),
            _ => otherwise.redirect(attempt),
        }
    })
}

fn is_same(one: &Url, other: &Url) -> bool {
    one[..Position::AfterQuery] == other[..Position::AfterQuery]
}
