//! Where tokens come from: the token URL and the audience.

use std::{fmt, net::IpAddr};

use url::{Host, Url};

use crate::{
    env::variable,
    error::{Error, Result},
    text::check,
};

pub(crate) const SITECORE_AUTHORITY: &str = "https://auth.sitecorecloud.io";
const SITECORE_AUDIENCE: &str = "https://api.sitecorecloud.io";

/// A token endpoint and the audience to request tokens for.
///
/// The URL must use https, because the request carries the client secret. Plain http is accepted
/// only for a loopback IP address, such as `127.0.0.1`, or for exactly `localhost`.
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
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    token_url: Url,
    audience: Option<String>,
}

impl Endpoint {
    /// Returns the endpoint of Sitecore Cloud's issuer, with the audience that its public APIs
    /// share.
    #[must_use]
    pub fn sitecore_cloud() -> Self {
        Self {
            token_url: Url::parse(&format!("{SITECORE_AUTHORITY}/oauth/token"))
                .expect("the constant is a valid URL"),
            audience: Some(SITECORE_AUDIENCE.to_owned()),
        }
    }

    /// Creates an endpoint of another issuer, or for another audience.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the URL is neither https nor http to loopback, if it
    /// has a user name, a password or a fragment ([RFC 6749 §3.2]), or if the audience is empty.
    ///
    /// [RFC 6749 §3.2]: https://www.rfc-editor.org/rfc/rfc6749#section-3.2
    pub fn new(token_url: Url, audience: impl Into<String>) -> Result<Self> {
        let audience = audience.into();
        let invalid = |why: &str| {
            let mut shown = token_url.clone();
            let _ = (shown.set_username(""), shown.set_password(None));
            shown.set_query(None);
            shown.set_fragment(None);
            Err(Error::config(format!("the token URL {shown} {why}")))
        };
        let secure = token_url.scheme() == "https" || is_http_to_loopback(&token_url);
        if !secure {
            return invalid(
                "would send the client secret in clear text; use https (http is accepted only for loopback)",
            );
        }
        if !token_url.username().is_empty() || token_url.password().is_some() {
            return invalid("has a user name or a password; remove them and use ClientCredentials");
        }
        if token_url.fragment().is_some() {
            return invalid("has a fragment; remove the part after `#`");
        }
        if audience.trim().is_empty() {
            return Err(Error::config(
                "the audience is empty; use the API's identifier, or call without_audience()",
            ));
        }
        Ok(Self { token_url, audience: Some(audience) })
    }

    /// Reads the endpoint from the environment: `SITECORE_AUTH_AUTHORITY`, to which `/oauth/token`
    /// is appended, and `SITECORE_AUTH_AUDIENCE`. A missing variable defaults to the value of
    /// [`sitecore_cloud`](Self::sitecore_cloud).
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if a value is empty, is enclosed in quotation marks,
    /// contains anything but printable ASCII, is not a URL, or is not accepted by
    /// [`new`](Self::new). The error names the variable.
    pub fn from_env() -> Result<Self> {
        const AUTHORITY: &str = "SITECORE_AUTH_AUTHORITY";
        const AUDIENCE: &str = "SITECORE_AUTH_AUDIENCE";
        let authority = variable(AUTHORITY)?;
        let authority = authority.as_deref().map(|text| check(AUTHORITY, text)).transpose()?;
        let audience = variable(AUDIENCE)?;
        let audience = audience.as_deref().map(|text| check(AUDIENCE, text)).transpose()?;
        Self::of_authority(AUTHORITY, authority.unwrap_or(SITECORE_AUTHORITY), audience)
    }

    /// Creates the endpoint of an authority. `place` says where the authority was configured.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    #[doc(hidden)]
    pub fn of_authority(place: &str, authority: &str, audience: Option<&str>) -> Result<Self> {
        let invalid = |why: &str| {
            Error::config(format!("{place} {why} (expected, for example, {SITECORE_AUTHORITY})"))
        };
        let authority = Url::parse(authority.trim())
            .map_err(|error| invalid("is not a valid URL").with_source(error))?;
        if authority.query().is_some() || authority.fragment().is_some() {
            return Err(invalid("has a query or a fragment"));
        }
        let path = authority.path().trim_end_matches('/');
        if path.ends_with("/oauth/token") {
            return Err(invalid("is the token URL instead of the authority"));
        }
        let mut url = authority.clone();
        url.set_path(&format!("{path}/oauth/token"));
        Self::new(url, audience.unwrap_or(SITECORE_AUDIENCE).trim())
            .map_err(|error| Error::config(format!("{place} is invalid: {error}")))
    }

    /// Removes the audience from the request, for servers that do not expect one.
    #[must_use]
    pub fn without_audience(mut self) -> Self {
        self.audience = None;
        self
    }

    /// Returns the URL of the token endpoint.
    #[must_use]
    pub fn token_url(&self) -> &Url {
        &self.token_url
    }

    /// Returns the audience, if there is one.
    #[must_use]
    pub fn audience(&self) -> Option<&str> {
        self.audience.as_deref()
    }

    /// Checks what `new` accepts but a client cannot use.
    pub(crate) fn check(&self) -> Result<()> {
        if self.token_url.path() == "/" {
            return Err(Error::config(format!(
                "the token URL {} has no path; use the URL of the token endpoint, such as {SITECORE_AUTHORITY}/oauth/token",
                self.shown_url()
            )));
        }
        let has_tls =
            cfg!(any(feature = "rustls", feature = "rustls-no-provider", feature = "native-tls"));
        if self.token_url.scheme() == "https" && !has_tls {
            return Err(Error::config(
                "this program was compiled without TLS, but the token URL uses https; enable the feature `rustls`, `rustls-no-provider` or `native-tls`",
            ));
        }
        Ok(())
    }

    /// Returns the URL without its query, where some gateways expect a key.
    fn shown_url(&self) -> Url {
        let mut url = self.token_url.clone();
        url.set_query(None);
        url
    }

    pub(crate) fn host(&self) -> &str {
        self.token_url.host_str().unwrap_or_default()
    }

    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.token_url)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("token_url", &self.shown_url().as_str())
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

/// Returns `true` if a URL certainly points to this machine, by IP literal or by the name
/// `localhost`.
///
/// Other names are not resolved, because others control what they resolve to.
#[doc(hidden)]
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(all(
    test,
    not(any(feature = "rustls", feature = "rustls-no-provider", feature = "native-tls"))
))]
mod tests {
    use crate::{ClientCredentials, ErrorKind, TokenClient};

    #[test]
    fn a_client_without_tls_is_a_config_error() {
        let error = TokenClient::new(ClientCredentials::new("id", "secret")).expect_err("no TLS");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("enable the feature `rustls`"), "{error}");
    }
}
