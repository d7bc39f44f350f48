//! Why there is no token: one opaque, cloneable error, with a kind to act on.
//!
//! No error contains a secret or a token. Of a response body, only an OAuth error's code and
//! description are quoted, redacted.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

/// The result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why there is no token.
///
/// Cheap to clone, so that all callers that waited for a failed request can get its error.
#[derive(Clone)]
pub struct Error(Arc<ErrorInner>);

struct ErrorInner {
    kind: ErrorKind,
    transient: bool,
    message: String,
    never_reached_issuer: bool,
    issuer_responded: bool,
    retry_after: Option<Duration>,
    refusal: Option<Refusal>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    /// How many causes at the start of the chain the message already covers.
    covered_causes: usize,
}

/// What to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The program or its environment is misconfigured. No request was sent. Fix the setting that
    /// the message names.
    Config,
    /// The issuer refused the client with an OAuth error ([RFC 6749 §5.2]). Check the id, the
    /// secret, the audience and the kind of client. See [`Error::refusal`].
    ///
    /// [RFC 6749 §5.2]: https://www.rfc-editor.org/rfc/rfc6749#section-5.2
    Refused,
    /// There were too many token requests. [`Error::retry_after`] says when to try again, if the
    /// issuer did.
    RateLimited,
    /// There is no usable response for a reason that may pass: the network, a timeout, a proxy, or
    /// a failing server.
    Unavailable,
    /// The response does not contain a usable token.
    Malformed,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(ErrorInner {
            kind,
            transient: matches!(kind, ErrorKind::RateLimited | ErrorKind::Unavailable),
            message: message.into(),
            never_reached_issuer: false,
            issuer_responded: false,
            retry_after: None,
            refusal: None,
            source: None,
            covered_causes: 0,
        }))
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, message)
    }

    /// Prepends a context to the message.
    pub(crate) fn with_context(self, context: &str) -> Self {
        self.with(|inner| inner.message = format!("{context}: {}", inner.message))
    }

    pub(crate) fn transient(self) -> Self {
        self.with(|inner| inner.transient = true)
    }

    pub(crate) fn with_retry_after(self, wait: Option<Duration>) -> Self {
        self.with(|inner| inner.retry_after = wait)
    }

    pub(crate) fn with_refusal(self, refusal: Refusal) -> Self {
        self.with(|inner| inner.refusal = Some(refusal))
    }

    pub(crate) fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.with(|inner| inner.source = Some(Box::new(source)))
    }

    /// Marks the first causes of the chain as covered by the message.
    pub(crate) fn covering(self, causes: usize) -> Self {
        self.with(|inner| inner.covered_causes = causes)
    }

    pub(crate) fn never_reaching_issuer(self) -> Self {
        self.with(|inner| inner.never_reached_issuer = true)
    }

    pub(crate) fn with_issuer_responded(self, responded: bool) -> Self {
        self.with(|inner| inner.issuer_responded = responded)
    }

    /// Changes an error that is still being built and therefore has no clone.
    fn with(mut self, change: impl FnOnce(&mut ErrorInner)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            change(inner);
        }
        self
    }

    /// Returns the kind of the error, which suggests what to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns `true` if the same request may succeed later without anyone changing anything.
    ///
    /// This is the case for [`ErrorKind::Unavailable`] and [`ErrorKind::RateLimited`], and for
    /// [`ErrorKind::Malformed`] if the response is truncated or probably not from the issuer.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// Returns `true` if the request certainly did not reach the issuer: its host could not be
    /// resolved, or no connection to it could be opened. `false` does not mean that the request
    /// arrived.
    #[must_use]
    pub fn never_reached_issuer(&self) -> bool {
        self.0.never_reached_issuer
    }

    /// Returns `true` if the issuer itself reported the failure: with an OAuth error, or with
    /// status 429 or 5xx (except 511). Other processes that use the same client can then expect the
    /// same. `false` for a failure that may concern this process only, such as a proxy's page or a
    /// timeout. A gateway's 5xx counts as the issuer's.
    #[must_use]
    pub fn issuer_responded(&self) -> bool {
        self.0.issuer_responded
    }

    /// Returns how long the server asked us to wait, counted from its response and not capped.
    ///
    /// The value comes from `Retry-After` ([RFC 9110 §10.2.3]). For [`ErrorKind::RateLimited`] it
    /// otherwise comes from Auth0's `Auth0-Client-Quota-Limit` or `x-ratelimit-reset`. A date is
    /// measured against the response's own `Date`, or else against the time of receipt.
    ///
    /// [RFC 9110 §10.2.3]: https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns the issuer's own error, if it responded with an OAuth error.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        self.0.refusal.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

/// The sentence of `Display` and the kind, because a `main` that returns an error prints it this
/// way. `{:#?}` shows all fields.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return write!(f, "{self} ({:?})", self.0.kind);
        }
        let inner = &*self.0;
        f.debug_struct("Error")
            .field("kind", &inner.kind)
            .field("message", &inner.message)
            .field("transient", &inner.transient)
            .field("never_reached_issuer", &inner.never_reached_issuer)
            .field("issuer_responded", &inner.issuer_responded)
            .field("retry_after", &inner.retry_after)
            .field("refusal", &inner.refusal)
            .field("source", &inner.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let first: &(dyn StdError + 'static) = self.0.source.as_deref()?;
        std::iter::successors(Some(first), |&cause| cause.source()).nth(self.0.covered_causes)
    }
}

/// The error response of a token endpoint ([RFC 6749 §5.2]).
///
/// It quotes the server's text, from which the secret, the values of parameters and the `Basic`
/// credentials have been removed.
///
/// [RFC 6749 §5.2]: https://www.rfc-editor.org/rfc/rfc6749#section-5.2
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) description: Option<String>,
}

impl Refusal {
    /// Returns the HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the OAuth error code, such as `access_denied`.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Returns `error_description`, which is meant for people. Do not parse it.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }
}

/// Only the status and the code. [`Refusal::description`] has the rest.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.code)
    }
}
