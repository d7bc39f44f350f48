//! A redirect policy for clients that carry more than `Authorization`.

use reqwest::redirect::Policy;

/// As many as reqwest follows by default.
const MAX_REDIRECTS: usize = 10;

/// Returns a redirect policy that ends where the origin changes: scheme, host or port. The answer is then
/// the redirect itself.
///
/// reqwest takes `Authorization` off a request that is redirected to another host, but not `sc_apikey`:
/// set this policy on a client that sends Edge keys.
///
/// ```
/// let http = reqwest::Client::builder().redirect(sitecore_auth::redirect_policy()).build();
/// # http.unwrap();
/// ```
#[must_use]
pub fn redirect_policy() -> Policy {
    Policy::custom(|attempt| {
        let same_origin = attempt
            .previous()
            .iter()
            .all(|url| url.origin() == attempt.url().origin());
        if !same_origin {
            attempt.stop()
        } else if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else {
            attempt.follow()
        }
    })
}
