//! Which headers are passed on.

use hyper::header::{self, HeaderMap, HeaderName};
use sitecore_auth::{CREDENTIAL_HEADERS, CREDENTIAL_PARAMETERS};

/// The header with the proxy's own key.
pub(crate) const KEY: HeaderName = HeaderName::from_static("x-sitecore-auth-key");

/// Headers that concern one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Other headers that are not passed on to an API.
const NOT_FOR_APIS: [HeaderName; 8] = [
    KEY,
    header::COOKIE,
    header::FORWARDED,
    header::HOST,
    header::ORIGIN,
    // It is set for the body that is sent.
    header::CONTENT_LENGTH,
    // The proxy has responded to it.
    header::EXPECT,
    // Responses must be readable: some are rewritten, and some reject the token.
    header::ACCEPT_ENCODING,
];

/// Headers that would change a request's meaning after it was checked.
const OVERRIDES: [&str; 6] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
];

/// Returns the name of a credential that a request carries, if there is one.
pub(crate) fn credential(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    let header = CREDENTIAL_HEADERS.iter().find(|name| headers.contains_key(*name));
    if let Some(name) = header {
        return Some(name.to_string());
    }
    let mut parameters = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    parameters.find_map(|(name, _)| {
        let known = CREDENTIAL_PARAMETERS.iter().find(|known| name.eq_ignore_ascii_case(known));
        known.map(|&known| known.to_owned())
    })
}

/// Removes what an API must not see.
pub(crate) fn strip_request(headers: &mut HeaderMap) {
    strip_connection(headers);
    for name in NOT_FOR_APIS {
        headers.remove(name);
    }
    strip(headers, |name| {
        // Some servers read one for the other.
        let name = name.as_str().replace('_', "-");
        name.starts_with("x-forwarded-") || OVERRIDES.contains(&&*name)
    });
}

/// Removes what a caller must not see, and what would open the proxy to other web pages.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // It is ignored in that case (RFC 9112, section 6.3).
        headers.remove(header::CONTENT_LENGTH);
    }
    strip_connection(headers);
    headers.remove(super::problem::MARK);
    headers.remove(header::SET_COOKIE);
    headers.remove(header::STRICT_TRANSPORT_SECURITY);
    headers.remove(header::ALT_SVC);
    strip(headers, |name| name.as_str().starts_with("access-control-"));
}

fn strip_connection(headers: &mut HeaderMap) {
    let values = headers.get_all(header::CONNECTION).iter();
    let named = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let named: Vec<_> = named.filter_map(|name| HeaderName::try_from(name.trim()).ok()).collect();
    for name in named.into_iter().chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn strip(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    let unwanted: Vec<_> = headers.keys().filter(|name| is_unwanted(name)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}
