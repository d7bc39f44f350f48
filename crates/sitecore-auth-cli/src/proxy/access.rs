//! Who may call the proxy, and how.
//!
//! Other users of the machine and web pages in a browser can reach a port on loopback too.

use std::net::SocketAddr;

use hyper::{
    Method,
    header::{self, HeaderName},
    http::request::Parts,
};
use subtle::ConstantTimeEq as _;

use super::{headers, key::Key, problem::Problem};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// `TRACE` would return the token, and an API could read other spellings as one of these.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

/// Decides whether a caller may use the proxy.
#[derive(Debug)]
pub(crate) struct Access {
    /// What the header `Host` may contain.
    hosts: Vec<String>,
    key: Option<Key>,
}

impl Access {
    pub(crate) fn tcp(address: SocketAddr, allowed: &[String], key: Option<Key>) -> Self {
        let mut hosts = vec![address.to_string()];
        if address.port() == 80 {
            hosts.extend(address.to_string().strip_suffix(":80").map(str::to_owned));
        }
        hosts.extend(allowed.iter().map(|host| host.to_ascii_lowercase()));
        Self { hosts, key }
    }

    /// A socket is protected by its folder. Clients write `http://localhost/`.
    #[cfg(unix)]
    pub(crate) fn unix() -> Self {
        Self { hosts: vec!["localhost".to_owned()], key: None }
    }

    /// Checks everything except what the request does. Returns the host by which the caller
    /// reached the proxy.
    pub(crate) fn check(&self, request: &Parts) -> Result<String, Problem> {
        let host = self.host(request)?;
        let headers = &request.headers;
        let for_pages = |kind| Problem::forbidden(kind, "web pages may not use this proxy");
        let own = format!("http://{host}");
        let is_foreign = |value: &header::HeaderValue| value.as_bytes() != own.as_bytes();
        if headers.get_all(header::ORIGIN).iter().any(is_foreign) {
            return Err(for_pages("foreign_origin"));
        }
        let is_cross = |value: &header::HeaderValue| {
            !["same-origin", "none"].contains(&value.to_str().unwrap_or_default())
        };
        if headers.get_all(FETCH_SITE).iter().any(is_cross) {
            return Err(for_pages("foreign_origin"));
        }
        if request.method == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            return Err(for_pages("preflight"));
        }
        self.check_key(request)?;
        let uri = &request.uri;
        if uri.scheme().is_some() || uri.authority().is_some() || !uri.path().starts_with('/') {
            let detail = "this is not a forward proxy; send a path, such as /deploy/…";
            return Err(Problem::bad_request("absolute_target", detail));
        }
        if !METHODS.contains(&request.method) {
            let detail = "the proxy passes on GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS only";
            return Err(Problem::bad_request("method", detail));
        }
        if is_ambiguous(uri.path()) {
            let detail = "the path contains a segment `.` or `..`, or an escape sequence that is invalid or stands for a special character such as a slash";
            return Err(Problem::bad_request("ambiguous_path", detail));
        }
        if let Some(name) = headers::credential(headers, uri.query()) {
            let detail =
                format!("the request carries a credential of its own ({name}); leave it out");
            return Err(Problem::bad_request("own_credential", detail));
        }
        let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
        if upgrade.is_some_and(|protocol| protocol.to_ascii_lowercase().contains("websocket")) {
            let detail = "WebSockets are not supported; use server-sent events";
            return Err(Problem::bad_request("websocket", detail));
        }
        Ok(host)
    }

    fn host(&self, request: &Parts) -> Result<String, Problem> {
        let mut values = request.headers.get_all(header::HOST).iter();
        let host = match (values.next(), values.next()) {
            (Some(host), None) => host.to_str().ok(),
            _ => None,
        };
        let host = host.map(str::to_ascii_lowercase).filter(|host| self.hosts.contains(host));
        host.ok_or_else(|| {
            let hosts = self.hosts.join(" or ");
            Problem::misdirected(format!(
                "the Host header must be {hosts}; start the proxy with --allow-host to add another"
            ))
        })
    }

    fn check_key(&self, request: &Parts) -> Result<(), Problem> {
        let Some(key) = &self.key else { return Ok(()) };
        let mut values = request.headers.get_all(headers::KEY).iter();
        let detail = match (values.next(), values.next()) {
            (None, _) => "the header X-Sitecore-Auth-Key is missing",
            (Some(given), None) if key.as_bytes().ct_eq(given.as_bytes()).into() => return Ok(()),
            (Some(_), None) => "the key in X-Sitecore-Auth-Key is wrong",
            (Some(_), Some(_)) => "X-Sitecore-Auth-Key is repeated",
        };
        Err(Problem::forbidden("wrong_key", detail))
    }
}

/// Returns `true` if an API could read this path as a different one.
fn is_ambiguous(path: &str) -> bool {
    let is_special = |byte: u8| byte.is_ascii_control() || b"/\\?#;%".contains(&byte);
    let mut escapes = path.split('%').skip(1).map(|rest| {
        let code = rest.get(..2)?;
        u8::from_str_radix(code, 16).ok()
    });
    if path.contains('\\') || escapes.any(|byte| byte.is_none_or(is_special)) {
        return true;
    }
    path.to_ascii_lowercase().split('/').any(|segment| {
        // A parameter can follow the dots.
        let name = segment.replace("%2e", ".");
        let name = name.split([';', '%']).next().unwrap_or_default();
        name == "." || name == ".."
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_be_read_in_two_ways_is_ambiguous() {
        for path in [
            "/deploy/../edge",
            "/deploy/%2e%2e/edge",
            "/deploy/.%2E/edge",
            "/deploy/./x",
            "/deploy/x/..",
            "/deploy/..;/x",
            "/deploy/a%2Fb",
            "/deploy/a%5cb",
            "/deploy/a\\b",
            "/deploy/a%00",
            "/deploy/a%0d%0ab",
            "/deploy/%u0063",
            "/deploy/a%",
            "/deploy/a%3fb",
            "/deploy/a%23",
            "/deploy/%2563",
            "/deploy/%252525",
            "/deploy/%+f",
        ] {
            assert!(is_ambiguous(path), "{path}");
        }
        for path in ["/", "/deploy/a.b", "/deploy/..a", "/deploy/%C3%A4", "/deploy/a%20b", "//x"] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }
}
