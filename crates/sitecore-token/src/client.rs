//! Sends one token request: the client credentials grant of [RFC 6749 §4.4].
//!
//! It does not cache, retry or track expiry. `sitecore-auth` does.
//!
//! [RFC 6749 §4.4]: https://www.rfc-editor.org/rfc/rfc6749#section-4.4

use std::{
    any::Any,
    fmt,
    future::{Future as _, poll_fn},
    panic::{self, AssertUnwindSafe},
    pin::pin,
    task::Poll,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{
    RequestBuilder, Response,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use secrecy::ExposeSecret;
use tokio::time;
use url::form_urlencoded;
use zeroize::Zeroizing;

use crate::{
    credentials::ClientCredentials,
    error::{Error, Result},
    quota::now,
    redact::Redactor,
    response::{RawResponse, TokenResponse},
    settings::{ClientAuth, Encoding, Settings},
    transport::{has_os_cause, transport_error},
};

/// The largest response body that is read, after decompression.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// How long to wait for the body of an error response. Without it, the status alone classifies the
/// error.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// [`Config`](crate::ErrorKind::Config) if the id or the secret is empty.
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
        // The order of scopes and parameters does not matter.
        let scope = scope.as_ref().map(|scope| {
            let mut scopes: Vec<_> = scope.split(' ').collect();
            scopes.sort_unstable();
            scopes.dedup();
            scopes
        });
        let mut parameters: Vec<_> = parameters.iter().collect();
        parameters.sort_unstable();
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
    /// See [`ErrorKind`](crate::ErrorKind) for the reasons, and for what to do about each. Outside
    /// a Tokio runtime, or in one without I/O or timers, the kind is
    /// [`Config`](crate::ErrorKind::Config).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection. The issuer may still count the token request.
    pub async fn fetch(&self) -> Result<TokenResponse> {
        let mut exchange = pin!(self.exchange());
        poll_fn(|context| {
            let poll = AssertUnwindSafe(|| exchange.as_mut().poll(context));
            // Tokio panics if the runtime lacks I/O or timers. Any other panic is passed on.
            panic::catch_unwind(poll).unwrap_or_else(|panic| match is_from_tokio(&*panic) {
                true => Poll::Ready(Err(Error::config(
                    "a token request needs a Tokio runtime with I/O and timers; build it with `enable_all()`",
                ))),
                false => panic::resume_unwind(panic),
            })
        })
        .await
    }

    async fn exchange(&self) -> Result<TokenResponse> {
        let Settings { endpoint, timeout, .. } = &self.settings;
        let transport_error = |error| transport_error(error, endpoint.host(), *timeout);
        let mut response = self.request().send().await.map_err(transport_error)?;
        let (status, received_at) = (response.status(), now());
        let mut body = Zeroizing::new(Vec::with_capacity(8 * 1024));
        let read = read(&mut response, &mut body);
        let end = if status.is_success() {
            read.await
        } else {
            time::timeout(ERROR_BODY_TIMEOUT, read).await.unwrap_or(Ok(()))
        };
        let response = RawResponse {
            url: endpoint.token_url(),
            client_id: self.credentials.client_id(),
            client_auth: self.settings.client_auth,
            status,
            headers: response.headers(),
            body: &body,
            received_at,
        };
        let redactor = self.redactor();
        match end {
            Ok(()) => response.interpret(&redactor),
            // An error can be interpreted even if its body is incomplete.
            Err(_) if !status.is_success() || response.has_oauth_code() => {
                response.interpret(&redactor)
            }
            Err(BodyError::TooLong) => Err(Error::malformed(format!(
                "the token response from {} is longer than {MAX_BODY_BYTES} bytes; check the token URL",
                endpoint.host()
            ))),
            Err(BodyError::Truncated) => Err(response.truncated(&redactor)),
            Err(BodyError::Failed(error)) => Err(transport_error(error)),
        }
    }

    fn redactor(&self) -> Redactor {
        let parameters = self.settings.parameters.iter().map(|(_, value)| value.as_str());
        let (_, secret) = self.id_and_secret();
        let texts = parameters.chain([secret]).map(|text| Zeroizing::new(text.to_owned()));
        Redactor { secrets: texts.chain([self.basic()]).collect() }
    }

    fn request(&self) -> RequestBuilder {
        let Settings { endpoint, timeout, client_auth, .. } = &self.settings;
        let (content_type, body) = self.body();
        let request = self
            .http
            .post(endpoint.token_url().clone())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, content_type)
            .timeout(*timeout)
            .body(body);
        match client_auth {
            ClientAuth::Body => request,
            ClientAuth::Basic => {
                let text = Zeroizing::new(format!("Basic {}", *self.basic()));
                let mut value = HeaderValue::try_from(text.as_str()).expect("Base64 is ASCII");
                value.set_sensitive(true);
                request.header(AUTHORIZATION, value)
            }
        }
    }

    /// Encodes the id and the secret for HTTP Basic, after encoding each as in a form (RFC 6749
    /// §2.3.1).
    fn basic(&self) -> Zeroizing<String> {
        let (id, secret) = self.id_and_secret();
        let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect();
        let (id, secret): (String, Zeroizing<String>) =
            (encode(id), Zeroizing::new(encode(secret)));
        let pair = Zeroizing::new(format!("{id}:{}", *secret));
        Zeroizing::new(STANDARD.encode(pair.as_bytes()))
    }

    fn id_and_secret(&self) -> (&str, &str) {
        (self.credentials.client_id(), self.credentials.client_secret().expose_secret())
    }

    /// Encodes the request's parameters (RFC 6749 §4.4.2, with the credentials as in §2.3.1).
    fn body(&self) -> (&'static str, String) {
        let Settings { endpoint, encoding, client_auth, scope, parameters, .. } = &self.settings;
        let (id, secret) = self.id_and_secret();
        let in_body = *client_auth == ClientAuth::Body;
        let own = [
            ("grant_type", Some("client_credentials")),
            ("client_id", in_body.then_some(id)),
            ("client_secret", in_body.then_some(secret)),
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
}

fn is_from_tokio(panic: &(dyn Any + Send)) -> bool {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.is_some_and(|text| text.contains("Tokio 1.x"))
}

/// Reads the body. What has been read so far stays in `body` if this fails or is dropped.
async fn read(response: &mut Response, body: &mut Vec<u8>) -> Result<(), BodyError> {
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(()),
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_BODY_BYTES => {
                return Err(BodyError::TooLong);
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            // The server closed the connection in an orderly way but too early, or the body cannot
            // be decoded.
            Err(error) if !error.is_timeout() && !has_os_cause(&error) => {
                return Err(BodyError::Truncated);
            }
            Err(error) => return Err(BodyError::Failed(error)),
        }
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
    TooLong,
    Truncated,
    Failed(reqwest::Error),
}
