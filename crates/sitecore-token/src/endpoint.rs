//! Where tokens come from: the token URL and the audience to ask for.

use std::{fmt, net::IpAddr};

use url::{Host, Url};

use crate::{Error, Result, env::variable};

pub(crate) const SITECORE_AUTHORITY: &str = "https://auth.sitecorecloud.io";
const SITECORE_AUDIENCE: &str = "https://api.sitecorecloud.io";

/// A token endpoint and the audience that its tokens are meant for.
///
/// The URL is https. Plain http is accepted for loopback alone: an IP literal such as `127.0.0.1`, or
/// exactly `localhost`, because the request carries the client secret.
///
/// # Examples
///
/// ```
/// use sitecore_token::Endpoint;
///
/// let cloud = Endpoint::sitecore_cloud();
/// assert_eq!(cloud.token_url().as_str(), "https://auth.sitecorecloud.io/oauth/token");
///
/// let insecure = Endpoint::new("http://issuer.example/oauth/token".parse()?, "my-api");
/// assert!(insecure.is_err());
/// # Ok::<(), url::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    token_url: Url,
    audience: Option<String>,
}

impl Endpoint {
    /// Returns Sitecore Cloud's issuer, with the audience that its public APIs share.
    #[must_use]
    pub fn sitecore_cloud() -> Self {
        Self {
            token_url: Url::parse(&format!("{SITECORE_AUTHORITY}/oauth/token"))
                .expect("the constant is a valid URL"),
            audience: Some(SITECORE_AUDIENCE.to_owned()),
        }
    }

    /// Makes an endpoint of another issuer or for another audience.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the URL is neither https nor http to loopback, if it
    /// carries a user name, a password or a fragment ([RFC 6749 §3.2]), or if the audience is empty.
    ///
    /// [RFC 6749 §3.2]: https://www.rfc-editor.org/rfc/rfc6749#section-3.2
    pub fn new(token_url: Url, audience: impl Into<String>) -> Result<Self> {
        let audience = audience.into();
        let refuse = |why: &str| {
            let mut shown = token_url.clone();
            let _ = (shown.set_username(""), shown.set_password(None));
            shown.set_query(None);
            shown.set_fragment(None);
            Err(Error::config(format!("the token URL {shown} {why}")))
        };
        let secure = token_url.scheme() == "https" || is_http_to_loopback(&token_url);
        if !secure {
            return refuse(
                "is not https: it would send the client secret in clear text; use https (http is accepted for loopback only)",
            );
        }
        if !token_url.username().is_empty() || token_url.password().is_some() {
            return refuse(
                "has a user name or password: remove them, credentials go into ClientCredentials",
            );
        }
        if token_url.fragment().is_some() {
            return refuse("has a fragment: remove the part after `#`");
        }
        if audience.trim().is_empty() {
            return Err(Error::config(
                "the audience is empty: give the API's identifier, or call without_audience()",
            ));
        }
        Ok(Self { token_url, audience: Some(audience) })
    }

    /// Reads the endpoint from the environment: `SITECORE_AUTH_AUTHORITY`, to which `/oauth/token` is
    /// added, and `SITECORE_AUTH_AUDIENCE`. Each has [`sitecore_cloud`](Self::sitecore_cloud)'s value as
    /// its default.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config), naming the variable, if a value is empty, is no URL or is
    /// one that [`new`](Self::new) refuses.
    pub fn from_env() -> Result<Self> {
        let authority = variable("SITECORE_AUTH_AUTHORITY")?;
        let audience = variable("SITECORE_AUTH_AUDIENCE")?;
        Self::of_authority(
            "SITECORE_AUTH_AUTHORITY",
            authority.as_deref().unwrap_or(SITECORE_AUTHORITY),
            audience.as_deref(),
        )
    }

    /// Makes the endpoint of an authority that was written down at `place`.
    pub(crate) fn of_authority(
        place: &str,
        authority: &str,
        audience: Option<&str>,
    ) -> Result<Self> {
        let refuse = |why: &str| {
            Error::config(format!("{place} {why}: give one such as {SITECORE_AUTHORITY}"))
        };
        let authority =
            Url::parse(authority.trim()).map_err(|error| refuse("is no URL").with_source(error))?;
        if authority.query().is_some() || authority.fragment().is_some() {
            return Err(refuse("has a query or a fragment"));
        }
        let path = authority.path().trim_end_matches('/');
        if path.ends_with("/oauth/token") {
            return Err(refuse("is the token URL, and not the authority"));
        }
        let mut url = authority.clone();
        url.set_path(&format!("{path}/oauth/token"));
        Self::new(url, audience.unwrap_or(SITECORE_AUDIENCE).trim())
            .map_err(|error| Error::config(format!("{place} cannot be used: {error}")))
    }

    /// Leaves the audience out of the request, for servers that want none.
    #[must_use]
    pub fn without_audience(mut self) -> Self {
        self.audience = None;
        self
    }

    /// Returns the URL that is asked for tokens.
    #[must_use]
    pub fn token_url(&self) -> &Url {
        &self.token_url
    }

    /// Returns the audience that is asked for, if any.
    #[must_use]
    pub fn audience(&self) -> Option<&str> {
        self.audience.as_deref()
    }

    pub(crate) fn host(&self) -> &str {
        self.token_url.host_str().unwrap_or_default()
    }

    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.token_url)
    }
}

/// Without the URL's query: some gateways want a key there.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.token_url.clone();
        url.set_query(None);
        f.debug_struct("Endpoint")
            .field("token_url", &url.as_str())
            .field("audience", &self.audience)
            .finish()
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::sitecore_cloud()
    }
}

fn is_http_to_loopback(url: &Url) -> bool {
    url.scheme() == "http" && is_loopback(url)
}

/// Tells whether a URL points at this machine for certain: by IP literal, or by the name `localhost`.
///
/// Other names are not asked: what they resolve to is somebody else's to decide.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
