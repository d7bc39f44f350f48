//! The simulated world of one machine: its clocks, the issuer and the APIs' verdict on a token, all
//! on paused time.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use sitecore_auth::{Clock, Moment};
use tokio::time::{Instant, advance, sleep};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;
const DAYS: u64 = 365;

/// How long after the issuer has changed its signing key the APIs do so.
const KEY_DELAY: u64 = 5 * MINUTE;
/// How far the clocks of the APIs are behind, in seconds.
const API_LAG: u64 = 2;
/// How long the machine is suspended, or the process frozen.
const STILL: u64 = 30 * MINUTE;

pub(super) const GOOD: &str = "https://good.example/";
/// This API reports a rejection with status 500 and a GraphQL error.
pub(super) const AUTHORING: &str = "https://authoring.example/sitecore/api/authoring/graphql/v1/";
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
    /// The process stands still for half an hour during its next token request. The clocks go on.
    Freeze,
    /// From now on, the issuer signs with a new key.
    NewKey,
    /// From now on, the APIs accept the new key only.
    KeyKnown,
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
    /// The process will be frozen during the next token request.
    freezes: bool,
    issuer_key: u64,
    api_key: u64,
    /// The rounds of calls since the APIs changed their key.
    rounds: u64,
    /// When each token was granted, and its key.
    granted: Vec<(u64, u64)>,
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
            events.push((at(), Event::Freeze));
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
                events.push((key_at + KEY_DELAY, Event::KeyKnown));
            }
        }
        events.sort_by_key(|(at, _)| *at);
        let state = State {
            events: events.into(),
            suspended: 0,
            step: 0,
            freezes: false,
            issuer_key: 0,
            api_key: 0,
            rounds: 0,
            granted: Vec::new(),
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
                Event::Suspend => state.suspended += STILL,
                Event::Step(step) => state.step = step,
                Event::Freeze => state.freezes = true,
                Event::NewKey => state.issuer_key += 1,
                Event::KeyKnown => {
                    state.api_key = state.issuer_key;
                    state.rounds = 0;
                }
            }
        }
    }

    /// Returns a new token, whose text contains its expiry and its key.
    pub(super) async fn request_token(&self) -> Result<String, &'static str> {
        self.state().token_requests += 1;
        sleep(Duration::from_millis(300)).await;
        let freezes = mem::take(&mut self.state().freezes);
        if freezes {
            advance(Duration::from_secs(STILL)).await;
            self.apply_events();
        }
        let now = self.true_time().as_secs();
        if self.outages.iter().any(|(begin, end)| (*begin..*end).contains(&now)) {
            return Err("the outage");
        }
        let mut state = self.state();
        let key = state.issuer_key;
        state.granted.push((now, key));
        Ok(format!("{}-{key}-{}", now + DAY, state.granted.len()))
    }

    /// Returns `true` if the API accepts this token, given bare or as its header.
    pub(super) fn accepts(&self, url: &str, token: &str) -> bool {
        let mut parts = token
            .trim_start_matches("Bearer ")
            .split('-')
            .map(|part| part.parse::<u64>().unwrap_or(0));
        let (Some(expiry), Some(key)) = (parts.next(), parts.next()) else { return false };
        url != REJECTING && self.is_valid(expiry.saturating_sub(DAY), key)
    }

    /// Returns `true` if the working APIs accept a token that was granted then with this key.
    fn is_valid(&self, granted: u64, key: u64) -> bool {
        // By the clock of the APIs.
        let now = self.true_time().as_secs().saturating_sub(API_LAG);
        (granted..granted + DAY).contains(&now) && key == self.state().api_key
    }

    /// Returns `true` if this is one of the first two rounds of calls since the APIs changed their
    /// key, and they accept none of the tokens that exist.
    fn has_no_token_yet(&self) -> bool {
        if self.state().rounds >= 2 {
            return false;
        }
        let granted = self.state().granted.clone();
        !granted.iter().any(|(at, key)| self.is_valid(*at, *key))
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

/// What happened in a year. Calls are those to the working APIs.
#[derive(Default)]
pub(super) struct Year {
    pub(super) calls: u64,
    pub(super) failed: u64,
    /// The calls that failed because no token existed yet that the API would have accepted.
    pub(super) at_new_key: u64,
    pub(super) waited: u64,
    pub(super) tokens: u64,
    pub(super) token_requests: u64,
}

/// Calls the two working APIs every five minutes and the rejecting one every hour, for a year.
pub(super) async fn run(world: &World, call: impl AsyncFn(&str) -> bool) -> Year {
    let mut year = Year::default();
    let mut round = 0_u64;
    while world.true_time().as_secs() < DAYS * DAY {
        world.apply_events();
        let apis = if round % 2 == 0 { [GOOD, AUTHORING] } else { [AUTHORING, GOOD] };
        for api in apis {
            let started = Instant::now();
            year.calls += 1;
            match call(api).await {
                true => {}
                false if world.has_no_token_yet() => year.at_new_key += 1,
                false => year.failed += 1,
            }
            year.waited += u64::from(!started.elapsed().is_zero());
        }
        world.state().rounds += 1;
        round += 1;
        if round % 12 == 0 {
            call(REJECTING).await;
        }
        sleep(Duration::from_secs(5 * MINUTE)).await;
    }
    let state = world.state();
    (year.tokens, year.token_requests) = (state.granted.len() as u64, state.token_requests);
    drop(state);
    year
}
