//! P5: a thousand requests a second across refreshes, with issuers that are fast, slow or failing.

use std::{
    future::poll_fn,
    hint::black_box,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use reqwest_middleware::ClientBuilder;
use sitecore_auth::{
    AuthMiddleware, Error, ErrorKind, Freshness, RefreshPolicy, Target, Token, TokenCache,
    source_fn,
};
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};

use crate::{
    alloc::counted,
    issuer::Issuer,
    report::{Figure, Goal, RUNS, Report},
    runtime,
    stats::{Spread, quantile},
    support::Canned,
};

const LIFETIME: Duration = Duration::from_secs(600);
/// A token of this age becomes stale in five seconds and stays usable for another minute.
const AGE: Duration = Duration::from_secs(475);

struct Done {
    failed: u64,
    waited: u64,
    token_requests: u64,
    /// In milliseconds, sorted.
    times: Vec<f64>,
}

fn run(issuer: &Issuer, delay: Duration, fails: bool, seconds: u32) -> Done {
    issuer.restore();
    let handle = issuer.clone();
    let source = source_fn(move |_| {
        let issuer = handle.clone();
        async move {
            let granted = issuer.request_token().await;
            let granted = granted.map_err(|error| Error::new(ErrorKind::Unavailable, error))?;
            Ok(Token::bearer(granted.token, LIFETIME)?.with_age(AGE))
        }
    });
    let policy = RefreshPolicy::default().without_jitter();
    let cache = TokenCache::builder(source).policy(policy).build().expect("a valid policy");
    let target = Target::origin("https://api.example".parse().expect("a URL")).expect("a target");
    let middleware = AuthMiddleware::builder(cache.clone()).target(target);
    let middleware = middleware.build().expect("a middleware");
    let client = ClientBuilder::new(reqwest::Client::new()).with(middleware);
    let client = client.with(Canned("{}")).build();
    let (failed, waited) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let times = runtime::multi_thread(2).block_on(async {
        cache.token().await.expect("a token");
        issuer.set_delay(delay);
        issuer.set_fails(fails);
        let mut tick = interval(Duration::from_millis(1));
        let mut requests = JoinSet::new();
        for _ in 0..seconds * 1_000 {
            tick.tick().await;
            let (client, failed, waited) =
                (client.clone(), Arc::clone(&failed), Arc::clone(&waited));
            requests.spawn(async move {
                let started = Instant::now();
                let mut response = pin!(client.get("https://api.example/x").send());
                // Nothing behind the middleware waits. A request that is not done at the first poll
                // is therefore waiting in the middleware.
                let mut is_first = true;
                let succeeded = poll_fn(|context| {
                    let response = response.as_mut().poll(context);
                    if is_first && response.is_pending() {
                        waited.fetch_add(1, Relaxed);
                    }
                    is_first = false;
                    match response {
                        Poll::Ready(response) => Poll::Ready(response.is_ok()),
                        Poll::Pending => Poll::Pending,
                    }
                });
                if !succeeded.await {
                    failed.fetch_add(1, Relaxed);
                }
                started.elapsed().as_secs_f64() * 1_000.0
            });
        }
        requests.join_all().await
    });
    let mut times = times;
    times.sort_by(f64::total_cmp);
    Done {
        failed: failed.load(Relaxed),
        waited: waited.load(Relaxed),
        token_requests: cache.status().token_requests(),
        times,
    }
}

/// The issuer's name in the table, its delay, whether it fails, and the seconds of load. The load
/// without a refresh ends before the first token is stale.
const LOADS: [(&str, Duration, bool, u32); 5] = [
    ("no refresh due", Duration::ZERO, false, 4),
    ("0.1 s", Duration::from_millis(100), false, 12),
    ("2 s", Duration::from_secs(2), false, 12),
    ("30 s", Duration::from_secs(30), false, 40),
    ("failing", Duration::from_millis(50), true, 12),
];

/// Headers per sample, and samples per run.
const HEADERS: u64 = 100_000;
const ROUNDS: usize = 11;

/// Compares a header from a stale token during a cooldown with one from a fresh token. Returns the
/// ratio of each run, and the allocations per header.
fn in_cooldown() -> (Vec<f64>, f64) {
    let runtime = runtime::current_thread();
    let cache = |age: Duration| {
        let is_first = AtomicBool::new(true);
        let source = source_fn(move |_| {
            let granted = is_first.swap(false, Relaxed);
            async move {
                // A wait that the issuer specified outlasts the measurement.
                let failed = || {
                    let failed = Error::new(ErrorKind::RateLimited, "the quota is used up");
                    failed.with_retry_after(LIFETIME)
                };
                let token = granted.then(|| Token::bearer("t".repeat(1_200), LIFETIME));
                Ok(token.ok_or_else(failed)??.with_age(age))
            }
        });
        let policy = RefreshPolicy::default().without_jitter();
        let cache = TokenCache::builder(source).policy(policy).build().expect("a valid policy");
        runtime.block_on(cache.token()).expect("a token");
        cache
    };
    // Stale after one second.
    let (fresh, stale) = (cache(Duration::ZERO), cache(AGE + Duration::from_secs(4)));
    runtime.block_on(async {
        sleep(Duration::from_millis(1_100)).await;
        drop(stale.current());
        while stale.status().is_refreshing() {
            sleep(Duration::from_millis(1)).await;
        }
    });
    let status = stale.status();
    assert!(status.freshness() == Some(Freshness::Stale) && status.last_error().is_some());
    let take = |cache: &TokenCache, count: u64| {
        runtime.block_on(async {
            for _ in 0..count {
                black_box(cache.token().await.expect("a token").header().1.clone());
            }
        });
    };
    let nanos = |cache: &TokenCache| {
        let started = Instant::now();
        take(cache, HEADERS);
        started.elapsed().as_secs_f64()
    };
    take(&fresh, HEADERS);
    take(&stale, HEADERS);
    let (_, allocations, _) = counted(|| take(&stale, 1_000));
    let ratio = |_| nanos(&stale) / nanos(&fresh);
    let run = |_| Spread::of((0..ROUNDS).map(ratio).collect()).median;
    ((0..RUNS).map(run).collect(), allocations as f64 / 1_000.0)
}

pub(crate) fn measure(issuer: &Issuer, report: &mut Report) {
    let mut done: [Vec<Done>; LOADS.len()] = Default::default();
    for _ in 0..RUNS {
        for ((_, delay, fails, seconds), done) in LOADS.iter().zip(&mut done) {
            // The longest load runs once: it takes as long as all others together.
            if *seconds < 30 || done.is_empty() {
                done.push(run(issuer, *delay, *fails, *seconds));
            }
        }
    }
    let quantiles =
        |done: &[Done], part| done.iter().map(|done| quantile(&done.times, part)).collect();
    let rows = LOADS.iter().zip(&done).map(|((name, ..), done)| {
        let sum = |count: fn(&Done) -> u64| done.iter().map(count).sum::<u64>().to_string();
        let times = [0.5, 0.99, 0.999].map(|part| Spread::of(quantiles(done, part)).to_string());
        let counts = [
            sum(|done| done.times.len() as u64),
            sum(|done| done.failed),
            sum(|done| done.waited),
            sum(|done| done.token_requests),
        ];
        [vec![(*name).to_owned()], counts.to_vec(), times.to_vec()].concat()
    });
    report.table(
        "A thousand requests a second across refreshes",
        "Each token is stale five seconds after its token request and stays usable for a minute \
         more. For this, the policy has no jitter. Times are in milliseconds, from the first poll \
         of a call until it has its canned response. A failing issuer receives one or two token \
         requests per run.",
        &["issuer", "requests", "failed", "waited", "token requests", "p50", "p99", "p99.9"],
        rows.collect(),
    );
    let (ratios, allocations) = in_cooldown();
    let [no_refresh, _, slow, _, failing] = &done;
    let both = |count: fn(&Done) -> u64| {
        let pairs = slow.iter().zip(failing);
        pairs.map(|(slow, failing)| (count(slow) + count(failing)) as f64).collect()
    };
    report.goal(Goal {
        name: "P5",
        what: "1,000 requests/s across refreshes; the issuer takes 2 s, or fails, which starts a cooldown",
        figures: vec![
            Figure::never_above(0.0, "failed calls", both(|done| done.failed)),
            Figure::never_above(0.0, "calls that waited", both(|done| done.waited)),
            Figure::at_most(
                1.0,
                "issuer takes 2 s: p99.9 of the time in the middleware, ms",
                quantiles(slow, 0.999),
            ),
            Figure::at_most(1.0, "issuer fails: p99.9, ms", quantiles(failing, 0.999)),
            Figure::unbounded("no refresh due: p99.9, ms", quantiles(no_refresh, 0.999)),
            Figure::at_most(1.6, "a header while stale and in a cooldown, ratio to fresh", ratios),
            Figure::never_above(0.0, "its allocations", vec![allocations]),
        ],
    });
}
