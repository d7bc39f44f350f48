//! P10: a year of a machine and its issuer, on paused time: every day an outage of four hours, half an hour of suspend
//! and a step of the wall clock; every week new signing keys; an API that refuses every token; lives of 24 h.

mod aliri;
mod aws_smithy;
mod cf_gears;
mod google_cloud;
mod huskarl;
mod loopback;
mod reqsign;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use http::{
    Extensions,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use reqwest::{Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use sitecore_auth::{
    AuthMiddleware, Clock, Error, ErrorKind, Moment, Target, Token, TokenCache, source_fn,
};
use tokio::time::{Instant, sleep};

use crate::report::{Figure, Goal, RUNS, Report};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const DAYS: u64 = 365;
const SEED: u64 = 2_026;

const GOOD: &str = "https://good.example/";
/// For this one, every token is made for somebody else.
const OTHER: &str = "https://other.example/";
/// What an API says of a token that it does not take (RFC 6750 §3.1).
const CHALLENGE: &str = "Bearer error=\"invalid_token\"";

/// What happens to it, at a second of its true time.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Monotonic clocks stand still for half an hour.
    Suspend,
    /// The wall clock is set: so many seconds away from the truth.
    Step(i64),
    /// Tokens of the old signing key are refused from now on.
    NewKey,
}

#[derive(Debug)]
struct World {
    begun: Instant,
    outages: Vec<(u64, u64)>,
    now: Mutex<State>,
}

#[derive(Debug)]
struct State {
    events: VecDeque<(u64, Event)>,
    suspended: u64,
    step: i64,
    key: u64,
    grants: u64,
    tries: u64,
}

impl World {
    fn new(seed: u64) -> Arc<Self> {
        let mut chance = fastrand::Rng::with_seed(seed);
        let (mut outages, mut events) = (Vec::<(u64, u64)>::new(), Vec::new());
        for day in 0..DAYS {
            // At any hour, but no two as good as one.
            let last = outages.last().map_or(0, |(_, end)| end + 8 * HOUR);
            let mut begin = day * DAY + chance.u64(0..DAY);
            while begin < last {
                begin = day * DAY + chance.u64(0..DAY);
            }
            outages.push((begin, begin + 4 * HOUR));
            let mut at = || day * DAY + chance.u64(0..DAY - HOUR);
            events.push((at(), Event::Suspend));
            // New keys in an outage would leave nobody a token that is good.
            let is_near = |at: u64, (begin, end): &(u64, u64)| {
                (begin.saturating_sub(HOUR)..end + HOUR).contains(&at)
            };
            let mut change = at();
            while outages.iter().any(|outage| is_near(change, outage)) {
                change = at();
            }
            let step_at = at();
            events.push((step_at, Event::Step(chance.i64(-600..600))));
            if day % 7 == 6 {
                events.push((change, Event::NewKey));
            }
        }
        events.sort_by_key(|(at, _)| *at);
        let state =
            State { events: events.into(), suspended: 0, step: 0, key: 0, grants: 0, tries: 0 };
        Arc::new(Self { begun: Instant::now(), outages, now: Mutex::new(state) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.now.lock().expect("no panic")
    }

    /// True time since the year began.
    fn truth(&self) -> Duration {
        self.begun.elapsed() + Duration::from_secs(self.state().suspended)
    }

    fn wall(&self) -> Duration {
        let step = self.state().step;
        let year = Duration::from_secs(1_800_000_000) + self.truth();
        let by = Duration::from_secs(step.unsigned_abs());
        if step < 0 { year - by } else { year + by }
    }

    /// Lets come what is due.
    fn pass(&self) {
        let truth = self.truth().as_secs();
        let mut state = self.state();
        while let Some((_, event)) = state.events.pop_front_if(|(at, _)| *at <= truth) {
            match event {
                Event::Suspend => state.suspended += 30 * MINUTE,
                Event::Step(step) => state.step = step,
                Event::NewKey => state.key += 1,
            }
        }
    }

    /// Grants a token, whose text is its end and its key.
    async fn grant(&self) -> Result<String, &'static str> {
        self.state().tries += 1;
        sleep(Duration::from_millis(300)).await;
        let now = self.truth().as_secs();
        if self.outages.iter().any(|(begin, end)| (*begin..*end).contains(&now)) {
            return Err("the outage");
        }
        let mut state = self.state();
        state.grants += 1;
        Ok(format!("{}-{}-{}", now + DAY, state.key, state.grants))
    }

    /// Tells whether an API takes a token, bare or as its header.
    fn accepts(&self, url: &str, token: &str) -> bool {
        let mut parts = token
            .trim_start_matches("Bearer ")
            .split('-')
            .map(|part| part.parse::<u64>().unwrap_or(0));
        let (end, key) = (parts.next(), parts.next());
        url == GOOD && end > Some(self.truth().as_secs()) && key == Some(self.state().key)
    }
}

/// What a machine in the world reads: a wall clock that is set, and a monotonic one that stands still in suspend.
#[derive(Debug)]
struct WorldClock(Arc<World>);

impl Clock for WorldClock {
    fn now(&self) -> Moment {
        let monotonic = self.0.begun.elapsed() + Duration::from_secs(DAY);
        Moment::new(monotonic, self.0.wall())
    }
}

/// The APIs: one judges tokens, the other refuses all.
struct Apis(Arc<World>);

#[async_trait]
impl Middleware for Apis {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let header = request.headers().get(AUTHORIZATION);
        let header = header.and_then(|value| value.to_str().ok());
        let mut answer = http::Response::builder().url(request.url().clone());
        let is_accepted = self.0.accepts(request.url().as_str(), header.unwrap_or_default());
        if !is_accepted {
            answer = answer.status(401).header(WWW_AUTHENTICATE, CHALLENGE);
        }
        Ok(answer.body("").expect("an answer").into())
    }
}

#[derive(Default)]
struct Year {
    calls: u64,
    failed: u64,
    waited: u64,
    grants: u64,
    tries: u64,
}

/// Calls the good API every five minutes, and the other every hour.
async fn live(world: &World, call: impl AsyncFn(&str) -> bool) -> Year {
    let mut year = Year::default();
    while world.truth().as_secs() < DAYS * DAY {
        world.pass();
        let begun = Instant::now();
        year.calls += 1;
        year.failed += u64::from(!call(GOOD).await);
        year.waited += u64::from(!begun.elapsed().is_zero());
        if year.calls % 12 == 0 {
            call(OTHER).await;
        }
        sleep(Duration::from_secs(5 * MINUTE)).await;
    }
    let state = world.state();
    (year.grants, year.tries) = (state.grants, state.tries);
    drop(state);
    year
}

async fn ours(world: Arc<World>) -> Year {
    let issuer = Arc::clone(&world);
    let source = source_fn(move |_| {
        let issuer = Arc::clone(&issuer);
        async move {
            let token = issuer.grant().await;
            let token = token.map_err(|error| Error::new(ErrorKind::Unavailable, error))?;
            Token::bearer(token, Duration::from_secs(DAY))
        }
    });
    let clock = WorldClock(Arc::clone(&world));
    let cache = TokenCache::builder(source).clock(clock).build().expect("a policy");
    let target = |url: &str| Target::origin(url.parse().expect("a URL")).expect("a target");
    let layer = AuthMiddleware::builder(cache).target(target(GOOD)).target(target(OTHER));
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(layer.build().expect("a layer"))
        .with(Apis(Arc::clone(&world)))
        .build();
    live(&world, async |url: &str| {
        client.get(url).send().await.is_ok_and(|answer| answer.status() == 200)
    })
    .await
}

/// Lives a year on a runtime whose time passes only when nobody has anything to do.
fn run<F: Future<Output = Year>>(seed: u64, year: impl FnOnce(Arc<World>) -> F) -> Year {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build();
    let lived = async { year(World::new(seed)).await };
    runtime.expect("a runtime").block_on(lived)
}

pub(crate) fn measure(report: &mut Report) {
    let by_all = &[GOOD, OTHER][..];
    let by_good = &[GOOD][..];
    let years = [
        ("sitecore-auth 0.1.0", run(SEED, ours)),
        ("aliri_tokens 0.3.2", run(SEED, aliri::year)),
        ("aws-smithy-runtime 1.16.2", run(SEED, aws_smithy::year)),
        ("huskarl 0.11.10", run(SEED, |world| huskarl::year(world, by_all))),
        (
            "huskarl 0.11.10, told by the good API only",
            run(SEED, |world| huskarl::year(world, by_good)),
        ),
        ("google-cloud-auth 1.18.0", run(SEED, google_cloud::year)),
        ("cf-gears-toolkit-auth 0.8.3", run(SEED, |world| cf_gears::year(world, by_all))),
        (
            "cf-gears-toolkit-auth 0.8.3, told by the good API only",
            run(SEED, |world| cf_gears::year(world, by_good)),
        ),
        ("reqsign-core 3.3.2", run(SEED, reqsign::year)),
    ];
    let rows = years.iter().map(|(name, year)| {
        let counts = [year.calls, year.failed, year.waited, year.grants, year.tries];
        let mut row = vec![(*name).to_owned()];
        row.extend(counts.map(|count| count.to_string()));
        row
    });
    report.table(
        "A simulated year",
        "Each day the issuer is down for four hours, at any time of it, the machine sleeps for half an hour and its wall clock is set to \
         within ten minutes of the truth; each week there are new signing keys, which the APIs insist on at once. One call \
         every five minutes, and one an hour to an API that refuses every token. Outages are at \
         least eight hours apart, and no keys change within an hour of one. Of the rivals those are here that can \
         be given the time, or live on Tokio's, each as its documentation has it called. Two of them can be told of a \
         refusal, and the call is then made once more: by both APIs, or, in a row of its own, by the good one only. The \
         others read clocks that cannot be set.",
        &["", "calls", "failed", "waited", "grants", "tries"],
        rows.collect(),
    );
    let failed = |(name, year): &(&str, Year)| ((*name).to_owned(), year.failed as f64);
    report.plot(
        "year",
        "Calls that failed in a simulated year",
        years.iter().map(failed).collect(),
    );
    // Each another year.
    let years: Vec<_> = (0..RUNS as u64).map(|number| run(SEED + number, ours)).collect();
    let each = |count: fn(&Year) -> u64| years.iter().map(|year| count(year) as f64).collect();
    report.goal(Goal {
        name: "P10",
        what: "a simulated year, of which each run draws another",
        figures: vec![
            Figure::never_above(0.0, "failed calls", each(|year| year.failed)),
            Figure::told("calls", each(|year| year.calls)),
            Figure::told("calls that waited", each(|year| year.waited)),
            Figure::told("grants", each(|year| year.grants)),
        ],
    });
}
