//! Sends one token request: the client credentials grant of [RFC 6749 §4.4].
//!
//! It has no cache, no retry and no clock. `sitecore-auth` adds those.
//!
//! [RFC 6749 §4.4]: https://www.rfc-editor.org/rfc/rfc6749#section-4.4

use std::{fmt, io};

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use secrecy::ExposeSecret;
use url::form_urlencoded;
use zeroize::Zeroizing;

use crate::{
    credentials::ClientCredentials,
    error::{Error, ErrorKind, Result},
    redact::Redactor,
    response::{RawResponse, TokenResponse},
    settings::{Encoding, Settings},
};

/// The largest response body that is read, after decompression.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Requests tokens from one endpoint on behalf of one client. Cheap to clone.
///
/// Its HTTP client follows no redirect, uses only https (except for loopback) and never sends a
/// loopback request to a proxy. It resolves `localhost` to loopback without asking the resolver,
/// logs no traffic and keeps no idle connection.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), sitecore_token::Error> {
/// use sitecore_token::{ClientCredentials, TokenClient};
///
/// let response = TokenClient::new(ClientCredentials::from_env()?)?.fetch().await?;
/// println!("lifetime: {:?}", response.expires_in());
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
    /// Creates a client with other credentials that shares this one's settings and HTTP client.
    ///
    /// Building an HTTP client is expensive (memory, certificates). Use this to share one among
    /// thousands of tenants.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the id or the secret is empty.
    pub fn with_credentials(&self, credentials: ClientCredentials) -> Result<Self> {
        credentials.check_present()?;
        Ok(Self { credentials, ..self.clone() })
    }

    /// Returns the credentials of this client.
    #[must_use]
    pub fn credentials(&self) -> &ClientCredentials {
        &self.credentials
    }

    /// Returns everything other than the secret that determines which tokens are granted, as one
    /// string: token URL, audience, client id, scope and parameters. Clients with the same string
    /// and secret get the same tokens.
    #[doc(hidden)]
    #[must_use]
    pub fn token_context(&self) -> String {
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

    /// Sends one token request. It is never repeated.
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`] for the reasons, and for what to do about each.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection. The issuer may still count the token request.
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
        let mut response = request.send().await.map_err(|error| self.transport_error(error))?;
        let status = response.status();
        let mut body = Zeroizing::new(Vec::with_capacity(8 * 1024));
        let end = self.read(&mut response, &mut body).await;
        let response = RawResponse {
            url: endpoint.token_url(),
            status,
            headers: response.headers(),
            body: &body,
        };
        let redactor = self.redactor();
        match end {
            Ok(()) => response.interpret(&redactor),
            // An error status can be interpreted even if its body is incomplete.
            Err(_) if !status.is_success() => response.interpret(&redactor),
            Err(BodyError::Truncated) => Err(response.truncated(&redactor)),
            Err(BodyError::Failed(error)) => Err(error),
        }
    }

    fn redactor(&self) -> Redactor<'_> {
        let parameters = self.settings.parameters.iter().map(|(_, value)| value.as_str());
        let secret = self.credentials.client_secret().expose_secret();
        Redactor { secrets: parameters.chain([secret]).collect() }
    }

    /// Encodes the request's parameters (RFC 6749 §4.4.2, with the credentials as in §2.3.1).
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
    ) -> Result<(), BodyError> {
        loop {
            match response.chunk().await {
                Ok(None) => return Ok(()),
                Ok(Some(chunk)) if body.len() + chunk.len() > MAX_BODY_BYTES => {
                    body.clear();
                    let message =
                        format!("the token response is longer than {MAX_BODY_BYTES} bytes");
                    return Err(BodyError::Failed(Error::malformed(message)));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                // The server closed the connection in an orderly way but too early, or the body
                // cannot be decoded.
                Err(error) if !error.is_timeout() && !has_os_cause(&error) => {
                    return Err(BodyError::Truncated);
                }
                Err(error) => return Err(BodyError::Failed(self.transport_error(error))),
            }
        }
    }

    /// There is no complete response. Names the phase and the host. The cause is the error's
    /// source.
    fn transport_error(&self, error: reqwest::Error) -> Error {
        let host = self.settings.endpoint.host();
        let message = match phase(&error) {
            Phase::Lookup => format!("could not resolve {host}"),
            Phase::Connect => format!("could not connect to {host}"),
            Phase::Tls => format!("the TLS handshake with {host} failed"),
            Phase::Exchange if error.is_timeout() => {
                format!("timed out after {:?} waiting for {host}", self.settings.timeout)
            }
            Phase::Exchange => format!("the connection to {host} was interrupted"),
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

/// Why a response body is incomplete.
enum BodyError {
    Truncated,
    Failed(Error),
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
    // Errors below TLS have an operating system error code. Errors of TLS itself do not.
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
