//! Entry points for the fuzz targets: the code behind the middleware that reads responses, without
//! a network.

use crate::middleware::{
    graphql::{self, Executed},
    www_authenticate,
};

/// Returns `true` if a 401 with these headers rejects the token.
pub fn rejects_token(headers: &http::HeaderMap) -> bool {
    www_authenticate::rejects_token(headers)
}

/// Reads a GraphQL response, or its start. `None` if it does not reject the token. Otherwise
/// whether it proves that nothing was executed.
pub fn rejection(text: &[u8], is_whole: bool) -> Option<bool> {
    graphql::rejection(text, is_whole).map(|executed| executed == Executed::Nothing)
}

/// Returns `true` if a GraphQL request with this body is clearly a query.
pub fn is_clearly_query(body: &[u8]) -> bool {
    graphql::is_clearly_query(body)
}
