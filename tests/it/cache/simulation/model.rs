//! A cache with its callers, clocks and runtimes, and the checks of its contract.

use std::{
    collections::HashSet,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use sitecore_auth::{Clock as _, Error, ManualClock, Token, TokenCache};
use tokio::runtime::{Builder, Runtime};

use super::{
    operations::{Issuer, Operation},
    source::Source,
};
use crate::support::{HOUR, MINUTE, MS, SECOND, settle, text};

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
            Operation::Suspend(time) => self.clock.suspend(time),
            Operation::WallBack(time) => {
                let wall = self.clock.now().wall();
                self.clock.set_wall(wall.saturating_sub(time));
            }
            Operation::Current => self.check_current()?,
            Operation::Token => {
                let cache = self.cache.clone();
                self.start(Box::pin(async move { cache.token().await }))?;
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
            Operation::Issuer(issuer) => self.source.lock().issuer = issuer,
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
            self.source.lock().in_flight.clear();
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
                        if caller.waited > 31 * SECOND * (1 + self.runtimes.len() as u32) =>
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
            && self.is_surely_usable(before)
        {
            return Err(format!("{} was usable and is gone", text(before)));
        }
        self.last = current;
        self.callers.truncate(50);
        Ok(())
    }

    /// Checks that a token that was returned has not expired by either clock.
    fn check_usable(&self, token: &Token) -> Result<(), String> {
        let now = self.clock.now();
        let source = self.source.lock();
        let usable = source.tokens[&text(token)].iter().any(|granted| {
            let left = usable_time(granted.lifetime).saturating_sub(granted.age);
            now.monotonic() < granted.requested_at.monotonic() + left
                && now.wall() < granted.requested_at.wall() + left
        });
        if usable { Ok(()) } else { Err(format!("{} was returned after it expired", text(token))) }
    }

    /// Returns `true` if the token is usable and was granted only once, so its expiry is known.
    fn is_surely_usable(&self, token: &Token) -> bool {
        self.check_usable(token).is_ok() && self.source.lock().tokens[&text(token)].len() == 1
    }
}

/// Returns for how long a token with this lifetime may be used, following the documentation instead
/// of the code.
fn usable_time(lifetime: Duration) -> Duration {
    let lifetime = lifetime.min(30 * 24 * HOUR);
    lifetime - MINUTE.min(lifetime.mul_f64(0.1))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}
