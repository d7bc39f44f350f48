//! Where a token may be sent: exact origins and paths, compared with the URL that reqwest will use.

use std::{fmt, net::IpAddr};

use http::HeaderName;
use memchr::memchr2;
use percent_encoding::percent_decode_str;
use sitecore_token::{ClientKind, is_loopback};
use url::{Host, Url};

use crate::error::{Error, ErrorKind, Result};

/// The header that carries Edge keys.
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("sc_apikey");

const AUTHORING_PATH: &str = "/sitecore/api/";
const DEPLOY: &str = "xmclouddeploy-api.sitecorecloud.io";
const EDGE: &str = "edge.sitecorecloud.io";
const EDGE_ADMIN_PATHS: [&str; 2] = ["/api/admin/", "/api/apikey/"];

/// The folders of Edge Platform that accept a JWT. Those below `/v1/` are public.
const EDGE_PLATFORM: &str = "edge-platform.sitecorecloud.io";
const EDGE_PLATFORM_PATHS: [&str; 6] =
    ["/authoring/", "/stream/", "/mcp/", "/mesh/", "/cs/", "/search/"];

/// The regions of the Agent API.
const AGENT_REGIONS: [&str; 4] = ["euw", "use", "aue", "jpe"];

/// The hosts of Content Hub ONE.
const CONTENT_HUB_ONE: [&str; 2] = ["content-api.sitecorecloud.io", "mms-upload.sitecorecloud.io"];

/// A set of origins and paths that a token may be sent to.
///
/// An origin is a scheme, a host and a port. All three must match exactly: subdomains and other
/// ports are not covered. The scheme must be https. Plain http is accepted only for a loopback IP
/// address, such as `127.0.0.1`, for exactly `localhost`, and after
/// [`insecure_http`](Self::insecure_http). This is checked when the middleware is built.
///
/// `Display` lists the URLs of the folders that the target covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    rules: Vec<Rule>,
    allows_http: bool,
}

/// One folder on one origin that accepts the token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    /// The URL of the folder in normalized form. Over https, its host has no trailing dot. Its path
    /// ends with a slash. The same path without the slash is covered too.
    url: Url,
    /// The path of that URL.
    path: String,
    /// The kind of client whose tokens this API accepts.
    pub(crate) client_kind: Option<ClientKind>,
}

impl Target {
    /// The path of the Authoring and Management GraphQL API.
    pub(crate) const AUTHORING_ENDPOINT: &'static str = "/sitecore/api/authoring/graphql/v1";

    fn new(rules: impl Into<Vec<Rule>>) -> Self {
        Self { rules: rules.into(), allows_http: false }
    }

    /// Returns a target for those of Sitecore's own APIs that accept a JWT:
    ///
    /// - [`deploy`](Self::deploy), and its logs at `xmcloud-monitoring-api.sitecorecloud.io`;
    /// - [`edge_admin`](Self::edge_admin);
    /// - the Sites and Pages APIs at `xmapps-api.sitecorecloud.io`, below `/api/`;
    /// - Publishing, Agent, search and other APIs at `edge-platform.sitecorecloud.io`, below
    ///   `/authoring/`, `/stream/`, `/mcp/`, `/mesh/`, `/cs/` and `/search/`. What is below `/v1/`
    ///   is public and gets no token;
    /// - the regional hosts of the Agent API: [`agent`](Self::agent);
    /// - Content Hub ONE at `content-api.sitecorecloud.io` and `mms-upload.sitecorecloud.io`.
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
        let others = [
            Rule::https("xmcloud-monitoring-api.sitecorecloud.io", "/"),
            Rule::https("xmapps-api.sitecorecloud.io", "/api/"),
        ];
        let platform = EDGE_PLATFORM_PATHS.map(|path| Rule::https(EDGE_PLATFORM, path));
        let agents = AGENT_REGIONS.map(Rule::agent);
        let content_hub = CONTENT_HUB_ONE.map(|host| Rule::https(host, "/"));
        let own = [Self::deploy().rules, Self::edge_admin().rules].concat();
        Self::new([&own[..], &others, &platform, &agents, &content_hub].concat())
    }

    /// Returns a target for the Authoring and Management API of one CM: that host, below
    /// `/sitecore/api/`.
    ///
    /// `host` is a host name, such as `xmc-acme-site-prod.sitecorecloud.io`, or the URL of the CM
    /// or of its GraphQL endpoint.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if `host` is neither.
    pub fn authoring(host: impl AsRef<str>) -> Result<Self> {
        let given = host.as_ref().trim();
        let rule = if given.contains("://") {
            Rule::authoring_at(given)
        } else {
            host_name(given).map(|host| Rule::https(&host, AUTHORING_PATH))
        };
        let rule = rule.ok_or_else(|| invalid_authoring(given))?;
        Ok(Self::new([rule.for_client(ClientKind::Environment)]))
    }

    /// Returns a target for the Deploy API: `xmclouddeploy-api.sitecorecloud.io`, below `/api/`.
    #[must_use]
    pub fn deploy() -> Self {
        Self::new([Rule::https(DEPLOY, "/api/").for_client(ClientKind::Organization)])
    }

    /// Returns a target for the Admin API and the Token API of Experience Edge:
    /// `edge.sitecorecloud.io`, below `/api/admin/` and `/api/apikey/`.
    #[must_use]
    pub fn edge_admin() -> Self {
        Self::new(
            EDGE_ADMIN_PATHS
                .map(|path| Rule::https(EDGE, path).for_client(ClientKind::EdgeAdministration)),
        )
    }

    /// Returns a target for the Delivery API of Experience Edge: `edge.sitecorecloud.io`, below
    /// `/api/graphql/`. That API requires an Edge key rather than a JWT.
    #[must_use]
    pub fn edge_delivery() -> Self {
        Self::new([Rule::https(EDGE, "/api/graphql/")])
    }

    /// Returns a target for the Agent API of one region: `ai-agent-api-<region>.sitecorecloud.io`.
    /// The known regions are `euw`, `use`, `aue` and `jpe`.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if `region` is not 1 to 16 letters or digits.
    pub fn agent(region: impl AsRef<str>) -> Result<Self> {
        let region = region.as_ref().trim().to_ascii_lowercase();
        let is_name = (1..=16).contains(&region.len())
            && region.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_name {
            let known = AGENT_REGIONS.join(", ");
            return Err(config(format!(
                "invalid region `{region}`: expected letters or digits, such as {known}"
            )));
        }
        Ok(Self::new([Rule::agent(&region)]))
    }

    /// Returns a target that covers every path of this origin.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the URL is not an origin.
    pub fn origin(url: Url) -> Result<Self> {
        Ok(Self::new([Rule::at_origin(&url, "/")?]))
    }

    /// Returns a target that covers this URL and everything below it. Use it for an API behind a
    /// gateway, or for code of your own on a CM.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the URL has a query, a fragment or credentials, or is
    /// neither http nor https.
    pub fn folder(url: Url) -> Result<Self> {
        Ok(Self::new([Rule::at(&url, url.path())?]))
    }

    /// Returns a target for the same paths on another origin, such as a proxy or a test server. If
    /// this target covers whole hosts, as [`sitecore_cloud`](Self::sitecore_cloud) does, the result
    /// covers the whole origin.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the URL is not an origin.
    pub fn with_origin(self, url: Url) -> Result<Self> {
        let move_rule = |rule: &Rule| {
            let moved = Rule::at_origin(&url, &rule.path)?;
            Ok(Rule { client_kind: rule.client_kind, ..moved })
        };
        let rules = self.rules.iter().map(move_rule).collect::<Result<_>>()?;
        Ok(Self { rules, ..self })
    }

    /// Allows plain http to exactly the hosts that this target names, such as another container in
    /// the same pod.
    ///
    /// Anyone who can read the traffic on the way gets the token, and can use it until it expires.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use sitecore_auth::Target;
    /// let cm = Target::authoring("http://cm:8080")?.insecure_http();
    /// assert_eq!(cm.to_string(), "http://cm:8080/sitecore/api/");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn insecure_http(mut self) -> Self {
        self.allows_http = true;
        self
    }

    /// Returns `true` if the URL has a path of the Authoring API, on any origin.
    pub(crate) fn is_authoring(url: &Url) -> bool {
        let folder = url.path().get(..AUTHORING_PATH.len());
        // Windows does not distinguish upper and lower case in paths.
        folder.is_some_and(|folder| folder.eq_ignore_ascii_case(AUTHORING_PATH))
            || Self::is_authoring_endpoint(url)
    }

    /// Returns `true` if the URL's path ends in that of the Authoring API's endpoint. A gateway may
    /// prepend a folder.
    pub(crate) fn is_authoring_endpoint(url: &Url) -> bool {
        let path = url.path().trim_end_matches('/').as_bytes();
        let start = path.len().saturating_sub(Self::AUTHORING_ENDPOINT.len());
        path[start..].eq_ignore_ascii_case(Self::AUTHORING_ENDPOINT.as_bytes())
    }

    /// Returns `true` if the URL has a path of Edge's Token API.
    pub(crate) fn is_token_api(url: &Url) -> bool {
        url.path().starts_with(EDGE_ADMIN_PATHS[1])
    }

    /// Returns the rules, or an error if one would send the token in clear text.
    pub(crate) fn into_rules(self) -> Result<Vec<Rule>> {
        let is_clear_text = |rule: &&Rule| rule.url.scheme() == "http" && !is_loopback(&rule.url);
        match self.rules.iter().find(is_clear_text) {
            Some(rule) if !self.allows_http => Err(config(format!(
                "target {} would send the token in clear text; use https, or accept the risk with Target::insecure_http()",
                rule.name()
            ))),
            _ => Ok(self.rules),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, rule) in self.rules.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{}", rule.name())?;
        }
        Ok(())
    }
}

impl Rule {
    fn new(url: Url) -> Self {
        let path = url.path().to_owned();
        Self { url, path, client_kind: None }
    }

    fn https(host: &str, path: &str) -> Self {
        let url = Url::parse(&format!("https://{host}{path}"));
        Self::new(url.expect("a host and a path form a URL"))
    }

    fn agent(region: &str) -> Self {
        Self::https(&format!("ai-agent-api-{region}.sitecorecloud.io"), "/")
    }

    /// Returns the rule for a CM at this URL, or for the CM that has this endpoint.
    fn authoring_at(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let path = url.path();
        let is_cm = matches!(path, "/" | "/sitecore") || path.starts_with("/sitecore/");
        if is_cm { Self::at(&url, AUTHORING_PATH).ok() } else { None }
    }

    fn for_client(mut self, kind: ClientKind) -> Self {
        self.client_kind = Some(kind);
        self
    }

    fn at_origin(url: &Url, path: &str) -> Result<Self> {
        if !matches!(url.path(), "" | "/") {
            let origin = url.origin().ascii_serialization();
            return Err(config(format!(
                "target {origin} must be an origin without a path; for a folder, use Target::folder"
            )));
        }
        Self::at(url, path)
    }

    fn at(url: &Url, path: &str) -> Result<Self> {
        let shown = url.origin().ascii_serialization();
        let is_plain = url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !is_plain {
            return Err(config(format!(
                "target {shown} must have no query, fragment or credentials"
            )));
        }
        if !matches!(url.scheme(), "http" | "https") {
            let scheme = url.scheme();
            return Err(config(format!(
                "a target must be an https URL, such as https://api.example; this one begins with {scheme}:"
            )));
        }
        let mut folder = url.clone();
        let slash = if path.ends_with('/') { "" } else { "/" };
        folder.set_path(&format!("{path}{slash}"));
        // Over http, the token goes only to the host exactly as it was named.
        let normalize = |host| if url.scheme() == "https" { without_dot(host) } else { host };
        if folder.set_host(url.host_str().map(normalize)).is_err() {
            return Err(config(
                "the target URL has no host; expected, for example, https://api.example".to_owned(),
            ));
        }
        Ok(Self::new(folder))
    }

    /// Returns the URL of the folder, as a name for the API in logs.
    pub(crate) fn name(&self) -> &str {
        self.url.as_str()
    }

    pub(crate) fn is_on_loopback(&self) -> bool {
        is_loopback(&self.url)
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
        // Nearly all URLs start with the folder's URL, and a single comparison detects that.
        let is_below = url.as_str().starts_with(self.url.as_str());
        (is_below || self.is_origin_of(url)) && (self.path == "/" || self.has_path(url.path()))
    }

    fn has_path(&self, path: &str) -> bool {
        let is_inside = path.starts_with(&*self.path) || Some(path) == self.path.strip_suffix('/');
        is_inside && !has_encoded_dot_dot(path)
    }
}

/// Returns `true` if a server that decodes the path, once or repeatedly, would find a `..` segment
/// in it. The URL parser has already resolved plain ones.
fn has_encoded_dot_dot(path: &str) -> bool {
    if memchr2(b'%', b';', path.as_bytes()).is_none() {
        return false;
    }
    let mut path = path.to_owned();
    loop {
        let decoded = percent_decode_str(&path).decode_utf8_lossy().replace('\\', "/");
        if decoded == path {
            break;
        }
        path = decoded;
    }
    // Some servers treat the part after a semicolon as parameters.
    path.split('/').any(|segment| segment.split(';').next() == Some(".."))
}

/// Returns the host in normalized form if it is a plain name.
fn host_name(given: &str) -> Option<String> {
    let is_name = |text: &str| {
        let is_plain = |char: char| char.is_alphanumeric() || matches!(char, '-' | '_' | '.');
        text.chars().all(is_plain) && text.chars().any(char::is_alphabetic) && !text.contains("..")
    };
    let Ok(Host::Domain(host)) = Host::parse(given) else { return None };
    let host = without_dot(&host);
    // Parsing removes some letters, so nothing may be left of what looked like a name.
    (is_name(given) && is_name(host)).then(|| host.to_owned())
}

/// Returns the error for something that names no CM. A URL is not quoted, because it may contain
/// credentials.
fn invalid_authoring(given: &str) -> Error {
    const EXAMPLE: &str = "a host name, such as xmc-acme-site-prod.sitecorecloud.io";
    let is_plain = !given.contains(['/', '@', '?', '#']);
    config(if given.contains("://") {
        format!(
            "invalid host: expected {EXAMPLE}, or an https URL without query or credentials whose path, if any, is below /sitecore/; for a CM behind a gateway, use Target::folder"
        )
    } else if is_plain && given.contains([':', '[']) || given.parse::<IpAddr>().is_ok() {
        format!(
            "invalid host `{given}`: for an IP address or a port, give a URL, such as https://10.0.0.5:8443"
        )
    } else if is_plain {
        format!("invalid host `{given}`: expected {EXAMPLE}, or the CM's https URL")
    } else {
        format!(
            "invalid host: expected {EXAMPLE}, without a path, or a URL that begins with https://"
        )
    })
}

/// In DNS, a name with a trailing dot is the same name.
fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}
