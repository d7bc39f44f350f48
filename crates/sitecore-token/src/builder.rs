//! Settings of a token client, and what keeps its HTTP client from giving the secret away.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use reqwest::{redirect, retry};

use crate::{ClientCredentials, Endpoint, Error, Result, TokenClient};

/// Time for one grant: a healthy issuer needs a tenth of it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Parameters that the client itself sets.
const RESERVED: [&str; 5] = ["audience", "client_id", "client_secret", "grant_type", "scope"];

/// Settings of a [`TokenClient`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct TokenClientBuilder {
    credentials: ClientCredentials,
    http: reqwest::ClientBuilder,
    settings: Settings,
}

impl TokenClientBuilder {
    pub(crate) fn new(credentials: ClientCredentials) -> Self {
        Self {
            credentials,
            http: reqwest::Client::builder(),
            settings: Settings {
                endpoint: Endpoint::default(),
                encoding: Encoding::default(),
                scope: None,
                parameters: Vec::new(),
                timeout: DEFAULT_TIMEOUT,
            },
        }
    }

    /// Sets the token endpoint; [`Endpoint::sitecore_cloud`] by default.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.settings.endpoint = endpoint;
        self
    }

    /// Sets how parameters are written; [`Encoding::Form`] by default.
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.settings.encoding = encoding;
        self
    }

    /// Asks for these scopes: all in one text, separated by spaces. By default none is asked for, and the issuer grants
    /// what the client has: Auth0 refuses the whole request if one scope is not granted.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.settings.scope = Some(scope.into());
        self
    }

    /// Adds a parameter that the issuer wants beyond the standard ones.
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.parameters.push((name.into(), value.into()));
        self
    }

    /// Bounds one grant, from connecting to the last byte of the answer; 10 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// Starts from this HTTP client: proxies, certificates, user agent. What [`TokenClient`] promises
    /// of its HTTP client is set on top.
    pub fn http(mut self, builder: reqwest::ClientBuilder) -> Self {
        self.http = builder;
        self
    }

    /// Builds the client. No request is sent.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the id or the secret is empty, the timeout is zero, a parameter
    /// is one that the client sets itself, or is there twice where JSON is to be written, or the HTTP client
    /// cannot be built.
    pub fn build(self) -> Result<TokenClient> {
        let Self { credentials, http, settings } = self;
        credentials.check()?;
        if settings.timeout.is_zero() {
            return Err(Error::config("the timeout is zero: give one grant some seconds"));
        }
        if let Some((name, _)) =
            settings.parameters.iter().find(|(name, _)| RESERVED.contains(&name.as_str()))
        {
            return Err(Error::config(format!(
                "the parameter `{name}` is set by the client itself: use the setting of that name"
            )));
        }
        let mut names: Vec<_> = settings.parameters.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        if settings.encoding == Encoding::Json && names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::config(
                "a parameter is given twice, which JSON cannot say: use Encoding::Form",
            ));
        }
        let http = guarded(http, &settings.endpoint)
            .build()
            .map_err(|error| Error::config("the HTTP client cannot be built").with_source(error))?;
        Ok(TokenClient { http, credentials, settings })
    }
}

impl fmt::Debug for TokenClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenClientBuilder")
            .field("credentials", &self.credentials)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// How the request's parameters are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encoding {
    /// `application/x-www-form-urlencoded`, as RFC 6749 wants it.
    #[default]
    Form,
    /// `application/json`, which Auth0 accepts too.
    Json,
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    pub(crate) encoding: Encoding,
    pub(crate) scope: Option<String>,
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) timeout: Duration,
}

/// Of the extra parameters it shows the names alone.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.parameters.iter().map(|(name, _)| name).collect();
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("encoding", &self.encoding)
            .field("scope", &self.scope)
            .field("parameters", &names)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Sets what keeps the secret on its way to the endpoint and nowhere else.
fn guarded(http: reqwest::ClientBuilder, endpoint: &Endpoint) -> reqwest::ClientBuilder {
    // Port 0 stands for the port of the URL.
    let loopback: [SocketAddr; 2] =
        [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
    let http = http
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .https_only(endpoint.token_url().scheme() == "https")
        .resolve_to_addrs("localhost", &loopback)
        .connection_verbose(false)
        // A grant is rare, and a pooled connection dies with its runtime.
        .pool_max_idle_per_host(0);
    if endpoint.is_loopback() { http.no_proxy() } else { http }
}
