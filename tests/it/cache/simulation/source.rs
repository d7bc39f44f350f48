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

use super::operations::Issuer;
use crate::support::HOUR;

#[derive(Clone)]
pub(super) struct Source(Arc<Mutex<SourceState>>);

pub(super) struct SourceState {
    pub(super) issuer: Issuer,
    clock: ManualClock,
    granted: usize,
    /// By the token's text. A token that was returned again has several entries.
    pub(super) tokens: HashMap<String, Vec<Granted>>,
    calls: usize,
    /// The numbers of the calls in flight, except for calls on a parked runtime.
    pub(super) in_flight: Vec<usize>,
    /// The runtime that is being driven.
    pub(super) driving: usize,
    /// The runtimes that have been parked. Refreshes on them are late, and others may replace them.
    pub(super) late: HashSet<usize>,
    /// The issuer specified that no call may begin earlier, by the monotonic clock.
    retry_not_before: Duration,
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
            calls: 0,
            in_flight: Vec::new(),
            driving: 0,
            late: HashSet::new(),
            retry_not_before: Duration::ZERO,
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
        let granted = Granted { requested_at, lifetime, age };
        state.tokens.entry(name.clone()).or_default().push(granted);
        Ok(Token::bearer(name, lifetime)?.with_age(age))
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
    async fn fetch(&self, _: FetchContext<'_>) -> Result<Token, Error> {
        let (issuer, requested_at, call) = {
            let mut state = self.lock();
            let requested_at = state.clock.now();
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
            (state.issuer, requested_at, call)
        };
        let _in_flight = InFlight(self.clone(), call);
        let fail = |kind| Err(Error::new(kind, "simulated"));
        match issuer {
            Issuer::Grant(lifetime) => self.grant(requested_at, lifetime, Duration::ZERO, true),
            Issuer::Adopted(lifetime, age) => self.grant(requested_at, lifetime, age, true),
            Issuer::SameAgain(lifetime) => {
                self.grant(requested_at, lifetime, Duration::ZERO, false)
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
