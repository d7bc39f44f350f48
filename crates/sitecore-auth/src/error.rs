//! Why a request has no token: one opaque, cloneable error, with a kind to act on.

use std::{error::Error as StdError, fmt, io, iter, sync::Arc, time::Duration};

use sitecore_token::Refusal;

use crate::contain::contain;

/// Stands in for the text of an error whose `Display` panicked.
const PANICKED: &str = "the error's `Display` panicked";

/// The result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why there is no token.
///
/// Cheap to clone, because all callers that waited for a failed refresh get its error. `Display` is
/// one sentence with the cause and what to do. The [`source`](StdError::source) chain adds only
/// what that sentence does not say.
///
/// A request fails with an error of reqwest-middleware. [`find`](Self::find) finds ours inside it:
///
/// ```
/// # async fn example(client: reqwest_middleware::ClientWithMiddleware) {
/// if let Err(error) = client.get("https://xmclouddeploy-api.sitecorecloud.io/api/projects/v1").send().await {
///     match sitecore_auth::Error::find(&error) {
///         Some(auth) => eprintln!("{auth}; worth a retry: {}", auth.is_transient()),
///         None => eprintln!("{error}"),
///     }
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Error(Arc<ErrorInner>);

/// Behind a pointer, so that a `Result<Token>` takes only two words.
#[derive(Clone)]
struct ErrorInner {
    kind: ErrorKind,
    transient: bool,
    never_reached_issuer: bool,
    issuer_responded: bool,
    is_adopted: bool,
    is_budget_spent: bool,
    is_outside_targets: bool,
    retry_after: Option<Duration>,
    source: Arc<dyn StdError + Send + Sync>,
}

/// What to do about an [`Error`].
///
/// These are the kinds of [`sitecore_token::ErrorKind`], plus [`Timeout`](Self::Timeout).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The program or its environment is misconfigured. Fix what the message names.
    Config,
    /// The issuer refuses the client, or an API refuses it when asked for a key. Check its id,
    /// secret, audience and kind.
    Refused,
    /// The issuer limits the rate of token requests, or an API limits the rate of requests for a
    /// key; see [`Error::retry_after`].
    RateLimited,
    /// There is no token for a reason that may pass: the network, a timeout, or a failing server.
    Unavailable,
    /// The response is not a usable token or key.
    Malformed,
    /// The request's own deadline passed before there was a token. Allow it more time.
    Timeout,
}

impl Error {
    /// Creates an error, for your own [`TokenSource`](crate::TokenSource)s. Errors of the kinds
    /// `RateLimited`, `Unavailable` and `Timeout` are [transient](Self::is_transient).
    pub fn new(kind: ErrorKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(Arc::new(ErrorInner {
            kind,
            transient: matches!(
                kind,
                ErrorKind::RateLimited | ErrorKind::Unavailable | ErrorKind::Timeout
            ),
            never_reached_issuer: false,
            // A source reports these kinds on behalf of the issuer.
            issuer_responded: matches!(kind, ErrorKind::Refused | ErrorKind::RateLimited),
            is_adopted: false,
            is_budget_spent: false,
            is_outside_targets: false,
            retry_after: None,
            source: Arc::from(source.into()),
        }))
    }

    /// Sets how long to wait before the next token request. The cache sends none before that time
    /// has passed, but it waits at most [an hour](crate::RefreshPolicy::max_retry_after).
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        Arc::make_mut(&mut self.0).retry_after = Some(wait);
        self
    }

    /// Records that the token request certainly did not reach the issuer. While a caller waits, the
    /// cache then repeats it for up to 10 s within a refresh, because the issuer does not count it.
    #[must_use]
    pub fn with_never_reached_issuer(mut self) -> Self {
        Arc::make_mut(&mut self.0).never_reached_issuer = true;
        self
    }

    /// Records that the issuer itself reported the failure, so that other processes can expect the
    /// same. This is already set for errors of the kinds `Refused` and `RateLimited`.
    #[must_use]
    pub fn with_issuer_responded(mut self) -> Self {
        Arc::make_mut(&mut self.0).issuer_responded = true;
        self
    }

    /// Marks the error as one that occurred in another process. The refresh then ends, and this
    /// attempt does not count as a token request.
    #[doc(hidden)]
    #[must_use]
    pub fn adopted(mut self) -> Self {
        Arc::make_mut(&mut self.0).is_adopted = true;
        self
    }

    /// Marks the error of a token request that was not made, because processes that share tokens
    /// have spent their budget for rejected tokens. The refresh then ends without a cooldown.
    #[doc(hidden)]
    #[must_use]
    pub fn with_budget_spent(mut self) -> Self {
        Arc::make_mut(&mut self.0).is_budget_spent = true;
        self.adopted()
    }

    /// Finds an error of this crate in `error` or its causes, even inside a
    /// [`reqwest_middleware::Error`], whose own chain leaves it out. With the feature `retry`, it
    /// looks into reqwest-retry's errors too.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        causes(error)
            .find_map(|cause| cause.downcast_ref().or_else(|| Self::find(hidden_cause(cause)?)))
    }

    /// Returns the OAuth error with which the issuer refused the client, if it did.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        self.0.source.downcast_ref::<sitecore_token::Error>()?.refusal()
    }

    /// Marks the error of a request that matches no target.
    pub(crate) fn outside_targets(mut self) -> Self {
        Arc::make_mut(&mut self.0).is_outside_targets = true;
        self
    }

    /// Returns `true` if the request was not sent because it matches no target.
    #[doc(hidden)]
    #[must_use]
    pub fn is_outside_targets(&self) -> bool {
        self.0.is_outside_targets
    }

    /// Marks the error as transient, whatever its kind.
    pub(crate) fn transient(mut self) -> Self {
        Arc::make_mut(&mut self.0).transient = true;
        self
    }

    /// Returns `true` if both are clones of one error.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns all causes on one line, for logs and stores.
    #[doc(hidden)]
    #[must_use]
    pub fn cause(&self) -> String {
        let texts = || causes(&*self.0.source).map(ToString::to_string).collect::<Vec<_>>();
        let text = contain(|| texts().join(": "));
        text.unwrap_or_else(|| PANICKED.to_owned())
    }

    /// Returns the kind of the error, which suggests what to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns `true` if the same call may succeed later without anyone changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// Returns `true` if the token request certainly did not reach the issuer: its host could not
    /// be resolved, or no connection to it could be opened.
    #[must_use]
    pub fn never_reached_issuer(&self) -> bool {
        self.0.never_reached_issuer
    }

    /// Returns `true` if the issuer itself reported the failure: with an OAuth error, or with a
    /// status of 429 or 5xx (except 511). Processes that share a store share such failures, and no
    /// others. Always `true` for an error of the kind `Refused` or `RateLimited` that a source
    /// created.
    #[must_use]
    pub fn issuer_responded(&self) -> bool {
        self.0.issuer_responded
    }

    pub(crate) fn is_budget_spent(&self) -> bool {
        self.0.is_budget_spent
    }

    pub(crate) fn is_adopted(&self) -> bool {
        self.0.is_adopted
    }

    /// Returns how long to wait before trying again. For an error from a cache, this is the time
    /// until the cache's next token request. `None` if that is not known, as with
    /// [`Timeout`](ErrorKind::Timeout).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

/// Returns the error and its causes, the outermost first.
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    iter::successors(Some(error), |&cause| cause.source())
}

/// Returns the error inside one that is transparent, whose own chain leaves it out.
fn hidden_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    if let Some(reqwest_middleware::Error::Middleware(inner)) = error.downcast_ref() {
        return Some(inner.as_ref());
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().map(|inner| inner as _);
    }
    #[cfg(feature = "retry")]
    if let Some(reqwest_retry::RetryError::Error(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    None
}

/// The sentence of `Display` and the kind, because a `main` that returns an error prints it this
/// way. `{:#?}` shows all fields.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return write!(f, "{self} ({:?})", self.0.kind);
        }
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("transient", &self.0.transient)
            .field("never_reached_issuer", &self.0.never_reached_issuer)
            .field("issuer_responded", &self.0.issuer_responded)
            .field("retry_after", &self.0.retry_after)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.kind == ErrorKind::Config {
            f.write_str("authentication is misconfigured: ")?;
        }
        let cause = contain(|| self.0.source.to_string());
        f.write_str(cause.as_deref().unwrap_or(PANICKED))?;
        match self.0.retry_after.filter(|wait| !wait.is_zero()) {
            Some(wait) => write!(f, " (next attempt in {} s)", wait.as_secs_f64().ceil()),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // `Display` already includes the first cause.
        self.0.source.source()
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
        Self(Arc::new(ErrorInner {
            kind,
            transient: error.is_transient(),
            never_reached_issuer: error.never_reached_issuer(),
            issuer_responded: error.issuer_responded(),
            is_adopted: false,
            is_budget_spent: false,
            is_outside_targets: false,
            retry_after: error.retry_after(),
            source: Arc::new(error),
        }))
    }
}
