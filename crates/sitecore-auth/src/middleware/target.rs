//! Where a token may go: exact origins and paths, read from the URL that reqwest will use.

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
    /// The folder's URL, as the URL parser writes it, its host without a dot at the end.
    base: Url,
    /// Ends with a slash; the path without it counts too.
    folder: &'static str,
    /// Whose tokens the API there takes.
    pub(super) wanted: Option<ClientKind>,
}

impl Target {
    /// Returns Sitecore's own APIs that take a JWT:
    ///
    /// - [`deploy`](Self::deploy), and its logs at `xmcloud-monitoring-api.sitecorecloud.io`;
    /// - [`edge_admin`](Self::edge_admin);
    /// - Sites and Pages at `xmapps-api.sitecorecloud.io`, below `/api/`;
    /// - Publishing and Agent APIs at `edge-platform.sitecorecloud.io`.
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
        Self { rules: rules.concat() }
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
            // What is written may be a name, and nothing of it be left: some letters count for nothing in a host.
            Ok(Host::Domain(host)) if is_name(given) && is_name(without_dot(&host)) => Ok(Self {
                rules: vec![
                    Rule::https(without_dot(&host), AUTHORING_PATH).of(ClientKind::Environment),
                ],
            }),
            _ => Err(config(format!(
                "`{given}` is no host name: give the host alone, without scheme, port, path or wildcard, such as xmc-acme-site-prod.sitecorecloud.io"
            ))),
        }
    }

    /// Returns the Deploy API: `xmclouddeploy-api.sitecorecloud.io`, below `/api/`.
    #[must_use]
    pub fn deploy() -> Self {
        Self { rules: vec![Rule::https(DEPLOY, "/api/").of(ClientKind::Organization)] }
    }

    /// Returns the Admin API and the Token API of Experience Edge: `edge.sitecorecloud.io`, below `/api/admin/` and
    /// `/api/apikey/`.
    #[must_use]
    pub fn edge_admin() -> Self {
        Self {
            rules: EDGE_ADMIN_PATHS
                .map(|path| Rule::https(EDGE, path).of(ClientKind::EdgeAdministration))
                .into(),
        }
    }

    /// Returns the Delivery API of Experience Edge, which takes an Edge key rather than a JWT:
    /// `edge.sitecorecloud.io`, below `/api/graphql/`.
    #[must_use]
    pub fn edge_delivery() -> Self {
        Self { rules: vec![Rule::https(EDGE, "/api/graphql/")] }
    }

    /// Returns any other origin, all of it.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the URL is more than an origin, or http outside loopback.
    pub fn origin(url: Url) -> Result<Self> {
        Ok(Self { rules: vec![Rule::at(&url, "/")?] })
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
                Ok(Rule { wanted, ..Rule::at(&url, rule.folder)? })
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
    fn https(host: &str, folder: &'static str) -> Self {
        let base = Url::parse(&format!("https://{host}{folder}"));
        Self { base: base.expect("a host's name and a path make a URL"), folder, wanted: None }
    }

    fn of(mut self, wanted: ClientKind) -> Self {
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
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(url) => {}
            scheme => {
                return Err(config(format!(
                    "the target {scheme}://{shown} would carry the token in clear text: use https (http is accepted for loopback only)"
                )));
            }
        }
        let mut base = url.clone();
        base.set_path(folder);
        let host = url.host_str().map(without_dot);
        if base.set_host(host).is_err() {
            return Err(config(
                "the target URL has no host: give one such as https://api.example".to_owned(),
            ));
        }
        Ok(Self { base, folder, wanted: None })
    }

    /// Names the API, by the folder's URL.
    pub(super) fn name(&self) -> &str {
        self.base.as_str()
    }

    /// Tells whether the URL's scheme, host and port are this rule's. The URL parser has written the
    /// host in lower case and in ASCII.
    pub(super) fn is_origin_of(&self, url: &Url) -> bool {
        let host = match url.scheme() {
            "https" => url.host_str().map(without_dot),
            // In clear text to exactly the host that was named.
            _ => url.host_str(),
        };
        url.scheme() == self.base.scheme()
            && host == self.base.host_str()
            && url.port_or_known_default() == self.base.port_or_known_default()
    }

    /// Tells whether the token may go to this URL.
    pub(super) fn covers(&self, url: &Url) -> bool {
        // Nearly all URLs begin as the folder's does, which costs one comparison.
        let begins = url.as_str().starts_with(self.base.as_str());
        (begins || self.is_origin_of(url)) && (self.folder == "/" || self.has_path(url.path()))
    }

    fn has_path(&self, path: &str) -> bool {
        let inside = path.starts_with(self.folder) || Some(path) == self.folder.strip_suffix('/');
        inside && !may_climb(path)
    }
}

/// Tells whether a server that decodes a path, once or again, would see a `..` in it. The URL parser has
/// resolved those that are plain.
fn may_climb(path: &str) -> bool {
    if !path.bytes().any(|byte| matches!(byte, b'%' | b';')) {
        return false;
    }
    let mut path = path.to_ascii_lowercase();
    while path.contains("%25") {
        path = path.replace("%25", "%");
    }
    let path = path.replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").replace("%3b", ";");
    // What stands behind a semicolon are parameters to some servers.
    path.split('/').any(|step| step.split(';').next() == Some(".."))
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
