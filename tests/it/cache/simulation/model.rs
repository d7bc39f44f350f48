//! A cache with its callers, clocks and runtimes, and the checks of its contract.

use std::{
    collections::HashSet,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use sitecore_auth::{Clock as _, Error, ManualClock, Moment, Token, TokenCache};
use tokio::runtime::{Builder, Runtime};

use reqwest_middleware::ClientWithMiddleware;

use super::{
    apis,
    operations::{Api, Issuer, Operation},
    source::Source,
};
use crate::support::{HOUR, MS, SECOND, settle, text};

pub(super) struct Simulation {
    pub(super) cache: TokenCache,
    pub(super) source: Source,
    pub(super) clock: ManualClock,
    pub(super) runtimes: Vec<Option<Runtime>>,
    /// The runtime on which new callers start.
    pub(super) current: usize,
    parked: Vec<usize>,
    pub(super) callers: Vec<Caller>,
    /// Tokens that callers got, the newest last.
    seen: Vec<Token>,
    /// Tokens that an API has rejected. Any other token may replace them.
    pub(super) rejected: HashSet<String>,
    /// The token that `current` returned last.
    pub(super) last: Option<Token>,
    pub(super) client: ClientWithMiddleware,
    pub(super) started: Moment,
    /// How long the process was suspended in all.
    pub(super) suspended: Duration,
    /// When the wall clock was last set back, by the monotonic clock.
    pub(super) wall_back_at: Duration,
    /// Requests that the late API accepted. Each may have given a token request back to the budget.
    pub(super) accepted: u64,
    /// Calls of `token_valid_for`. Each may have caused a token request.
    pub(super) requests_for_longer: u64,
    /// Whether the issuer may have granted identical tokens.
    pub(super) had_identical_tokens: bool,
}

/// A caller that waits on one runtime.
pub(super) struct Caller {
    pub(super) call: Call,
    pub(super) runtime: usize,
    pub(super) waited: Duration,
}

pub(super) type Call = Pin<Box<dyn Future<Output = Result<Token, Error>>>>;

impl Simulation {
    pub(super) fn new() -> Self {
        let clock = ManualClock::new();
        let source = Source::new(clock.clone());
        let cache = TokenCache::builder(source.clone()).clock(clock.clone()).build().unwrap();
        Self {
            client: apis::client(cache.clone(), source.clone(), clock.clone()),
            started: clock.now(),
            suspended: Duration::ZERO,
            wall_back_at: Duration::ZERO,
            accepted: 0,
            requests_for_longer: 0,
            had_identical_tokens: false,
            cache,
            source,
            clock,
            runtimes: vec![Some(runtime())],
            current: 0,
            parked: Vec::new(),
            callers: Vec::new(),
            seen: Vec::new(),
            rejected: HashSet::new(),
            last: None,
        }
    }

    pub(super) fn run(&mut self, operation: &Operation) -> Result<(), String> {
        match *operation {
            Operation::Advance(time) => {
                let mut left = time;
                while !left.is_zero() {
                    let part = left.min(if time > 5 * SECOND { SECOND } else { 100 * MS });
                    self.advance(part)?;
                    left -= part;
                }
            }
            Operation::Jump(time) => self.advance(time)?,
            Operation::Suspend(time) => {
                self.stand_still();
                self.clock.suspend(time);
                self.suspended += time;
            }
            Operation::WallBack(time) => {
                // The times of two checks cannot be compared across it.
                self.source.lock().last_check = None;
                self.wall_back_at = self.clock.now().monotonic();
                let wall = self.clock.now().wall();
                self.clock.set_wall(wall.saturating_sub(time));
            }
            Operation::Current => self.check_current()?,
            Operation::Token => {
                let cache = self.cache.clone();
                self.start(Box::pin(async move { cache.token().await }))?;
            }
            Operation::LateToken(delay) => {
                let cache = self.cache.clone();
                self.start(Box::pin(async move { cache.token().await }))?;
                self.clock.advance(delay);
                for index in self.driven_runtimes() {
                    self.block_on(index, tokio::time::advance(delay));
                }
            }
            Operation::TokenFor(time) => {
                self.requests_for_longer += 1;
                let cache = self.cache.clone();
                self.start(Box::pin(async move { cache.token_valid_for(time).await }))?;
            }
            Operation::Requests(api, count) => self.insist(api, count)?,
            Operation::RequestsToStrictApis => {
                for api in Api::strict() {
                    self.request(api)?;
                }
            }
            Operation::LateResult(time) => self.get_late_result(time)?,
            Operation::Credentials(check) => self.source.lock().check = check,
            Operation::RetryNow => {
                self.cache.retry_now();
                self.source.lock().retry_not_before = Duration::ZERO;
                self.check_may_refresh("`retry_now`")?;
            }
            Operation::Freeze(time) => {
                self.stand_still();
                self.clock.advance(time);
            }
            Operation::Replace(back) => {
                if let Some(rejected) = self.seen.iter().rev().nth(back).cloned() {
                    self.rejected.insert(text(&rejected));
                    let cache = self.cache.clone();
                    self.start(Box::pin(async move {
                        let other = cache.replace(&rejected).await?;
                        assert_ne!(text(&other), text(&rejected), "a rejected token was returned");
                        Ok(other)
                    }))?;
                }
            }
            Operation::DropCaller(index) => {
                if !self.callers.is_empty() {
                    let index = index % self.callers.len();
                    self.callers.swap_remove(index);
                }
            }
            Operation::Issuer(issuer) => {
                self.had_identical_tokens |= matches!(issuer, Issuer::OncePerSecond(_));
                self.source.lock().issuer = issuer;
            }
            Operation::LoseRuntime => {
                // Callers that wait on it are dropped first, then its tasks.
                let lost = self.current;
                self.callers.retain(|caller| caller.runtime != lost);
                self.runtimes[lost] = None;
                self.replace_runtime();
            }
            Operation::RuntimePerCall(count) => self.call_on_short_runtimes(count)?,
            Operation::ParkRuntime => self.park_runtime(),
            Operation::UnparkRuntime => drop(self.parked.pop()),
        }
        self.settle()?;
        self.check_budget()?;
        self.check_current()
    }

    /// Checks that all callers get a token soon after the issuer works again.
    pub(super) fn recover(&mut self) -> Result<(), String> {
        self.source.lock().issuer = Issuer::Grant(24 * HOUR);
        self.parked.clear();
        // Refreshes in flight end, and start the last cooldown.
        self.advance(31 * SECOND)?;
        self.advance(31 * SECOND)?;
        self.advance(HOUR + HOUR / 10 + SECOND)?;
        let cache = self.cache.clone();
        self.start(Box::pin(async move { cache.token().await }))?;
        self.settle()?;
        self.check_current()?;
        if !self.callers.is_empty() {
            self.advance(31 * SECOND)?;
        }
        self.check_recovery()?;
        // Later, each token is refreshed because of its age, even if no caller waits.
        self.advance(31 * 24 * HOUR)?;
        self.check_current()?;
        self.settle()?;
        self.check_current()?;
        self.check_recovery()
    }

    fn check_recovery(&self) -> Result<(), String> {
        match (&self.last, self.callers.len()) {
            (Some(_), 0) => Ok(()),
            (current, waiting) => Err(format!(
                "the token is still {current:?} and {waiting} callers wait: {:?}",
                self.cache.status()
            )),
        }
    }

    /// Starts a refresh that gets a token, and does not drive its runtime for a while. Another
    /// caller notices that its time limit has passed.
    fn get_late_result(&mut self, time: Duration) -> Result<(), String> {
        let issuer = self.source.lock().issuer;
        self.source.lock().issuer = Issuer::SlowGrant(SECOND, 24 * HOUR);
        let cache = self.cache.clone();
        self.start(Box::pin(async move { cache.token().await }))?;
        self.settle()?;
        self.source.lock().issuer = issuer;
        self.park_runtime();
        self.advance(time)?;
        self.check_current()?;
        self.parked.pop();
        self.settle()?;
        self.check_current()
    }

    fn park_runtime(&mut self) {
        let mut source = self.source.lock();
        source.in_flight.clear();
        source.late.insert(self.current);
        drop(source);
        self.parked.push(self.current);
        self.replace_runtime();
    }

    fn block_on<T>(&self, runtime: usize, work: impl Future<Output = T>) -> T {
        self.source.lock().driving = runtime;
        self.runtimes[runtime].as_ref().expect("a runtime").block_on(work)
    }

    fn replace_runtime(&mut self) {
        self.runtimes.push(Some(runtime()));
        self.current = self.runtimes.len() - 1;
    }

    /// Returns the runtimes that are neither lost nor parked.
    fn driven_runtimes(&self) -> Vec<usize> {
        let alive = (0..self.runtimes.len()).filter(|index| self.runtimes[*index].is_some());
        alive.filter(|index| !self.parked.contains(index)).collect()
    }

    fn advance(&mut self, time: Duration) -> Result<(), String> {
        for index in self.driven_runtimes() {
            self.block_on(index, settle());
        }
        if time > 30 * SECOND {
            // No runtime is driven for longer than a refresh may take. As with a parked runtime,
            // another refresh may start alongside one that is still in flight.
            self.stand_still();
        }
        self.clock.advance(time);
        for index in self.driven_runtimes() {
            self.block_on(index, tokio::time::advance(time));
        }
        let parked = self.parked.clone();
        for caller in self.callers.iter_mut().filter(|caller| !parked.contains(&caller.runtime)) {
            caller.waited += time.min(31 * SECOND);
        }
        self.settle()
    }

    /// The process stands still. A refresh in flight may be given up, and its waiters join another
    /// one.
    fn stand_still(&mut self) {
        self.source.lock().in_flight.clear();
        for caller in &mut self.callers {
            caller.waited = caller.waited.saturating_sub(31 * SECOND);
        }
    }

    /// Runs everything that is ready without letting time pass.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            for index in self.driven_runtimes() {
                self.block_on(index, settle());
            }
            let callers = mem::take(&mut self.callers);
            for mut caller in callers {
                if self.parked.contains(&caller.runtime) {
                    self.callers.push(caller);
                    continue;
                }
                match self.poll(&mut caller) {
                    Poll::Ready(result) => self.finish(result)?,
                    // A refresh takes up to 30 s. One lost with a runtime is noticed 1 s later.
                    Poll::Pending
                        if caller.waited > 31 * SECOND * (3 + self.runtimes.len() as u32) =>
                    {
                        return Err(format!("a caller has waited for {:?}", caller.waited));
                    }
                    Poll::Pending => self.callers.push(caller),
                }
            }
        }
        let (violation, has_news) = {
            let mut source = self.source.lock();
            (source.violation.take(), mem::take(&mut source.has_news))
        };
        if has_news {
            self.check_may_refresh("new credentials")?;
        }
        violation.map_or(Ok(()), Err)
    }

    /// Starts a call on the current runtime.
    pub(super) fn start(&mut self, call: Call) -> Result<(), String> {
        let mut caller = Caller { call, runtime: self.current, waited: Duration::ZERO };
        match self.poll(&mut caller) {
            Poll::Ready(result) => self.finish(result),
            Poll::Pending => {
                self.callers.push(caller);
                Ok(())
            }
        }
    }

    pub(super) fn poll(&self, caller: &mut Caller) -> Poll<Result<Token, Error>> {
        let _context = self.runtimes[caller.runtime].as_ref().expect("a runtime").enter();
        caller.call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn finish(&mut self, result: Result<Token, Error>) -> Result<(), String> {
        if let Ok(token) = result {
            self.check_usable(&token)?;
            self.seen.push(token);
        }
        Ok(())
    }
}

pub(super) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}
