//! Why a request has no token: one opaque, cloneable error with a kind to act on.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

/// The result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says why there is no token.
///
/// Cheap to clone: one failed refresh is told to everybody who waited for it. `Display` says what this
/// layer knows; the cause is [`source`](StdError::source).
///
/// In the error of a call it is found by `downcast_ref`; if reqwest-retry stands outside the layer, within its
/// `RetryError`, which is found the same way:
///
/// ```
/// # fn example(error: reqwest_middleware::Error) {
/// if let reqwest_middleware::Error::Middleware(inner) = &error {
///     if let Some(auth) = inner.downcast_ref::<sitecore_auth::Error>() {
///         eprintln!("{auth}; worth a retry: {}", auth.is_transient());
///     }
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

/// Behind a pointer, so that the result of a call that brings a token is no larger than two of these.
#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    transient: bool,
    retry_after: Option<Duration>,
    source: Arc<dyn StdError + Send + Sync>,
}

/// What to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The program or its environment is set up wrongly. Mend what the source names.
    Config,
    /// The issuer refuses to grant a token: check the client's id, secret, kind and audience.
    Refused,
    /// The issuer grants no more tokens for now; see [`Error::retry_after`].
    RateLimited,
    /// No token can be had for a reason that may pass: network, time, a server in trouble.
    Unavailable,
    /// The source answered with something that is no usable token.
    Malformed,
    /// The request's own deadline was over before there was a token.
    Timeout,
}

impl Error {
    /// Makes an error, for [`TokenSource`](crate::TokenSource)s of your own. Those of kind `RateLimited`,
    /// `Unavailable` and `Timeout` are [transient](Self::is_transient).
    pub fn new(kind: ErrorKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(Arc::new(Inner {
            kind,
            transient: matches!(
                kind,
                ErrorKind::RateLimited | ErrorKind::Unavailable | ErrorKind::Timeout
            ),
            retry_after: None,
            source: Arc::from(source.into()),
        }))
    }

    /// Sets the time to leave the issuer alone: the cache asks for no token before it is over, but believes
    /// [an hour](crate::RefreshPolicy::max_retry_after) at most.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        Arc::make_mut(&mut self.0).retry_after = Some(wait);
        self
    }

    /// Returns what the layers below know, in one line, for logs.
    pub(crate) fn cause(&self) -> String {
        let first: &(dyn StdError + 'static) = &*self.0.source;
        let causes = std::iter::successors(Some(first), |&cause| cause.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    /// Returns what to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Tells whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// Returns how long it makes no sense to try again. From a cache: the time until it will ask for a
    /// token again. `None` if that is not known, as with [`Timeout`](ErrorKind::Timeout).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("transient", &self.0.transient)
            .field("retry_after", &self.0.retry_after)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.kind {
            ErrorKind::Config => "authentication is not set up right",
            ErrorKind::Refused => {
                "the issuer refuses to grant a token: check the client's id, secret, kind and audience"
            }
            ErrorKind::RateLimited => "the issuer grants no more tokens for now",
            ErrorKind::Unavailable => "no token can be had for now",
            ErrorKind::Malformed => "what the issuer answered is no usable token",
            ErrorKind::Timeout => "no token within the request's deadline",
        })?;
        match self.0.retry_after {
            Some(wait) => write!(f, " (next attempt in {} s)", wait.as_secs_f64().ceil()),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0.source)
    }
}

impl From<sitecore_token::Error> for Error {
    fn from(error: sitecore_token::Error) -> Self {
        use sitecore_token::ErrorKind as Kind;
        let kind = match error.kind() {
            Kind::Config => ErrorKind::Config,
            Kind::Refused => ErrorKind::Refused,
            Kind::RateLimited => ErrorKind::RateLimited,
            Kind::Malformed => ErrorKind::Malformed,
            _ => ErrorKind::Unavailable,
        };
        Self(Arc::new(Inner {
            kind,
            transient: error.is_transient(),
            retry_after: error.retry_after(),
            source: Arc::new(error),
        }))
    }
}
