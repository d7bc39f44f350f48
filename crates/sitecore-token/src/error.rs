//! Why no token came: one opaque, cloneable error with a kind to act on.
//!
//! No error holds a secret, a token or a response body.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

/// The result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says why there is no token.
///
/// Cheap to clone, so that one failed request can be told to all who waited for it.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    transient: bool,
    message: String,
    retry_after: Option<Duration>,
    refusal: Option<Refusal>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The program or its environment is set up wrongly; no request was sent. Mend the setting named.
    Config,
    /// The issuer said no, in OAuth's words ([RFC 6749 §5.2]): check the secret, the audience and the
    /// kind of client. See [`Error::refusal`].
    ///
    /// [RFC 6749 §5.2]: https://www.rfc-editor.org/rfc/rfc6749#section-5.2
    Refused,
    /// Too many tokens were asked for; [`Error::retry_after`] says when to come back, if the issuer did.
    RateLimited,
    /// No usable answer for a reason that may pass: network, time, proxy, a server in trouble.
    Unavailable,
    /// A whole answer that is not a token this crate would pass on.
    Malformed,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            transient: matches!(kind, ErrorKind::RateLimited | ErrorKind::Unavailable),
            message: message.into(),
            retry_after: None,
            refusal: None,
            source: None,
        }))
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, message)
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

    /// Changes an error that is being built, and so has no clone yet.
    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            change(inner);
        }
        self
    }

    /// Returns what to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Tells whether the same request may succeed later without anybody changing anything.
    ///
    /// True for all of [`ErrorKind::Unavailable`] and [`ErrorKind::RateLimited`], and for those
    /// [`ErrorKind::Malformed`] answers that some other machine than the issuer probably wrote, or that
    /// arrived in pieces.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// Returns how long the server asked to be left alone, counted from its answer.
    ///
    /// From `Retry-After` ([RFC 9110 §10.2.3]); with [`ErrorKind::RateLimited`] else from Auth0's
    /// `Auth0-Client-Quota-Limit` or `x-ratelimit-reset`; as the server said it, however long.
    /// Dates are measured against the answer's own `Date` and are ignored without one.
    ///
    /// [RFC 9110 §10.2.3]: https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns the issuer's own words, if it answered with an OAuth error.
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

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        f.debug_struct("Error")
            .field("kind", &inner.kind)
            .field("message", &inner.message)
            .field("transient", &inner.transient)
            .field("retry_after", &inner.retry_after)
            .field("refusal", &inner.refusal)
            .field("source", &inner.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// The error response of a token endpoint ([RFC 6749 §5.2]).
///
/// The server's words, with the client secret taken out should they hold it.
///
/// [RFC 6749 §5.2]: https://www.rfc-editor.org/rfc/rfc6749#section-5.2
#[derive(Clone, Debug)]
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

    /// Returns `error_description`, for people. It comes from the network: do not parse it.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }
}

/// Status and code alone: a description can hold anything.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.code)
    }
}
