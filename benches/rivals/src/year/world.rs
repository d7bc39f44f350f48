//! The simulated world of one machine: its clocks, the issuer and the APIs' verdict on a token, all
//! on paused time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use sitecore_auth::{Clock, Moment};
use tokio::time::{Instant, sleep};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;
const DAYS: u64 = 365;

pub(super) const GOOD: &str = "https://good.example/";
/// This API rejects every token.
pub(super) const REJECTING: &str = "https://rejecting.example/";
/// The challenge of a response that rejects a token (RFC 6750 §3.1).
pub(super) const CHALLENGE: &str = "Bearer error=\"invalid_token\"";

/// An event at a second of true time.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Monotonic clocks stand still for half an hour.
    Suspend,
    /// The wall clock is set to this many seconds from the true time.
    Step(i64),
    /// From now on, tokens of the old signing key are rejected.
    NewKey,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) started: Instant,
    outages: Vec<(u64, u64)>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    events: VecDeque<(u64, Event)>,
    suspended: u64,
    step: i64,
    key: u64,
    tokens: u64,
    token_requests: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut outages, mut events) = (Vec::<(u64, u64)>::new(), Vec::new());
        for day in 0..DAYS {
            // At any time of the day, but not within eight hours of the last one.
            let earliest = outages.last().map_or(0, |(_, end)| end + 8 * HOUR);
            let mut begin = day * DAY + random.u64(0..DAY);
            while begin < earliest {
                begin = day * DAY + random.u64(0..DAY);
            }
            outages.push((begin, begin + 4 * HOUR));
            let mut at = || day * DAY + random.u64(0..DAY - HOUR);
            events.push((at(), Event::Suspend));
            // With new keys in an outage, no client could have a valid token.
            let is_near = |at: u64, (begin, end): &(u64, u64)| {
                (begin.saturating_sub(HOUR)..end + HOUR).contains(&at)
            };
            let mut key_at = at();
            while outages.iter().any(|outage| is_near(key_at, outage)) {
                key_at = at();
            }
            let step_at = at();
            events.push((step_at, Event::Step(random.i64(-600..600))));
            if day % 7 == 6 {
                events.push((key_at, Event::NewKey));
            }
        }
        events.sort_by_key(|(at, _)| *at);
        let state = State {
            events: events.into(),
            suspended: 0,
            step: 0,
            key: 0,
            tokens: 0,
            token_requests: 0,
        };
        Arc::new(Self { started: Instant::now(), outages, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Returns the true time since the year began.
    fn true_time(&self) -> Duration {
        self.started.elapsed() + Duration::from_secs(self.state().suspended)
    }

    pub(super) fn wall(&self) -> Duration {
        let step = self.state().step;
        let truth = Duration::from_secs(1_800_000_000) + self.true_time();
        let by = Duration::from_secs(step.unsigned_abs());
        if step < 0 { truth - by } else { truth + by }
    }

    /// Applies the events that are due.
    fn apply_events(&self) {
        let now = self.true_time().as_secs();
        let mut state = self.state();
        while let Some((_, event)) = state.events.pop_front_if(|(at, _)| *at <= now) {
            match event {
                Event::Suspend => state.suspended += 30 * MINUTE,
                Event::Step(step) => state.step = step,
                Event::NewKey => state.key += 1,
            }
        }
    }

    /// Returns a new token, whose text contains its expiry and its key.
    pub(super) async fn request_token(&self) -> Result<String, &'static str> {
        self.state().token_requests += 1;
        sleep(Duration::from_millis(300)).await;
        let now = self.true_time().as_secs();
        if self.outages.iter().any(|(begin, end)| (*begin..*end).contains(&now)) {
            return Err("the outage");
        }
        let mut state = self.state();
        state.tokens += 1;
        Ok(format!("{}-{}-{}", now + DAY, state.key, state.tokens))
    }

    /// Returns `true` if the API accepts this token, given bare or as its header.
    pub(super) fn accepts(&self, url: &str, token: &str) -> bool {
        let mut parts = token
            .trim_start_matches("Bearer ")
            .split('-')
            .map(|part| part.parse::<u64>().unwrap_or(0));
        let (expiry, key) = (parts.next(), parts.next());
        url == GOOD && expiry > Some(self.true_time().as_secs()) && key == Some(self.state().key)
    }
}

/// The machine's clocks: a wall clock that is set now and then, and a monotonic clock that stands
/// still during suspend.
#[derive(Debug)]
pub(super) struct WorldClock(pub(super) Arc<World>);

impl Clock for WorldClock {
    fn now(&self) -> Moment {
        let monotonic = self.0.started.elapsed() + Duration::from_secs(DAY);
        Moment::new(monotonic, self.0.wall())
    }
}

/// What happened in a year. Calls are those to the working API.
#[derive(Default)]
pub(super) struct Year {
    pub(super) calls: u64,
    pub(super) failed: u64,
    pub(super) waited: u64,
    pub(super) tokens: u64,
    pub(super) token_requests: u64,
}

/// Calls the working API every five minutes and the rejecting one every hour, for a year.
pub(super) async fn run(world: &World, call: impl AsyncFn(&str) -> bool) -> Year {
    let mut year = Year::default();
    while world.true_time().as_secs() < DAYS * DAY {
        world.apply_events();
        let started = Instant::now();
        year.calls += 1;
        year.failed += u64::from(!call(GOOD).await);
        year.waited += u64::from(!started.elapsed().is_zero());
        if year.calls % 12 == 0 {
            call(REJECTING).await;
        }
        sleep(Duration::from_secs(5 * MINUTE)).await;
    }
    let state = world.state();
    (year.tokens, year.token_requests) = (state.tokens, state.token_requests);
    drop(state);
    year
}
