//! A redirect policy that takes no token to another origin.

use reqwest::redirect::Policy;

/// As many as reqwest follows by default.
const MAX_REDIRECTS: usize = 10;

/// Returns a redirect policy that ends where the origin changes: scheme, host or port. The answer is then
/// the redirect itself.
///
/// Set it on every client that this layer wraps. By itself reqwest takes `Authorization` off a request that is
/// redirected to another origin, but puts it back if that origin redirects once more, to another of its own
/// pages (seen with 0.13.5); and it never takes off `sc_apikey`. A CM redirects to the identity provider
/// when it wants a person to log in.
///
/// ```
/// let http = reqwest::Client::builder().redirect(sitecore_auth::redirect_policy()).build();
/// # http.unwrap();
/// ```
#[must_use]
pub fn redirect_policy() -> Policy {
    Policy::custom(|attempt| {
        let same_origin =
            attempt.previous().iter().all(|url| url.origin() == attempt.url().origin());
        if !same_origin {
            attempt.stop()
        } else if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else {
            attempt.follow()
        }
    })
}
