//! Builds a token client, and an HTTP client that does not leak the secret.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use reqwest::{redirect, retry};

use crate::{
    client::TokenClient,
    credentials::ClientCredentials,
    endpoint::Endpoint,
    error::{Error, Result},
    settings::{ClientAuth, Encoding, Settings},
};

/// The time limit of one token request. A healthy issuer needs a tenth of it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Parameters that the client sets itself.
const RESERVED: [&str; 5] = ["audience", "client_id", "client_secret", "grant_type", "scope"];

/// Builder for a [`TokenClient`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct TokenClientBuilder {
    credentials: ClientCredentials,
    http: reqwest::ClientBuilder,
    settings: Settings,
}

impl TokenClient {
    /// Creates a client for Sitecore Cloud.
    ///
    /// # Errors
    ///
    /// As [`TokenClientBuilder::build`].
    pub fn new(credentials: ClientCredentials) -> Result<Self> {
        Self::builder(credentials).build()
    }

    /// Returns a builder for a client with other settings.
    pub fn builder(credentials: ClientCredentials) -> TokenClientBuilder {
        TokenClientBuilder::new(credentials)
    }
}

impl TokenClientBuilder {
    fn new(credentials: ClientCredentials) -> Self {
        Self {
            credentials,
            http: reqwest::Client::builder(),
            settings: Settings {
                endpoint: Endpoint::default(),
                encoding: Encoding::default(),
                client_auth: ClientAuth::default(),
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

    /// Sets the encoding of the request; [`Encoding::Form`] by default.
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.settings.encoding = encoding;
        self
    }

    /// Sets how the client authenticates itself; [`ClientAuth::Body`] by default.
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.settings.client_auth = client_auth;
        self
    }

    /// Sets the scopes to request, separated by spaces. By default none is requested and the issuer
    /// grants all scopes of the client. Auth0 refuses the whole request if the client lacks one of
    /// the requested scopes.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.settings.scope = Some(scope.into());
        self
    }

    /// Adds a parameter that the issuer requires in addition to the standard ones.
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.parameters.push((name.into(), value.into()));
        self
    }

    /// Sets the time limit of one token request, from connecting to the last byte of the response;
    /// 10 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// Sets the builder of the HTTP client to start from, with its proxies, certificates and user
    /// agent. The settings that [`TokenClient`] guarantees are applied on top. If it sets no user
    /// agent, `sitecore-auth/<version>` is used, because some firewalls block requests without one.
    pub fn http(mut self, builder: reqwest::ClientBuilder) -> Self {
        self.http = builder;
        self
    }

    /// Builds the client. No request is sent.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if
    ///
    /// - the id or the secret is empty,
    /// - the token URL has no path, or uses https in a program compiled without TLS,
    /// - the timeout is zero,
    /// - a parameter is one that the client sets itself, or is set twice and the encoding is JSON,
    /// - the HTTP client could not be built.
    pub fn build(self) -> Result<TokenClient> {
        let Self { credentials, http, settings } = self;
        credentials.check_present()?;
        settings.endpoint.check()?;
        if settings.timeout.is_zero() {
            return Err(Error::config(
                "the timeout must not be zero; allow a few seconds for a token request",
            ));
        }
        if let Some((name, _)) =
            settings.parameters.iter().find(|(name, _)| RESERVED.contains(&name.as_str()))
        {
            return Err(Error::config(format!(
                "`{name}` is a standard parameter, which the client sets itself; remove it and use the credentials, the endpoint or `scope`"
            )));
        }
        let mut names: Vec<_> = settings.parameters.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        if settings.encoding == Encoding::Json && names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::config(
                "duplicate parameter, which JSON cannot express; use Encoding::Form",
            ));
        }
        let http = hardened(http, &settings.endpoint).build().map_err(|error| {
            Error::config("the HTTP client could not be built; check the certificates and proxies that were passed to `http`").with_source(error)
        })?;
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

const USER_AGENT: &str = concat!("sitecore-auth/", env!("CARGO_PKG_VERSION"));

/// Configures the client to send the secret to the endpoint and nowhere else.
fn hardened(http: reqwest::ClientBuilder, endpoint: &Endpoint) -> reqwest::ClientBuilder {
    // Port 0 means the port of the URL.
    let loopback: [SocketAddr; 2] =
        [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
    // A builder shows its headers only in its `Debug` output.
    let has_user_agent = format!("{http:?}").contains("\"user-agent\"");
    let http = if has_user_agent { http } else { http.user_agent(USER_AGENT) };
    let http = http
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .https_only(endpoint.token_url().scheme() == "https")
        .resolve_to_addrs("localhost", &loopback)
        .connection_verbose(false)
        // Token requests are rare, and a pooled connection does not survive its runtime.
        .pool_max_idle_per_host(0);
    if endpoint.is_loopback() { http.no_proxy() } else { http }
}
