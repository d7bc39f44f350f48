//! Scripted faults: what an API does instead of, before or during its response.

use std::{collections::VecDeque, fmt, str::FromStr, time::Duration};

use axum::http::{HeaderName, HeaderValue, header::CONTENT_TYPE};

use super::shared::Shared;

/// A fault that an API applies to one call.
///
/// ```
/// use std::time::Duration;
/// use sitecore_sandbox::Fault;
///
/// let overloaded = Fault::status(503).header("retry-after", "5").body("<h1>busy</h1>");
/// let slow = Fault::delay(Duration::from_secs(2));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fault(pub(crate) Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Response { status: u16, headers: Vec<(String, String)>, body: String },
    Delay(Duration),
    Hang,
    Cut,
    Drip(Duration),
}

impl Fault {
    /// Responds with this status and an empty body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self(Kind::Response { status, headers: Vec::new(), body: String::new() })
    }

    /// Responds with status 200 and an HTML page.
    #[must_use]
    pub fn garbage() -> Self {
        Self::status(200)
            .header(CONTENT_TYPE.as_str(), "text/html")
            .body("<!doctype html><title>Please sign in to the guest network</title>")
    }

    /// Waits this long, then responds as usual.
    #[must_use]
    pub fn delay(time: Duration) -> Self {
        Self(Kind::Delay(time))
    }

    /// Never responds.
    #[must_use]
    pub fn hang() -> Self {
        Self(Kind::Hang)
    }

    /// Starts a normal response, but closes the connection halfway through the body.
    #[must_use]
    pub fn cut() -> Self {
        Self(Kind::Cut)
    }

    /// Responds as usual, but sends the body one byte at a time, with this pause before each.
    #[must_use]
    pub fn drip(pause: Duration) -> Self {
        Self(Kind::Drip(pause))
    }

    /// Adds a header to the response of [`status`](Self::status) or [`garbage`](Self::garbage).
    /// Other faults ignore it.
    ///
    /// # Panics
    ///
    /// If the header name or value is invalid.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        assert!(HeaderName::try_from(name).is_ok(), "invalid header name {name:?}");
        assert!(HeaderValue::try_from(value).is_ok(), "invalid header value {value:?}");
        if let Kind::Response { headers, .. } = &mut self.0 {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Sets the response body of [`status`](Self::status) or [`garbage`](Self::garbage). Other
    /// faults ignore it.
    #[must_use]
    pub fn body(mut self, text: impl Into<String>) -> Self {
        if let Kind::Response { body, .. } = &mut self.0 {
            *body = text.into();
        }
        self
    }

    /// Says how to write a fault as a text.
    pub(crate) const SYNTAX: &'static str =
        "a status such as 503, `garbage`, `hang`, `cut`, `delay=2s` or `drip=10ms`";
}

/// A text that is not a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseFaultError(String);

impl fmt::Display for ParseFaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid fault `{}`: expected {}", self.0, Fault::SYNTAX)
    }
}

impl std::error::Error for ParseFaultError {}

/// Parses a status, `garbage`, `hang`, `cut`, `delay=2s` or `drip=10ms`.
///
/// ```
/// # use std::time::Duration;
/// # use sitecore_sandbox::Fault;
/// assert_eq!("503".parse(), Ok(Fault::status(503)));
/// assert_eq!("delay=2s".parse(), Ok(Fault::delay(Duration::from_secs(2))));
/// ```
impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, ParseFaultError> {
        let fault = match text.split_once('=') {
            Some(("delay", time)) => parse_duration(time).map(Self::delay),
            Some(("drip", pause)) => parse_duration(pause).map(Self::drip),
            Some(_) => None,
            None => match text {
                "garbage" => Some(Self::garbage()),
                "hang" => Some(Self::hang()),
                "cut" => Some(Self::cut()),
                _ => text.parse().ok().filter(|code| (200..600).contains(code)).map(Self::status),
            },
        };
        fault.ok_or_else(|| ParseFaultError(text.to_owned()))
    }
}

/// Parses a number with a unit (`ms`, `s`, `m` or `h`), or a number of seconds. `None` if it is
/// anything else, or zero.
#[doc(hidden)]
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let number: u64 = digits.parse().ok().filter(|number| *number > 0)?;
    let factor = match &text[digits.len()..] {
        "ms" => return Some(Duration::from_millis(number)),
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    number.checked_mul(factor).map(Duration::from_secs)
}

/// The faults queued for an API's next calls, and the fault for all calls after them.
#[derive(Default)]
pub(crate) struct Script(Shared<(VecDeque<Fault>, Option<Fault>)>);

impl Script {
    pub(crate) fn push(&self, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().0.extend(faults);
    }

    pub(crate) fn set_lasting(&self, fault: Fault) {
        self.0.lock().1 = Some(fault);
    }

    pub(crate) fn clear(&self) {
        *self.0.lock() = Default::default();
    }

    pub(crate) fn next(&self) -> Option<Fault> {
        let mut script = self.0.lock();
        script.0.pop_front().or_else(|| script.1.clone())
    }
}
