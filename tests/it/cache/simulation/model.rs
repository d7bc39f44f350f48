//! A cache with its callers, clocks and runtimes, and the checks of its contract.

use std::{
    collections::HashSet,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use sitecore_auth::{Clock as _, Error, ErrorKind, ManualClock, Moment, Token, TokenCache};
use tokio::runtime::{Builder, Runtime};

use reqwest_middleware::ClientWithMiddleware;

use super::{
    apis,
    operations::{Api, Issuer, Operation},
    source::Source,
};
use crate::support::{HOUR, MS, SECOND, settle, text};

pub(super) struct Simulation {
    cache: TokenCache,
    source: Source,
    clock: ManualClock,
    runtimes: Vec<Option<Runtime>>,
    /// The runtime on which new callers start.
    current: usize,
    parked: Vec<usize>,
    callers: Vec<Caller>,
    /// Tokens that callers got, the newest last.
    seen: Vec<Token>,
    /// Tokens that an API has rejected. Any other token may replace them.
    rejected: HashSet<String>,
    /// The token that `current` returned last.
    last: Option<Token>,
    client: ClientWithMiddleware,
    started: Moment,
    /// Requests that an API accepted. Each may have given a token request back to the budget.
    accepted: u64,
    /// Whether the issuer has failed. Each failed refresh costs up to three token requests, which
    /// the cooldown limits instead of the budget.
    had_failures: bool,
}

/// A caller that waits on one runtime.
struct Caller {
    call: Call,
    runtime: usize,
    waited: Duration,
}

type Call = Pin<Box<dyn Future<Output = Result<Token, Error>>>>;

impl Simulation {
    pub(super) fn new() -> Self {
        let clock = ManualClock::new();
        let source = Source::new(clock.clone());
        let cache = TokenCache::builder(source.clone()).clock(clock.clone()).build().unwrap();
        Self {
            client: apis::client(cache.clone(), source.clone(), clock.clone()),
            started: clock.now(),
            accepted: 0,
            had_failures: false,
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
            }
            Operation::WallBack(time) => {
                // The times of two checks cannot be compared across it.
                self.source.lock().last_check = None;
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
                let cache = self.cache.clone();
                self.start(Box::pin(async move { cache.token_valid_for(time).await }))?;
            }
            Operation::Request(api) => self.request(api)?,
            Operation::Credentials(check) => self.source.lock().check = check,
            Operation::RetryNow => {
                self.cache.retry_now();
                self.source.lock().retry_not_before = Duration::ZERO;
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
                self.had_failures |= issuer.fails();
                self.source.lock().issuer = issuer;
            }
            Operation::LoseRuntime => {
                // Callers that wait on it are dropped first, then its tasks.
                let lost = self.current;
                self.callers.retain(|caller| caller.runtime != lost);
                self.runtimes[lost] = None;
                self.replace_runtime();
            }
            Operation::ParkRuntime => {
                let mut source = self.source.lock();
                source.in_flight.clear();
                source.late.insert(self.current);
                drop(source);
                self.parked.push(self.current);
                self.replace_runtime();
            }
            Operation::UnparkRuntime => {
                self.parked.pop();
            }
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
        match (&self.last, self.callers.len()) {
            (Some(_), 0) => Ok(()),
            (current, waiting) => Err(format!(
                "the token is still {current:?} and {waiting} callers wait: {:?}",
                self.cache.status()
            )),
        }
    }

    /// Sends a request. If there is a good token, an API that accepts settled tokens must accept it
    /// at once.
    fn request(&mut self, api: Api) -> Result<(), String> {
        let good = self.last.clone().filter(|token| {
            self.is_surely_usable(token) && self.rejected.is_empty() && text(token).ends_with("-1")
        });
        let call = self.client.get(api.url());
        let (sender, mut response) = tokio::sync::oneshot::channel();
        self.start(Box::pin(async move {
            let response = call.send().await;
            let status = response.map(|response| response.status().as_u16());
            let _ = sender.send(status.unwrap_or(0));
            Err(Error::new(ErrorKind::Unavailable, "it has no token to return"))
        }))?;
        self.settle()?;
        let status = response.try_recv().ok();
        self.accepted += u64::from(status == Some(200));
        match (api, good, status) {
            (Api::Tolerant | Api::Late, Some(token), status) if status != Some(200) => Err(
                format!("{api:?} should have accepted {} but responded {status:?}", text(&token)),
            ),
            _ => Ok(()),
        }
    }

    /// Checks how many token requests rejections have caused.
    fn check_budget(&self) -> Result<(), String> {
        let hours = self.clock.now().monotonic() - self.started.monotonic();
        let wall = self.clock.now().wall().saturating_sub(self.started.wall());
        let hours = hours.max(wall).as_secs() / 3_600;
        let replacements = self.source.lock().replacements;
        // Each may be repeated once, for an identical token. After a failure, nothing is checked.
        let allowed = 2 * (6 + hours + 2 * self.accepted);
        if replacements <= allowed || self.had_failures {
            return Ok(());
        }
        Err(format!("rejections caused {replacements} token requests in {hours} h"))
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
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            for index in self.driven_runtimes() {
                self.block_on(index, settle());
            }
            let callers = std::mem::take(&mut self.callers);
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
        match self.source.lock().violation.take() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }

    /// Starts a call on the current runtime.
    fn start(&mut self, call: Call) -> Result<(), String> {
        let mut caller = Caller { call, runtime: self.current, waited: Duration::ZERO };
        match self.poll(&mut caller) {
            Poll::Ready(result) => self.finish(result),
            Poll::Pending => {
                self.callers.push(caller);
                Ok(())
            }
        }
    }

    fn poll(&self, caller: &mut Caller) -> Poll<Result<Token, Error>> {
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

    /// Checks that the current token is usable, and that no usable token was withheld or lost.
    fn check_current(&mut self) -> Result<(), String> {
        let current = {
            let _context = self.runtimes[self.current].as_ref().expect("a runtime").enter();
            self.cache.current()
        };
        if let Some(token) = &current {
            self.check_usable(token)?;
            let cache = self.cache.clone();
            let mut caller = Caller {
                call: Box::pin(async move { cache.token().await }),
                runtime: self.current,
                waited: Duration::ZERO,
            };
            if !matches!(self.poll(&mut caller), Poll::Ready(Ok(_))) {
                return Err("a caller did not get the usable token at once".to_owned());
            }
        }
        if let (Some(before), None) = (&self.last, &current)
            && !self.rejected.contains(&text(before))
            && !self.source.lock().rejected.contains(&text(before))
            && self.is_surely_usable(before)
        {
            return Err(format!("{} was usable and is gone", text(before)));
        }
        self.last = current;
        self.callers.truncate(50);
        Ok(())
    }

    /// Checks that a token that was returned has not expired by either clock. One that was returned
    /// again counts as usable for any of its lifetimes.
    fn check_usable(&self, token: &Token) -> Result<(), String> {
        let now = self.clock.now();
        let source = self.source.lock();
        let usable = source.tokens[&text(token)].iter().any(|granted| granted.is_usable(now));
        if usable { Ok(()) } else { Err(format!("{} was returned after it expired", text(token))) }
    }

    /// Returns `true` if the token is usable and was granted only once, so its expiry is known.
    fn is_surely_usable(&self, token: &Token) -> bool {
        self.check_usable(token).is_ok() && self.source.lock().tokens[&text(token)].len() == 1
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}
