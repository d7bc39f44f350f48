//! A redirect policy that keeps the token on its origin.

use reqwest::redirect::Policy;

/// reqwest's default limit.
const MAX_REDIRECTS: usize = 10;

/// Returns a redirect policy that stops when the scheme, host or port changes. The response is then
/// the redirect itself.
///
/// Set it on every client that uses this middleware. By default, reqwest removes `Authorization`
/// from a request that is redirected to another origin, but it adds the header again if that origin
/// redirects once more (seen with 0.13.5). It never removes `sc_apikey`. A CM redirects to the
/// identity provider when it requires an interactive login.
///
/// ```
/// let http = reqwest::Client::builder().redirect(sitecore_auth::redirect_policy()).build();
/// # http.unwrap();
/// ```
#[must_use]
pub fn redirect_policy() -> Policy {
    Policy::custom(|attempt| {
        let is_same_origin =
            attempt.previous().iter().all(|url| url.origin() == attempt.url().origin());
        if !is_same_origin {
            attempt.stop()
        } else if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else {
            attempt.follow()
        }
    })
}
