//! Where a token may be sent: exact origins and paths, compared with the URL that reqwest will use.

use http::HeaderName;
use sitecore_token::{ClientKind, is_loopback};
use url::{Host, Url};

use crate::error::{Error, ErrorKind, Result};

/// The header that carries Edge keys.
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("sc_apikey");

const AUTHORING_PATH: &str = "/sitecore/api/";
const DEPLOY: &str = "xmclouddeploy-api.sitecorecloud.io";
const EDGE: &str = "edge.sitecorecloud.io";
const EDGE_ADMIN_PATHS: [&str; 2] = ["/api/admin/", "/api/apikey/"];

/// A set of origins and paths that a token may be sent to.
///
/// An origin is a scheme, a host and a port. All three must match exactly: subdomains and other
/// ports are not covered. The scheme must be https. Plain http is accepted only for a loopback IP
/// address, such as `127.0.0.1`, or for exactly `localhost`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    rules: Vec<Rule>,
}

/// One origin, and the folder on it that accepts the token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    /// The URL of the folder in normalized form, without a trailing dot after the host.
    url: Url,
    /// Ends with a slash. The same path without the slash is covered too.
    path: &'static str,
    /// The kind of client whose tokens this API accepts.
    pub(crate) client_kind: Option<ClientKind>,
}

impl Target {
    /// Returns Sitecore's own APIs that accept a JWT:
    ///
    /// - [`deploy`](Self::deploy), and its logs at `xmcloud-monitoring-api.sitecorecloud.io`;
    /// - [`edge_admin`](Self::edge_admin);
    /// - the Sites and Pages APIs at `xmapps-api.sitecorecloud.io`, below `/api/`;
    /// - the Publishing and Agent APIs at `edge-platform.sitecorecloud.io`.
    ///
    /// They require different kinds of client. If you have several credentials, give each
    /// middleware the targets of its own kind instead: [`deploy`](Self::deploy),
    /// [`edge_admin`](Self::edge_admin).
    ///
    /// A content management instance (CM) is not included. It runs customers' code, which could use
    /// the token on every other CM that accepts it. Name yours with [`authoring`](Self::authoring).
    /// Edge Delivery is not included either, because it requires a key.
    #[must_use]
    pub fn sitecore_cloud() -> Self {
        let rest = [
            Rule::https("xmcloud-monitoring-api.sitecorecloud.io", "/"),
            Rule::https("xmapps-api.sitecorecloud.io", "/api/"),
            Rule::https("edge-platform.sitecorecloud.io", "/"),
        ];
        let rules = [Self::deploy().rules, Self::edge_admin().rules, rest.into()];
        Self { rules: rules.concat() }
    }

    /// Returns the Authoring and Management API of one CM: that host, below `/sitecore/api/`.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if `host` is not a bare host name.
    pub fn authoring(host: impl AsRef<str>) -> Result<Self> {
        let given = host.as_ref().trim();
        let is_name = |text: &str| {
            let is_plain = |char: char| char.is_alphanumeric() || char == '-' || char == '.';
            text.chars().all(is_plain)
                && text.chars().any(char::is_alphabetic)
                && !text.contains("..")
        };
        match Host::parse(given) {
            // Parsing removes some letters, so nothing may be left of what looked like a name.
            Ok(Host::Domain(host)) if is_name(given) && is_name(without_dot(&host)) => Ok(Self {
                rules: vec![
                    Rule::https(without_dot(&host), AUTHORING_PATH)
                        .for_client(ClientKind::Environment),
                ],
            }),
            _ => Err(config(format!(
                "invalid host `{given}`: expected a bare host name such as xmc-acme-site-prod.sitecorecloud.io, without scheme, port, path or wildcard"
            ))),
        }
    }

    /// Returns the Deploy API: `xmclouddeploy-api.sitecorecloud.io`, below `/api/`.
    #[must_use]
    pub fn deploy() -> Self {
        Self { rules: vec![Rule::https(DEPLOY, "/api/").for_client(ClientKind::Organization)] }
    }

    /// Returns the Admin API and the Token API of Experience Edge: `edge.sitecorecloud.io`, below
    /// `/api/admin/` and `/api/apikey/`.
    #[must_use]
    pub fn edge_admin() -> Self {
        Self {
            rules: EDGE_ADMIN_PATHS
                .map(|path| Rule::https(EDGE, path).for_client(ClientKind::EdgeAdministration))
                .into(),
        }
    }

    /// Returns the Delivery API of Experience Edge: `edge.sitecorecloud.io`, below `/api/graphql/`.
    /// It requires an Edge key rather than a JWT.
    #[must_use]
    pub fn edge_delivery() -> Self {
        Self { rules: vec![Rule::https(EDGE, "/api/graphql/")] }
    }

    /// Returns a target that covers every path of this origin.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the URL is not an origin, or uses http outside loopback.
    pub fn origin(url: Url) -> Result<Self> {
        Ok(Self { rules: vec![Rule::new(&url, "/")?] })
    }

    /// Returns the same paths on another origin, such as a proxy or a test server.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the URL is not an origin, or uses http outside loopback.
    pub fn with_origin(self, url: Url) -> Result<Self> {
        let move_rule = |rule: &Rule| {
            let moved = Rule::new(&url, rule.path)?;
            Ok(Rule { client_kind: rule.client_kind, ..moved })
        };
        Ok(Self { rules: self.rules.iter().map(move_rule).collect::<Result<_>>()? })
    }

    /// Returns `true` if the URL has a path of the Authoring API, on any origin.
    pub(crate) fn is_authoring(url: &Url) -> bool {
        url.path().starts_with(AUTHORING_PATH)
    }

    pub(crate) fn into_rules(self) -> Vec<Rule> {
        self.rules
    }
}

impl Rule {
    fn https(host: &str, path: &'static str) -> Self {
        let url = Url::parse(&format!("https://{host}{path}"));
        Self { url: url.expect("a host and a path form a URL"), path, client_kind: None }
    }

    fn for_client(mut self, kind: ClientKind) -> Self {
        self.client_kind = Some(kind);
        self
    }

    fn new(origin: &Url, path: &'static str) -> Result<Self> {
        let is_origin = matches!(origin.path(), "" | "/")
            && origin.query().is_none()
            && origin.fragment().is_none()
            && origin.username().is_empty()
            && origin.password().is_none();
        let shown = origin.host_str().unwrap_or_default();
        if !is_origin {
            return Err(config(format!(
                "target {shown} must be an origin without path, query or credentials, such as https://{shown}"
            )));
        }
        match origin.scheme() {
            "https" => {}
            "http" if is_loopback(origin) => {}
            scheme => {
                return Err(config(format!(
                    "target {scheme}://{shown} would send the token in clear text; use https (http is accepted only for loopback)"
                )));
            }
        }
        let mut url = origin.clone();
        url.set_path(path);
        if url.set_host(origin.host_str().map(without_dot)).is_err() {
            return Err(config(
                "the target URL has no host; expected, for example, https://api.example".to_owned(),
            ));
        }
        Ok(Self { url, path, client_kind: None })
    }

    /// Returns the URL of the folder, as a name for the API in logs.
    pub(crate) fn name(&self) -> &str {
        self.url.as_str()
    }

    /// Returns `true` if the URL has this rule's scheme, host and port. The URL parser has
    /// normalized the host to lower-case ASCII.
    pub(crate) fn is_origin_of(&self, url: &Url) -> bool {
        let host = match url.scheme() {
            "https" => url.host_str().map(without_dot),
            // Clear text goes only to exactly the host that was named.
            _ => url.host_str(),
        };
        url.scheme() == self.url.scheme()
            && host == self.url.host_str()
            && url.port_or_known_default() == self.url.port_or_known_default()
    }

    /// Returns `true` if the token may be sent to this URL.
    pub(crate) fn covers(&self, url: &Url) -> bool {
        // Nearly all URLs start with the folder's URL, which takes a single comparison to find out.
        let is_below = url.as_str().starts_with(self.url.as_str());
        (is_below || self.is_origin_of(url)) && (self.path == "/" || self.has_path(url.path()))
    }

    fn has_path(&self, path: &str) -> bool {
        let is_inside = path.starts_with(self.path) || Some(path) == self.path.strip_suffix('/');
        is_inside && !has_encoded_dot_dot(path)
    }
}

/// Returns `true` if a server that decodes the path, once or repeatedly, would find a `..` segment
/// in it. The URL parser has already resolved plain ones.
fn has_encoded_dot_dot(path: &str) -> bool {
    if !path.bytes().any(|byte| matches!(byte, b'%' | b';')) {
        return false;
    }
    let mut path = path.to_ascii_lowercase();
    while path.contains("%25") {
        path = path.replace("%25", "%");
    }
    let path = path.replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").replace("%3b", ";");
    // Some servers treat the part after a semicolon as parameters.
    path.split('/').any(|segment| segment.split(';').next() == Some(".."))
}

/// In DNS, a name with a trailing dot is the same name.
fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}
