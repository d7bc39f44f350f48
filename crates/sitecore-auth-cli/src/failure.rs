//! Why a command failed: an exit code, a sentence, and what to do.

use std::{fmt, io, process::ExitCode, time::Duration};

use serde_json::{Value, json};
use sitecore_auth::ErrorKind;

/// The result of a command.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// What kind of failure it is. The numbers are the exit codes, which never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A bug, or anything unforeseen.
    Unexpected = 1,
    /// Wrong usage.
    Usage = 2,
    /// Credentials or configuration are missing or unreadable.
    Config = 3,
    /// The issuer refuses the client.
    Refused = 4,
    /// Try again later.
    Unavailable = 5,
    /// An API reported a failure.
    Api = 6,
}

#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    hint: Option<String>,
    retry_after: Option<Duration>,
    /// More members of the JSON object.
    details: Option<Value>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, retry_after: None, details: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    pub(crate) fn api(message: impl Into<String>) -> Self {
        Self::new(Kind::Api, message)
    }

    /// Says what to do.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub(crate) fn retry_after(self, wait: Option<Duration>) -> Self {
        Self { retry_after: wait, ..self }
    }

    /// Adds an object that is printed with the error as JSON.
    pub(crate) fn details(self, details: Value) -> Self {
        Self { details: Some(details), ..self }
    }

    /// The failure of a call to an API that had a token.
    pub(crate) fn from_api(error: sitecore_auth::Error) -> Self {
        let failure = Self::from(error);
        match failure.kind {
            Kind::Unavailable => failure,
            _ => Self { kind: Kind::Api, retry_after: None, ..failure },
        }
    }

    /// Returns `true` if the command line is wrong, or lacks something.
    pub(crate) fn is_usage(&self) -> bool {
        self.kind == Kind::Usage
    }

    /// Returns `true` if another invocation has stored this failure.
    pub(crate) fn is_stored(&self) -> bool {
        self.message.starts_with(EARLIER)
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }

    /// Describes the failure as JSON.
    pub(crate) fn to_json(&self) -> String {
        let kind = match self.kind {
            Kind::Unexpected => "unexpected",
            Kind::Usage => "usage",
            Kind::Config => "config",
            Kind::Refused => "refused",
            Kind::Unavailable => "unavailable",
            Kind::Api => "api",
        };
        let retry_after = self.retry_after.map(|wait| wait.as_secs_f64().ceil() as u64);
        let error = json!({
            "kind": kind, "message": self.message, "hint": self.hint, "retry_after": retry_after,
        });
        match &self.details {
            Some(details) => json!({ "error": error, "details": details }).to_string(),
            None => json!({ "error": error }).to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        match self.retry_after {
            Some(wait) => write!(f, "; try again in {} s", wait.as_secs_f64().ceil()),
            None => Ok(()),
        }
    }
}

impl From<sitecore_auth::Error> for Failure {
    fn from(error: sitecore_auth::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Config => Kind::Config,
            ErrorKind::Refused => Kind::Refused,
            _ if error.is_transient() => Kind::Unavailable,
            _ => Kind::Unexpected,
        };
        let wait = error.retry_after().filter(|wait| !wait.is_zero());
        // Waiting does not help against a refusal.
        let wait = wait.filter(|_| kind == Kind::Unavailable);
        let failure = Self::new(kind, for_shells(&error.cause())).retry_after(wait);
        let is_late = failure.message.starts_with("no token within ");
        if failure.is_stored() && kind != Kind::Unavailable {
            failure.hint(
                "once that is fixed, use `sitecore-auth token --force` with the same credentials",
            )
        } else if is_late && !failure.message.contains(';') {
            failure.hint("check the network; if --timeout is below 34s, allow more time")
        } else {
            failure
        }
    }
}

/// How a failure begins that another invocation has stored.
const EARLIER: &str = "an earlier token request failed";

/// Replaces advice to Rust programmers.
pub(crate) fn for_shells(text: &str) -> String {
    let replacements = [
        ("another cache's token request failed", EARLIER),
        (
            "use FileStore::in_dir with another folder",
            "set XDG_CACHE_HOME to a folder that you own",
        ),
        ("use FileStore::in_dir", "set XDG_CACHE_HOME to a folder that you own"),
        (", or accept the risk with Target::insecure_http()", ""),
        ("; for a CM behind a gateway, use Target::folder", ""),
        ("; use SharedSource::with_key with a longer key", ""),
        ("or call without_audience()", "or leave it out"),
        (", or set NoAuth on the request", ""),
        (", so use ClientAuth::Basic", ", which this program does not support"),
        ("remove them and use ClientCredentials", "remove them"),
        (", and add this host as a target of the middleware", ""),
    ];
    replacements.iter().fold(text.to_owned(), |text, (rust, shell)| text.replace(rust, shell))
}

impl From<sitecore_token::Error> for Failure {
    fn from(error: sitecore_token::Error) -> Self {
        sitecore_auth::Error::from(error).into()
    }
}

impl From<reqwest_middleware::Error> for Failure {
    fn from(error: reqwest_middleware::Error) -> Self {
        if let Some(auth) = sitecore_auth::Error::find(&error) {
            return auth.clone().into();
        }
        match error {
            reqwest_middleware::Error::Reqwest(error) => error.into(),
            reqwest_middleware::Error::Middleware(error) => {
                Self::new(Kind::Unexpected, error.to_string())
            }
        }
    }
}

/// Returns the last of an error's causes, which says what happened.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().map_or_else(String::new, ToString::to_string)
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        let host = error.url().and_then(|url| url.host_str()).unwrap_or("the API").to_owned();
        // The URL may contain a key in its query.
        let error = error.without_url();
        let reason = root_cause(&error);
        let failure = Self::new(Kind::Unavailable, format!("the call to {host} failed: {reason}"));
        if reason.contains("certificate") {
            return failure.hint(
                "if a proxy inspects TLS here, add its root certificate to this machine's store",
            );
        }
        failure
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Kind::Unexpected, error.to_string())
    }
}
