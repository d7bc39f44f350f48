//! The simulated source. It does what the issuer is set to do, and records its calls and tokens.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use sitecore_auth::{
    Clock as _, Error, ErrorKind, FetchContext, ManualClock, Moment, Token, TokenSource,
};

use super::operations::{Check, Issuer};
use crate::support::{HOUR, MINUTE, SECOND, text};

#[derive(Clone)]
pub(super) struct Source(Arc<Mutex<SourceState>>);

pub(super) struct SourceState {
    pub(super) issuer: Issuer,
    clock: ManualClock,
    granted: usize,
    /// By the token's text. A token that was returned again has several entries.
    pub(super) tokens: HashMap<String, Vec<Granted>>,
    /// The text of the token that was granted last.
    pub(super) newest: String,
    pub(super) calls: usize,
    /// The numbers of the calls in flight, except for calls on a parked runtime.
    pub(super) in_flight: Vec<usize>,
    /// The runtime that is being driven.
    pub(super) driving: usize,
    /// The runtimes that have been parked. Refreshes on them are late, and others may replace them.
    pub(super) late: HashSet<usize>,
    /// The issuer specified that no call may begin earlier, by the monotonic clock.
    pub(super) retry_not_before: Duration,
    pub(super) check: Check,
    /// When the last check for new credentials started.
    pub(super) last_check: Option<Moment>,
    /// A check found new credentials, and no token request has used them yet.
    pub(super) has_news: bool,
    /// The texts of tokens that an API has rejected.
    pub(super) rejected: HashSet<String>,
    /// Tokens granted to replace a rejected one that is still fresh.
    pub(super) replacements: u64,
    pub(super) violation: Option<String>,
}

/// A token as the source returned it.
pub(super) struct Granted {
    pub(super) requested_at: Moment,
    pub(super) lifetime: Duration,
    pub(super) age: Duration,
}

impl Source {
    pub(super) fn new(clock: ManualClock) -> Self {
        Self(Arc::new(Mutex::new(SourceState {
            issuer: Issuer::Grant(24 * HOUR),
            clock,
            granted: 0,
            tokens: HashMap::new(),
            newest: String::new(),
            calls: 0,
            in_flight: Vec::new(),
            driving: 0,
            late: HashSet::new(),
            retry_not_before: Duration::ZERO,
            check: Check::Unchanged,
            last_check: None,
            has_news: false,
            rejected: HashSet::new(),
            replacements: 0,
            violation: None,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SourceState> {
        self.0.lock().unwrap()
    }

    fn grant(
        &self,
        requested_at: Moment,
        lifetime: Duration,
        age: Duration,
        new: bool,
    ) -> Result<Token, Error> {
        let mut state = self.lock();
        state.granted += usize::from(new || state.granted == 0);
        let name = format!("token-{}", state.granted);
        state.record(&name, Granted { requested_at, lifetime, age });
        Ok(Token::bearer(name, lifetime)?.with_age(age))
    }

    /// Responds to a token request.
    async fn respond(&self, issuer: Issuer, requested_at: Moment) -> Result<Token, Error> {
        let fail = |kind| Err(Error::new(kind, "simulated"));
        match issuer {
            Issuer::Grant(lifetime) => self.grant(requested_at, lifetime, Duration::ZERO, true),
            Issuer::Aged(lifetime, age) => self.grant(requested_at, lifetime, age, true),
            Issuer::SameAgain(lifetime) => {
                self.grant(requested_at, lifetime, Duration::ZERO, false)
            }
            Issuer::Static => {
                // The default for a response that does not specify a lifetime.
                let lifetime = 5 * MINUTE;
                self.lock()
                    .record("static", Granted { requested_at, lifetime, age: Duration::ZERO });
                Token::bearer("static", lifetime)
            }
            Issuer::Gateway(lifetime) => {
                let lifetime = lifetime.max(2 * MINUTE);
                let has_ended = |one: &Granted| {
                    let age = requested_at.wall().saturating_sub(one.requested_at.wall());
                    age >= one.lifetime || one.lifetime != lifetime
                };
                let last = format!("token-{}", self.lock().granted);
                let is_new = self.lock().tokens.get(&last).is_none_or(|all| has_ended(&all[0]));
                self.grant(requested_at, lifetime, Duration::ZERO, is_new)
            }
            Issuer::OncePerSecond(lifetime) => {
                let name = format!("second-{}", requested_at.wall().as_secs());
                self.lock().record(&name, Granted { requested_at, lifetime, age: Duration::ZERO });
                Token::bearer(name, lifetime)
            }
            Issuer::SlowGrant(delay, lifetime) => {
                tokio::time::sleep(delay).await;
                self.grant(requested_at, lifetime, Duration::ZERO, true)
            }
            Issuer::Fail(kind) => fail(kind),
            Issuer::SlowFail(delay, kind) => {
                tokio::time::sleep(delay).await;
                fail(kind)
            }
            Issuer::FailFor(wait) => {
                let mut state = self.lock();
                state.retry_not_before = state.clock.now().monotonic() + wait.min(HOUR);
                fail(ErrorKind::RateLimited).map_err(|error| error.with_retry_after(wait))
            }
            Issuer::Hang => std::future::pending().await,
            Issuer::Panic => std::panic::resume_unwind(Box::new("simulated")),
        }
    }
}

impl SourceState {
    fn record(&mut self, name: &str, granted: Granted) {
        self.tokens.entry(name.to_owned()).or_default().push(granted);
        name.clone_into(&mut self.newest);
    }
}

impl Granted {
    /// Returns when the token becomes unusable, following the documentation instead of the code, as
    /// the times by the monotonic and the wall clock.
    pub(super) fn unusable_at(&self) -> (Duration, Duration) {
        let lifetime = self.accepted_lifetime();
        let usable = lifetime - MINUTE.min(lifetime.mul_f64(0.1));
        let left = usable.saturating_sub(self.age);
        (self.requested_at.monotonic() + left, self.requested_at.wall() + left)
    }

    pub(super) fn is_usable(&self, now: Moment) -> bool {
        !self.time_left(now).is_zero()
    }

    /// Returns how much longer the token is usable.
    pub(super) fn time_left(&self, now: Moment) -> Duration {
        let (monotonic, wall) = self.unusable_at();
        monotonic.saturating_sub(now.monotonic()).min(wall.saturating_sub(now.wall()))
    }

    /// Returns how long it settles, following the documentation instead of the code.
    pub(super) fn settling_time(&self) -> Duration {
        let lifetime = self.accepted_lifetime();
        (lifetime / 100).clamp(3 * SECOND, 15 * MINUTE).min(lifetime / 10)
    }

    /// Returns its age by the clock that says it is older.
    pub(super) fn age(&self, now: Moment) -> Duration {
        let monotonic = now.monotonic().saturating_sub(self.requested_at.monotonic());
        let wall = now.wall().saturating_sub(self.requested_at.wall());
        self.age + monotonic.max(wall)
    }

    /// Returns `true` if no refresh because of age can be due yet.
    fn is_surely_fresh(&self, now: Moment) -> bool {
        self.is_usable(now) && self.age(now) < self.accepted_lifetime().mul_f64(0.7)
    }

    fn accepted_lifetime(&self) -> Duration {
        self.lifetime.min(30 * 24 * HOUR)
    }
}

/// Removes a call from the calls in flight when it ends or is dropped.
struct InFlight(Source, usize);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().in_flight.retain(|call| *call != self.1);
    }
}

#[async_trait]
impl TokenSource for Source {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token, Error> {
        let (issuer, requested_at, call, is_replacement) = {
            let mut state = self.lock();
            let requested_at = state.clock.now();
            let replaced = context.replacing().filter(|_| context.rejected()).map(text);
            let replaced = replaced.and_then(|name| state.tokens.get(&name));
            let is_replacement =
                replaced.is_some_and(|all| all.iter().all(|one| one.is_surely_fresh(requested_at)));
            state.has_news = false;
            state.calls += 1;
            let call = state.calls;
            if !state.late.contains(&state.driving) {
                state.in_flight.push(call);
            }
            if state.in_flight.len() > 1 {
                state.violation = Some("two refreshes are in flight".to_owned());
            }
            if requested_at.monotonic() < state.retry_not_before {
                state.violation =
                    Some("a token was requested before the issuer's retry-after".to_owned());
            }
            (state.issuer, requested_at, call, is_replacement)
        };
        let _in_flight = InFlight(self.clone(), call);
        let token = self.respond(issuer, requested_at).await?;
        self.lock().replacements += u64::from(is_replacement);
        Ok(token)
    }

    async fn has_new_credentials(&self) -> bool {
        let check = {
            let mut state = self.lock();
            let now = state.clock.now();
            let last = state.last_check.replace(now);
            if last.is_some_and(|last| {
                now.monotonic() < last.monotonic() + SECOND && now.wall() < last.wall() + SECOND
            }) {
                state.violation = Some("two checks within a second".to_owned());
            }
            state.check
        };
        let has_changed = match check {
            Check::Unchanged => false,
            Check::Changed => true,
            Check::Slow(delay, has_changed) => {
                tokio::time::sleep(delay).await;
                has_changed
            }
            Check::Hang => std::future::pending().await,
            Check::Panic => std::panic::resume_unwind(Box::new("simulated")),
        };
        if has_changed {
            let mut state = self.lock();
            // The wait was for the old credentials.
            state.retry_not_before = Duration::ZERO;
            // The result of a slow check may come too late.
            state.has_news = matches!(check, Check::Changed);
        }
        has_changed
    }
}
