//! How long a server asks clients to wait: `Retry-After` and Auth0's quota headers.
//!
//! Nothing here reads a clock. A date is measured against the response's own `Date`.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// How many more tokens the issuer will grant, from its `Auth0-Client-Quota-Limit` header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    buckets: Vec<QuotaBucket>,
}

/// One time window of a [`Quota`], which Auth0 calls a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QuotaBucket {
    name: String,
    limit: u64,
    remaining: u64,
    resets_in: Duration,
}

impl Quota {
    /// Parses `b=per_hour;q=10;r=0;t=3540,b=per_day;q=50;r=12;t=43200`. Incomplete
    /// windows are ignored. `None` if none is left.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let lines = header_values(headers, "auth0-client-quota-limit");
        let windows = lines.flat_map(|line| line.split(','));
        let buckets: Vec<_> = windows.filter_map(QuotaBucket::parse).collect();
        (!buckets.is_empty()).then_some(Self { buckets })
    }

    /// Returns the windows in the server's order.
    #[must_use]
    pub fn buckets(&self) -> &[QuotaBucket] {
        &self.buckets
    }

    /// Returns the time until every exhausted window has been reset. `None` if no window is
    /// exhausted.
    #[must_use]
    pub fn exhausted_for(&self) -> Option<Duration> {
        let exhausted = self.buckets.iter().filter(|bucket| bucket.remaining == 0);
        exhausted.map(|bucket| bucket.resets_in).max()
    }
}

impl QuotaBucket {
    fn parse(text: &str) -> Option<Self> {
        let member = |name: &str| {
            let mut members = text.split(';').filter_map(|member| member.trim().split_once('='));
            members.find_map(|(key, value)| (key == name).then_some(value))
        };
        Some(Self {
            name: member("b")?.to_owned(),
            limit: member("q")?.parse().ok()?,
            remaining: member("r")?.parse().ok()?,
            resets_in: Duration::from_secs(member("t")?.parse().ok()?),
        })
    }

    /// Returns the window's name, such as `per_hour`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how many tokens can be granted within the window.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns how many more tokens can be granted.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Returns the time from the response to the window's reset.
    #[must_use]
    pub fn resets_in(&self) -> Duration {
        self.resets_in
    }
}

/// Returns how long a server that limits token requests asks clients to wait: `Retry-After` if it
/// is usable, otherwise the quota's reset, otherwise `x-ratelimit-reset`. A time in the past or an
/// unreadable value is ignored.
pub(crate) fn rate_limit_wait(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers)
        .or_else(|| Quota::from_headers(headers)?.exhausted_for())
        .or_else(|| {
            let reset =
                header_values(headers, "x-ratelimit-reset").find_map(|reset| reset.parse().ok())?;
            let reset = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(reset))?;
            since_response(headers, reset)
        })
        .filter(|wait| !wait.is_zero())
}

/// Returns the wait in `Retry-After`, which is a number of seconds or a date (RFC 9110 §10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let mut waits = header_values(headers, RETRY_AFTER.as_str()).filter_map(|value| {
        if value.bytes().all(|byte| byte.is_ascii_digit()) {
            Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)))
        } else {
            since_response(headers, httpdate::parse_http_date(value).ok()?)
        }
    });
    waits.find(|wait| !wait.is_zero())
}

fn since_response(headers: &HeaderMap, time: SystemTime) -> Option<Duration> {
    let responded = header_values(headers, DATE.as_str())
        .find_map(|date| httpdate::parse_http_date(date).ok())?;
    time.duration_since(responded).ok()
}

/// Returns the values of a header that are valid text.
fn header_values<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.map(str::trim).filter(|line| !line.is_empty())
}
