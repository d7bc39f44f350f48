//! How long a server asks clients to wait: `Retry-After` and Auth0's quota headers.
//!
//! A date is measured against the response's own `Date`, or else against the time of receipt, which
//! [`now`] reads from the only clock of this crate.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// A smaller number in `x-ratelimit-reset` is not a Unix time; it would be one before 2001.
const SMALLEST_UNIX_TIME: Duration = Duration::from_secs(1_000_000_000);

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
            limit: parse_count(member("q")?)?,
            remaining: parse_count(member("r")?)?,
            resets_in: parse_seconds(member("t")?)?,
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
pub(crate) fn rate_limit_wait(headers: &HeaderMap, received_at: SystemTime) -> Option<Duration> {
    let reset = || {
        let values = header_values(headers, "x-ratelimit-reset").flat_map(|line| line.split(','));
        let reset = values.filter_map(parse_seconds).max()?;
        // Auth0 sends a Unix time, and others the number of seconds from now.
        let is_wait = reset < SMALLEST_UNIX_TIME && !reset.is_zero();
        let time = || time_until(SystemTime::UNIX_EPOCH.checked_add(reset)?, headers, received_at);
        if is_wait { Some(reset) } else { time() }
    };
    retry_after(headers, received_at)
        .or_else(|| Quota::from_headers(headers)?.exhausted_for().filter(|wait| !wait.is_zero()))
        .or_else(reset)
}

/// Returns the current time. If a response has no `Date`, a date in `Retry-After` is measured
/// against it.
#[expect(clippy::disallowed_methods, reason = "the only clock that this crate reads")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// Returns the wait in `Retry-After` of a response that has just arrived.
#[doc(hidden)]
#[must_use]
pub fn retry_after_from_now(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers, now())
}

/// Returns the wait in `Retry-After` (RFC 9110 §10.2.3), never zero. A value is a number of seconds
/// or a date. If there are several values, in one line or several, the largest counts.
pub(crate) fn retry_after(headers: &HeaderMap, received_at: SystemTime) -> Option<Duration> {
    let waits = header_values(headers, RETRY_AFTER.as_str()).filter_map(|line| {
        let parts: Vec<_> = line.split(',').collect();
        let seconds = parts.iter().filter_map(|part| parse_seconds(part)).max();
        // Most formats of a date contain a comma.
        let parts = parts.windows(1).chain(parts.windows(2));
        let dates = parts.filter_map(|parts| {
            let date = httpdate::parse_http_date(parts.join(",").trim()).ok()?;
            time_until(date, headers, received_at)
        });
        dates.chain(seconds).max()
    });
    waits.max().filter(|wait| !wait.is_zero())
}

/// Parses a number of tokens. A window that is overdrawn has none left.
fn parse_count(text: &str) -> Option<u64> {
    let count: f64 = text.trim().parse().ok()?;
    count.is_finite().then_some(count as u64)
}

/// Parses a number of seconds. Fractions are rounded up, so that we never retry too early.
fn parse_seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    let seconds: f64 = text.parse().ok()?;
    let is_number = text.starts_with(|first: char| first.is_ascii_digit());
    is_number.then(|| Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(Duration::MAX))
}

/// Returns the time from the response to `time`. The time of the response is its own `Date` if it
/// has one, because the two clocks may differ.
fn time_until(time: SystemTime, headers: &HeaderMap, received_at: SystemTime) -> Option<Duration> {
    let sent_at = response_date(headers).unwrap_or(received_at);
    time.duration_since(sent_at).ok().filter(|wait| !wait.is_zero())
}

/// Returns the `Date` of a response.
pub(crate) fn response_date(headers: &HeaderMap) -> Option<SystemTime> {
    header_values(headers, DATE.as_str()).find_map(|date| httpdate::parse_http_date(date).ok())
}

/// Returns the values of a header that are valid text.
fn header_values<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.map(str::trim).filter(|line| !line.is_empty())
}
