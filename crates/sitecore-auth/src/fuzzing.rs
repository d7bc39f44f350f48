//! Entry points for the fuzz targets: the code behind the middleware that reads responses, without
//! a network.

use crate::middleware::{
    graphql::{self, Verdict},
    www_authenticate,
};

/// Returns `true` if a 401 with these headers rejects the token.
pub fn rejects_token(headers: &http::HeaderMap) -> bool {
    www_authenticate::rejects_token(headers)
}

/// Reads the start of a GraphQL response. `None` if it is undecided. Otherwise whether it rejects
/// the token, and whether nothing was executed.
pub fn graphql(start: &[u8]) -> Option<(bool, bool)> {
    match graphql::read(start) {
        Verdict::Open => None,
        Verdict::Accepted => Some((false, false)),
        Verdict::Rejected => Some((true, true)),
        Verdict::RejectedInPart => Some((true, false)),
    }
}

/// Returns for each byte whether it makes sense to read the response again after it.
pub fn watch(response: &[u8]) -> Vec<bool> {
    let mut watch = graphql::Watch::default();
    let ends = 1..=response.len();
    ends.map(|end| watch.is_decisive(&response[..end])).collect()
}

/// Returns `true` if the first member is, or can still become, `errors`.
pub fn may_begin_with_errors(start: &[u8]) -> bool {
    graphql::may_begin_with_errors(start)
}
