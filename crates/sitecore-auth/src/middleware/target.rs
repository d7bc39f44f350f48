//! Where a token may go: exact origins and paths, read from the URL that reqwest will use.

use std::{borrow::Cow, sync::Arc};

use url::{Host, Url};

use crate::{ClientKind, Error, ErrorKind, Result};

const AUTHORING_PATH: &str = "/sitecore/api/";
const DEPLOY: &str = "xmclouddeploy-api.sitecorecloud.io";
const EDGE: &str = "edge.sitecorecloud.io";
const EDGE_ADMIN_PATHS: [&str; 2] = ["/api/admin/", "/api/apikey/"];

/// A set of origins and paths that a token may be sent to.
///
/// An origin is scheme, host and port, compared whole: no sub-domain, no other port, https alone.
/// Plain http is accepted for loopback: an IP literal, or exactly `localhost`.
#[derive(Clone, Debug)]
pub struct Target {
    rules: Vec<Rule>,
}

/// One origin, and the folder on it that is open to the token.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    scheme: Scheme,
    host: Cow<'static, str>,
    port: u16,
    /// Ends with a slash; the path without it counts too.
    folder: &'static str,
    /// Whose tokens the API there takes.
    pub(super) wanted: Option<ClientKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Target {
    /// Returns Sitecore's own API hosts that take a JWT: Deploy API and its logs, Edge Admin and Token API, Sites
    /// and Pages, Publishing and Agent APIs.
    ///
    /// They want different kinds of client. If you have several credentials, give each layer the targets of its
    /// own kind instead: [`deploy`](Self::deploy), [`edge_admin`](Self::edge_admin).
    ///
    /// No CM, because those run customers' code and the token opens every one of them: name yours with
    /// [`authoring`](Self::authoring). Not Edge Delivery, which takes keys.
    #[must_use]
    pub fn sitecore_cloud() -> Self {
        let rest = [
            Rule::https("xmcloud-monitoring-api.sitecorecloud.io", "/"),
            Rule::https("xmapps-api.sitecorecloud.io", "/api/"),
            Rule::https("edge-platform.sitecorecloud.io", "/"),
        ];
        let rules = [Self::deploy().rules, Self::edge_admin().rules, rest.into()];
        Self {
            rules: rules.concat(),
        }
    }

    /// Returns the Authoring and Management API of one CM: that host, below `/sitecore/api/`.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if `host` is more or less than a host name.
    pub fn authoring(host: impl AsRef<str>) -> Result<Self> {
        let given = host.as_ref().trim();
        let is_name = |text: &str| {
            let plain = |char: char| char.is_alphanumeric() || char == '-' || char == '.';
            text.chars().all(plain) && text.chars().any(char::is_alphabetic) && !text.contains("..")
        };
        match Host::parse(given) {
            Ok(Host::Domain(host)) if is_name(given) => {
                let host = without_dot(&host).to_owned();
                Ok(Self {
                    rules: vec![Rule {
                        host: host.into(),
                        ..Rule::https("", AUTHORING_PATH).of(ClientKind::Environment)
                    }],
                })
            }
            _ => Err(config(format!(
                "`{given}` is no host name: give the host alone, without scheme, port, path or wildcard, such as xmc-acme-site-prod.sitecorecloud.io"
            ))),
        }
    }

    /// Returns the Deploy API.
    #[must_use]
    pub fn deploy() -> Self {
        Self {
            rules: vec![Rule::https(DEPLOY, "/api/").of(ClientKind::Organization)],
        }
    }

    /// Returns the Admin API and the Token API of Experience Edge.
    #[must_use]
    pub fn edge_admin() -> Self {
        Self {
            rules: EDGE_ADMIN_PATHS
                .map(|path| Rule::https(EDGE, path).of(ClientKind::EdgeAdministration))
                .into(),
        }
    }

    /// Returns the Delivery API of Experience Edge, which takes an Edge key rather than a JWT.
    #[must_use]
    pub fn edge_delivery() -> Self {
        Self {
            rules: vec![Rule::https(EDGE, "/api/graphql/")],
        }
    }

    /// Returns any other origin, all of it.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the URL is more than an origin, or http outside loopback.
    pub fn origin(url: Url) -> Result<Self> {
        Ok(Self {
            rules: vec![Rule::at(&url, "/")?],
        })
    }

    /// Returns the same paths on another origin: a proxy, a test server.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the URL is more than an origin, or http outside loopback.
    pub fn at(self, url: Url) -> Result<Self> {
        let rules = self
            .rules
            .iter()
            .map(|rule| {
                let wanted = rule.wanted;
                Ok(Rule {
                    wanted,
                    ..Rule::at(&url, rule.folder)?
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { rules })
    }

    /// Tells whether the Authoring API is what is called, on whichever origin.
    pub(super) fn is_authoring(url: &Url) -> bool {
        url.path().starts_with(AUTHORING_PATH)
    }

    pub(super) fn rule_for(&self, url: &Url) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.covers(url))
    }
}

impl Rule {
    const fn https(host: &'static str, folder: &'static str) -> Self {
        Self {
            scheme: Scheme::Https,
            host: Cow::Borrowed(host),
            port: 443,
            folder,
            wanted: None,
        }
    }

    const fn of(mut self, wanted: ClientKind) -> Self {
        self.wanted = Some(wanted);
        self
    }

    fn at(url: &Url, folder: &'static str) -> Result<Self> {
        let origin_only = matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let shown = url.host_str().unwrap_or_default();
        if !origin_only {
            return Err(config(format!(
                "the target at {shown} is more than an origin: give scheme, host and port alone, such as https://{shown}"
            )));
        }
        let scheme = match url.scheme() {
            "https" => Scheme::Https,
            "http" if is_loopback(url) => Scheme::Http,
            scheme => {
                return Err(config(format!(
                    "the target {scheme}://{shown} would carry the token in clear text: use https (http is accepted for loopback only)"
                )));
            }
        };
        let (host, port) = (url.host_str(), url.port_or_known_default());
        let (Some(host), Some(port)) = (host, port) else {
            return Err(config(
                "the target URL has no host: give one such as https://api.example".to_owned(),
            ));
        };
        Ok(Self {
            scheme,
            host: without_dot(host).to_owned().into(),
            port,
            folder,
            wanted: None,
        })
    }

    /// Names the API.
    pub(super) fn name(&self) -> Arc<str> {
        format!("{}:{}{}", self.host, self.port, self.folder).into()
    }

    /// Tells whether the URL's scheme, host and port are this rule's. The URL parser has written the
    /// host in lower case and in ASCII.
    pub(super) fn is_origin_of(&self, url: &Url) -> bool {
        self.begins(url.as_str()) || self.is_spelt_otherwise_in(url)
    }

    /// As nearly all URLs are written: scheme, host, path.
    fn begins(&self, url: &str) -> bool {
        let (scheme, port) = match self.scheme {
            Scheme::Https => ("https://", 443),
            Scheme::Http => ("http://", 80),
        };
        let path = url
            .strip_prefix(scheme)
            .and_then(|rest| rest.strip_prefix(&*self.host));
        self.port == port && path.is_some_and(|path| path.starts_with('/'))
    }

    /// With a port, a dot at the host's end, a user.
    fn is_spelt_otherwise_in(&self, url: &Url) -> bool {
        let scheme = match url.scheme() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return false,
        };
        let host = match (url.host_str(), scheme) {
            (None, _) => return false,
            (Some(host), Scheme::Https) => without_dot(host),
            // In clear text to exactly the host that was named.
            (Some(host), Scheme::Http) => host,
        };
        self.scheme == scheme && host == self.host && url.port_or_known_default() == Some(self.port)
    }

    /// Tells whether the token may go to this URL.
    pub(super) fn covers(&self, url: &Url) -> bool {
        self.is_origin_of(url) && self.has_path(url.path())
    }

    fn has_path(&self, path: &str) -> bool {
        if self.folder == "/" {
            return true;
        }
        let inside = path.starts_with(self.folder) || Some(path) == self.folder.strip_suffix('/');
        inside && !may_climb(path)
    }
}

/// Tells whether a server that decodes a path, once or again, would see a `..` in it. The URL parser has
/// resolved those that are plain.
fn may_climb(path: &str) -> bool {
    if !path.contains(['%', ';']) {
        return false;
    }
    let mut path = path.to_ascii_lowercase();
    while path.contains("%25") {
        path = path.replace("%25", "%");
    }
    let path = path
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "/")
        .replace("%3b", ";");
    // What stands behind a semicolon are parameters to some servers.
    path.split('/')
        .any(|step| step.split(';').next() == Some(".."))
}

/// A trailing dot is DNS's way to write the same name.
fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}
