//! One POST in, one answer out: [RFC 6749 §4.4], the client credentials grant.
//!
//! No cache, no retry, no clock: see `sitecore-auth` for those.
//!
//! [RFC 6749 §4.4]: https://www.rfc-editor.org/rfc/rfc6749#section-4.4

use std::{fmt, io};

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use secrecy::ExposeSecret;
use url::form_urlencoded;
use zeroize::Zeroizing;

use crate::{
    ClientCredentials, Encoding, Error, ErrorKind, Result, TokenClientBuilder, TokenResponse,
    builder::Settings,
    wire::{Answer, Redactor},
};

/// Largest answer that is read, after decompression.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Asks one endpoint for tokens on behalf of one client.
///
/// Cheap to clone. The HTTP client inside follows no redirect, speaks https alone (loopback excepted),
/// sends requests for loopback to no proxy, resolves `localhost` to loopback whatever the resolver says,
/// logs no traffic and keeps no idle connection.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), sitecore_token::Error> {
/// use sitecore_token::{ClientCredentials, TokenClient};
///
/// let answer = TokenClient::new(ClientCredentials::from_env()?)?.fetch().await?;
/// println!("a token for {:?}", answer.expires_in());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenClient {
    pub(crate) http: reqwest::Client,
    pub(crate) credentials: ClientCredentials,
    pub(crate) settings: Settings,
}

impl TokenClient {
    /// Makes a client for Sitecore Cloud.
    ///
    /// # Errors
    ///
    /// As [`TokenClientBuilder::build`].
    pub fn new(credentials: ClientCredentials) -> Result<Self> {
        Self::builder(credentials).build()
    }

    /// Starts a client with other settings.
    pub fn builder(credentials: ClientCredentials) -> TokenClientBuilder {
        TokenClientBuilder::new(credentials)
    }

    /// Makes a client that asks for other credentials and shares this one's settings and HTTP client.
    ///
    /// An HTTP client is dear (memory, certificates); this is how a program with thousands of tenants
    /// has one.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the id or the secret is empty.
    pub fn with_credentials(&self, credentials: ClientCredentials) -> Result<Self> {
        credentials.check()?;
        Ok(Self { credentials, ..self.clone() })
    }

    /// Returns the credentials that this client asks with.
    #[must_use]
    pub fn credentials(&self) -> &ClientCredentials {
        &self.credentials
    }

    /// Returns what decides, beside the secret, which tokens are granted: token URL, audience, client id,
    /// scope and parameters, as one text. Clients with the same text and the same secret are granted the
    /// same tokens, in any process.
    #[must_use]
    pub fn grant_context(&self) -> String {
        let Settings { endpoint, scope, parameters, .. } = &self.settings;
        let parts = (
            endpoint.token_url().as_str(),
            endpoint.audience(),
            self.credentials.client_id(),
            scope,
            parameters,
        );
        serde_json::to_string(&parts).unwrap_or_default()
    }

    /// Asks for one token: one request, however it ends.
    ///
    /// # Errors
    ///
    /// By [`ErrorKind`]; see there for what to do.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection. The issuer may have counted a grant all the same.
    pub async fn fetch(&self) -> Result<TokenResponse> {
        let Settings { endpoint, timeout, .. } = &self.settings;
        let (content_type, body) = self.body();
        let request = self
            .http
            .post(endpoint.token_url().clone())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, content_type)
            .timeout(*timeout)
            .body(body);
        let mut response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let mut body = Zeroizing::new(Vec::with_capacity(8 * 1024));
        let end = self.read(&mut response, &mut body).await;
        let answer =
            Answer { url: endpoint.token_url(), status, headers: response.headers(), body: &body };
        let redactor = self.redactor();
        match end {
            Ok(()) => answer.read(&redactor),
            // What an error status means stands in the headers, however its body ends.
            Err(_) if !status.is_success() => answer.read(&redactor),
            Err(Broken::Off) => Err(answer.torn(&redactor)),
            Err(Broken::By(error)) => Err(error),
        }
    }

    fn redactor(&self) -> Redactor<'_> {
        let parameters = self.settings.parameters.iter().map(|(_, value)| value.as_str());
        let secret = self.credentials.client_secret().expose_secret();
        Redactor { secrets: parameters.chain([secret]).collect() }
    }

    /// Writes the request's parameters (RFC 6749 §4.4.2, the credentials as in §2.3.1).
    fn body(&self) -> (&'static str, String) {
        let Settings { endpoint, encoding, scope, parameters, .. } = &self.settings;
        let own = [
            ("grant_type", Some("client_credentials")),
            ("client_id", Some(self.credentials.client_id())),
            ("client_secret", Some(self.credentials.client_secret().expose_secret())),
            ("audience", endpoint.audience()),
            ("scope", scope.as_deref()),
        ];
        let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let all = own.chain(parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        match encoding {
            Encoding::Form => (
                "application/x-www-form-urlencoded",
                form_urlencoded::Serializer::new(String::new()).extend_pairs(all).finish(),
            ),
            Encoding::Json => ("application/json", serde_json::Value::from_iter(all).to_string()),
        }
    }

    async fn read(
        &self,
        response: &mut reqwest::Response,
        body: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        loop {
            match response.chunk().await {
                Ok(None) => return Ok(()),
                Ok(Some(chunk)) if body.len() + chunk.len() > MAX_BODY_BYTES => {
                    body.clear();
                    let message = format!("the token answer is longer than {MAX_BODY_BYTES} bytes");
                    return Err(Broken::By(Error::malformed(message)));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                // The other side ended it in good order, only too early; or what it sent is undecodable.
                Err(error) if !error.is_timeout() && !has_os_cause(&error) => {
                    return Err(Broken::Off);
                }
                Err(error) => return Err(Broken::By(self.unreachable(error))),
            }
        }
    }

    /// No whole answer came. Names the phase and the host; the cause is the error's source.
    fn unreachable(&self, error: reqwest::Error) -> Error {
        let host = self.settings.endpoint.host();
        let message = match phase(&error) {
            Phase::Lookup => format!("looking up {host} failed"),
            Phase::Connect => format!("connecting to {host} failed"),
            Phase::Tls => format!("the TLS handshake with {host} failed"),
            Phase::Exchange if error.is_timeout() => {
                format!("{host} gave no whole answer within {:?}", self.settings.timeout)
            }
            Phase::Exchange => format!("the exchange with {host} broke off"),
        };
        Error::new(ErrorKind::Unavailable, message).with_source(error.without_url())
    }
}

impl fmt::Debug for TokenClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenClient")
            .field("credentials", &self.credentials)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Why the body of an answer is not whole.
enum Broken {
    Off,
    By(Error),
}

enum Phase {
    Lookup,
    Connect,
    Tls,
    Exchange,
}

fn phase(error: &reqwest::Error) -> Phase {
    if error.is_dns() {
        return Phase::Lookup;
    }
    if !error.is_connect() {
        return Phase::Exchange;
    }
    // The operating system reports what goes wrong below TLS; what TLS itself reports has no such code.
    let is_tls = io_causes(error).next().is_some() && !error.is_timeout() && !has_os_cause(error);
    if is_tls { Phase::Tls } else { Phase::Connect }
}

fn has_os_cause(error: &reqwest::Error) -> bool {
    io_causes(error).any(|cause| cause.raw_os_error().is_some())
}

fn io_causes(error: &reqwest::Error) -> impl Iterator<Item = &io::Error> {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.filter_map(|cause| cause.downcast_ref())
}
