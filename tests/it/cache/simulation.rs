//! A simulation: random lives, issuer faults, clock jumps, suspends, dropped callers, lost and parked
//! runtimes, refused tokens. After every step the contract of the cache holds.
//!
//! `SIMULATION_CASES` sets how many cases are run. A case that fails is kept in
//! `tests/it/cache/simulation.regressions` and run first from then on.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use proptest::{prelude::*, test_runner::FileFailurePersistence};
use sitecore_auth::{
    Clock as _, Error, ErrorKind, FetchContext, ManualClock, Moment, Token, TokenCache, TokenSource,
};
use tokio::runtime::{Builder, Runtime};

use crate::support::{HOUR, MINUTE, MS, SECOND, text};

/// One step of a case.
#[derive(Clone, Debug)]
enum Op {
    /// Time passes for everybody, in small steps or at once.
    Advance(Duration),
    Jump(Duration),
    Suspend(Duration),
    WallBack(Duration),
    /// Somebody asks, on the current runtime.
    Current,
    Token,
    /// An API refuses a token seen lately: the newest, or one before.
    Replace(usize),
    /// A caller goes.
    DropCaller(usize),
    /// The issuer behaves like this from now on.
    Issuer(Issuer),
    /// The current runtime dies, with all on it.
    LoseRuntime,
    /// The current runtime is no longer driven; another takes over. Then it is driven again.
    ParkRuntime,
    UnparkRuntime,
}

#[derive(Clone, Copy, Debug)]
enum Issuer {
    Grant(Duration),
    /// A token that was granted some time before, as from a shared store.
    Adopted(Duration, Duration),
    SlowGrant(Duration, Duration),
    SameAgain(Duration),
    Fail(ErrorKind),
    SlowFail(Duration, ErrorKind),
    FailFor(Duration),
    Hang,
    Panic,
}

fn life() -> impl Strategy<Value = Duration> {
    prop_oneof![
        2 => (1_u64..30).prop_map(Duration::from_secs),
        3 => (30_u64..2_000).prop_map(Duration::from_secs),
        3 => Just(24 * HOUR),
        1 => (0_u64..=1_000_000_000_000_000_000).prop_map(Duration::from_secs),
    ]
}

fn issuer() -> impl Strategy<Value = Issuer> {
    let kind = prop_oneof![
        Just(ErrorKind::Unavailable),
        Just(ErrorKind::Malformed),
        Just(ErrorKind::Refused)
    ];
    let delay = (1_u64..40_000).prop_map(Duration::from_millis);
    prop_oneof![
        4 => life().prop_map(Issuer::Grant),
        1 => (life(), 1_u64..50_000).prop_map(|(life, age)| Issuer::Adopted(life, Duration::from_secs(age))),
        2 => (delay.clone(), life()).prop_map(|(delay, life)| Issuer::SlowGrant(delay, life)),
        1 => life().prop_map(Issuer::SameAgain),
        2 => kind.clone().prop_map(Issuer::Fail),
        1 => (delay, kind).prop_map(|(delay, kind)| Issuer::SlowFail(delay, kind)),
        1 => (40_u64..100_000).prop_map(|wait| Issuer::FailFor(Duration::from_secs(wait))),
        1 => Just(Issuer::Hang),
        1 => Just(Issuer::Panic),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let short = (1_u64..5_000).prop_map(Duration::from_millis);
    let long = (1_u64..100_000).prop_map(Duration::from_secs);
    prop_oneof![
        6 => short.prop_map(Op::Advance),
        2 => (5_u64..60).prop_map(|seconds| Op::Advance(Duration::from_secs(seconds))),
        3 => long.clone().prop_map(Op::Jump),
        1 => long.clone().prop_map(Op::Suspend),
        1 => long.prop_map(Op::WallBack),
        4 => Just(Op::Current),
        6 => Just(Op::Token),
        3 => (0_usize..3).prop_map(Op::Replace),
        2 => any::<usize>().prop_map(Op::DropCaller),
        5 => issuer().prop_map(Op::Issuer),
        1 => Just(Op::LoseRuntime),
        1 => Just(Op::ParkRuntime),
        1 => Just(Op::UnparkRuntime),
    ]
}

/// What the source is told, and what it has seen.
struct Book {
    issuer: Issuer,
    clock: ManualClock,
    granted: usize,
    /// Each token by its text: when it was asked for, its life and its age.
    tokens: HashMap<String, Vec<(Moment, Duration, Duration)>>,
    calls: usize,
    /// Calls in flight, by number; a parked runtime takes its calls out of the count.
    in_flight: Vec<usize>,
    /// The runtime that is being driven, and those that were parked once: what runs there is late, and
    /// others may go on without it.
    driving: usize,
    late: HashSet<usize>,
    /// No call may begin before, by the monotonic clock: the issuer said so.
    closed_until: Duration,
    broken: Option<String>,
}

#[derive(Clone)]
struct Source(Arc<Mutex<Book>>);

/// Takes a call out of the book however it ends.
struct InFlight(Source, usize);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().in_flight.retain(|call| *call != self.1);
    }
}

#[async_trait]
impl TokenSource for Source {
    async fn fetch(&self, _: FetchContext<'_>) -> Result<Token, Error> {
        let (issuer, asked, call) = {
            let mut book = self.0.lock().unwrap();
            let asked = book.clock.now();
            book.calls += 1;
            let call = book.calls;
            if !book.late.contains(&book.driving) {
                book.in_flight.push(call);
            }
            if book.in_flight.len() > 1 {
                book.broken = Some("two refreshes are in flight".to_owned());
            }
            if asked.monotonic() < book.closed_until {
                book.broken =
                    Some("the issuer was asked before the time that it had named".to_owned());
            }
            (book.issuer, asked, call)
        };
        let _in_flight = InFlight(self.clone(), call);
        let fail = |kind| Err(Error::new(kind, "simulated"));
        match issuer {
            Issuer::Grant(life) => self.grant(asked, life, Duration::ZERO, true),
            Issuer::Adopted(life, age) => self.grant(asked, life, age, true),
            Issuer::SameAgain(life) => self.grant(asked, life, Duration::ZERO, false),
            Issuer::SlowGrant(delay, life) => {
                tokio::time::sleep(delay).await;
                self.grant(asked, life, Duration::ZERO, true)
            }
            Issuer::Fail(kind) => fail(kind),
            Issuer::SlowFail(delay, kind) => {
                tokio::time::sleep(delay).await;
                fail(kind)
            }
            Issuer::FailFor(wait) => {
                let mut book = self.0.lock().unwrap();
                book.closed_until = book.clock.now().monotonic() + wait.min(HOUR);
                fail(ErrorKind::RateLimited).map_err(|error| error.with_retry_after(wait))
            }
            Issuer::Hang => std::future::pending().await,
            Issuer::Panic => std::panic::resume_unwind(Box::new("simulated")),
        }
    }
}

impl Source {
    fn grant(
        &self,
        asked: Moment,
        life: Duration,
        age: Duration,
        new: bool,
    ) -> Result<Token, Error> {
        let mut book = self.0.lock().unwrap();
        book.granted += usize::from(new || book.granted == 0);
        let name = format!("token-{}", book.granted);
        book.tokens.entry(name.clone()).or_default().push((asked, life, age));
        Ok(Token::bearer(name, life)?.with_age(age))
    }
}

/// The instant from which a life of this much must not be used: read from the documentation anew.
fn use_of(life: Duration) -> Duration {
    let life = life.min(30 * 24 * HOUR);
    life - MINUTE.min(life.mul_f64(0.1))
}

type Call = Pin<Box<dyn Future<Output = Result<Token, Error>>>>;

/// A caller that waits, on one runtime.
struct Caller {
    call: Call,
    runtime: usize,
    waited: Duration,
}

struct World {
    cache: TokenCache,
    book: Source,
    clock: ManualClock,
    runtimes: Vec<Option<Runtime>>,
    current: usize,
    parked: Vec<usize>,
    callers: Vec<Caller>,
    /// Tokens that callers got, the newest last.
    seen: Vec<Token>,
    /// Those that an API has refused: they may be replaced by any other.
    refused: HashSet<String>,
    /// The token that `current` gave last.
    held: Option<Token>,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::new();
        let book = Source(Arc::new(Mutex::new(Book {
            issuer: Issuer::Grant(24 * HOUR),
            clock: clock.clone(),
            granted: 0,
            tokens: HashMap::new(),
            calls: 0,
            in_flight: Vec::new(),
            driving: 0,
            late: HashSet::new(),
            closed_until: Duration::ZERO,
            broken: None,
        })));
        let cache = TokenCache::builder(book.clone()).clock(clock.clone()).build().unwrap();
        Self {
            cache,
            book,
            clock,
            runtimes: vec![Some(runtime())],
            current: 0,
            parked: Vec::new(),
            callers: Vec::new(),
            seen: Vec::new(),
            refused: HashSet::new(),
            held: None,
        }
    }

    fn on<T>(&self, index: usize, work: impl Future<Output = T>) -> T {
        self.book.0.lock().unwrap().driving = index;
        self.runtimes[index].as_ref().expect("a living runtime").block_on(work)
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        match *op {
            Op::Advance(time) => {
                let mut left = time;
                while !left.is_zero() {
                    let part = left.min(if time > 5 * SECOND { SECOND } else { 100 * MS });
                    self.pass(part)?;
                    left -= part;
                }
            }
            Op::Jump(time) => self.pass(time)?,
            Op::Suspend(time) => self.clock.suspend(time),
            Op::WallBack(time) => {
                let wall = self.clock.now().wall();
                self.clock.set_wall(wall.saturating_sub(time));
            }
            Op::Current => self.look()?,
            Op::Token => {
                let cache = self.cache.clone();
                self.call(Box::pin(async move { cache.token().await }))?;
            }
            Op::Replace(back) => {
                if let Some(rejected) = self.seen.iter().rev().nth(back).cloned() {
                    self.refused.insert(text(&rejected));
                    let cache = self.cache.clone();
                    self.call(Box::pin(async move {
                        let other = cache.replace(&rejected).await?;
                        assert_ne!(text(&other), text(&rejected), "a refused token was given back");
                        Ok(other)
                    }))?;
                }
            }
            Op::DropCaller(index) => {
                if !self.callers.is_empty() {
                    let index = index % self.callers.len();
                    self.callers.swap_remove(index);
                }
            }
            Op::Issuer(issuer) => self.book.0.lock().unwrap().issuer = issuer,
            Op::LoseRuntime => {
                // Its callers go with it, then its tasks.
                let lost = self.current;
                self.callers.retain(|caller| caller.runtime != lost);
                self.runtimes[lost] = None;
                self.replace_runtime();
            }
            Op::ParkRuntime => {
                let mut book = self.book.0.lock().unwrap();
                book.in_flight.clear();
                book.late.insert(self.current);
                drop(book);
                self.parked.push(self.current);
                self.replace_runtime();
            }
            Op::UnparkRuntime => {
                self.parked.pop();
            }
        }
        self.settle()?;
        self.look()
    }

    fn replace_runtime(&mut self) {
        self.runtimes.push(Some(runtime()));
        self.current = self.runtimes.len() - 1;
    }

    fn driven(&self) -> Vec<usize> {
        let living = (0..self.runtimes.len()).filter(|index| self.runtimes[*index].is_some());
        living.filter(|index| !self.parked.contains(index)).collect()
    }

    fn pass(&mut self, time: Duration) -> Result<(), String> {
        for index in self.driven() {
            self.on(index, crate::support::settle());
        }
        if time > 30 * SECOND {
            // Nothing was driven for longer than a refresh may take: as with a parked runtime, another
            // may be started beside what is still there.
            self.book.0.lock().unwrap().in_flight.clear();
        }
        self.clock.advance(time);
        for index in self.driven() {
            self.on(index, tokio::time::advance(time));
        }
        let parked = self.parked.clone();
        for caller in self.callers.iter_mut().filter(|caller| !parked.contains(&caller.runtime)) {
            caller.waited += time.min(31 * SECOND);
        }
        self.settle()
    }

    /// Lets everything run that can, without letting time pass.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            for index in self.driven() {
                self.on(index, crate::support::settle());
            }
            let callers = std::mem::take(&mut self.callers);
            for mut caller in callers {
                if self.parked.contains(&caller.runtime) {
                    self.callers.push(caller);
                    continue;
                }
                match self.poll(&mut caller) {
                    Poll::Ready(answer) => self.answered(answer)?,
                    // A refresh takes 30 s, and what is lost with a runtime is noticed 1 s later.
                    Poll::Pending
                        if caller.waited > 31 * SECOND * (1 + self.runtimes.len() as u32) =>
                    {
                        return Err(format!("a caller has waited for {:?}", caller.waited));
                    }
                    Poll::Pending => self.callers.push(caller),
                }
            }
        }
        match self.book.0.lock().unwrap().broken.take() {
            Some(broken) => Err(broken),
            None => Ok(()),
        }
    }

    fn poll(&self, caller: &mut Caller) -> Poll<Result<Token, Error>> {
        let _context = self.runtimes[caller.runtime].as_ref().expect("a living runtime").enter();
        caller.call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn call(&mut self, call: Call) -> Result<(), String> {
        let mut caller = Caller { call, runtime: self.current, waited: Duration::ZERO };
        match self.poll(&mut caller) {
            Poll::Ready(answer) => self.answered(answer),
            Poll::Pending => {
                self.callers.push(caller);
                Ok(())
            }
        }
    }

    fn answered(&mut self, answer: Result<Token, Error>) -> Result<(), String> {
        if let Ok(token) = answer {
            self.check_usable(&token)?;
            self.seen.push(token);
        }
        Ok(())
    }

    /// No expired token is handed out: neither clock has come to its end.
    fn check_usable(&self, token: &Token) -> Result<(), String> {
        let now = self.clock.now();
        let book = self.book.0.lock().unwrap();
        let usable = book.tokens[&text(token)].iter().any(|(asked, life, age)| {
            let use_left = use_of(*life).saturating_sub(*age);
            now.monotonic() < asked.monotonic() + use_left && now.wall() < asked.wall() + use_left
        });
        if usable { Ok(()) } else { Err(format!("{} was handed out and is over", text(token))) }
    }

    /// Looks at the token held: it is usable; and none was withheld or lost.
    fn look(&mut self) -> Result<(), String> {
        let current = {
            let _context = self.runtimes[self.current].as_ref().expect("a living runtime").enter();
            self.cache.current()
        };
        if let Some(token) = &current {
            self.check_usable(token)?;
            // Whoever asks now gets it at once.
            let cache = self.cache.clone();
            let mut caller = Caller {
                call: Box::pin(async move { cache.token().await }),
                runtime: self.current,
                waited: Duration::ZERO,
            };
            if !matches!(self.poll(&mut caller), Poll::Ready(Ok(_))) {
                return Err(
                    "a usable token is held, and a caller did not get it at once".to_owned()
                );
            }
        }
        if let (Some(before), None) = (&self.held, &current)
            && !self.refused.contains(&text(before))
            && self.stamped_usable(before)
        {
            return Err(format!("{} was usable and is gone", text(before)));
        }
        self.held = current;
        self.callers.truncate(50);
        Ok(())
    }

    fn stamped_usable(&self, token: &Token) -> bool {
        self.check_usable(token).is_ok()
            && self.book.0.lock().unwrap().tokens[&text(token)].len() == 1
    }

    /// The issuer is well again: within the longest gate everybody is served.
    fn recover(&mut self) -> Result<(), String> {
        self.book.0.lock().unwrap().issuer = Issuer::Grant(24 * HOUR);
        self.parked.clear();
        // What is in flight ends, and closes the gate for the last time.
        self.pass(31 * SECOND)?;
        self.pass(31 * SECOND)?;
        self.pass(HOUR + HOUR / 10 + SECOND)?;
        let cache = self.cache.clone();
        self.call(Box::pin(async move { cache.token().await }))?;
        self.settle()?;
        self.look()?;
        if !self.callers.is_empty() {
            self.pass(31 * SECOND)?;
        }
        match (&self.held, self.callers.len()) {
            (Some(_), 0) => Ok(()),
            (held, waiting) => Err(format!(
                "the issuer is well, but {held:?} is held and {waiting} callers wait: {:?}",
                self.cache.status()
            )),
        }
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn cases() -> u32 {
    std::env::var("SIMULATION_CASES")
        .map_or(1_000, |cases| cases.parse().expect("SIMULATION_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/it/cache/simulation.regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_contract_holds_whatever_happens(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for (number, op) in ops.iter().enumerate() {
            if let Err(broken) = world.step(op) {
                prop_assert!(false, "step {number}, {op:?}: {broken}");
            }
        }
        if let Err(broken) = world.recover() {
            prop_assert!(false, "at the end: {broken}");
        }
    }
}
