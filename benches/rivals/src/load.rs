//! P5: a thousand requests a second across refreshes, with issuers that are quick, slow, slower and dead.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use reqwest_middleware::ClientBuilder;
use sitecore_auth::{
    AuthMiddleware, Error, ErrorKind, RefreshPolicy, Target, Token, TokenCache, source_fn,
};
use tokio::{task::JoinSet, time::interval};

use crate::{
    issuer::Issuer,
    layer::Canned,
    report::{Figure, Goal, RUNS, Report},
    stats::{Spread, quantile},
};

const LIFE: Duration = Duration::from_secs(600);
/// Stale after five seconds, and usable for another minute.
const AGE: Duration = Duration::from_secs(475);

struct Done {
    failed: u64,
    waited: u64,
    grants: u64,
    /// In milliseconds, sorted.
    times: Vec<f64>,
}

fn run(issuer: &Issuer, delay: Duration, fails: bool, seconds: u32) -> Done {
    issuer.restore();
    let asked = issuer.clone();
    let source = source_fn(move |_| {
        let issuer = asked.clone();
        async move {
            let granted = issuer.grant().await;
            let granted = granted.map_err(|error| Error::new(ErrorKind::Unavailable, error))?;
            Ok(Token::bearer(granted.token, LIFE)?.with_age(AGE))
        }
    });
    let policy = RefreshPolicy::default().without_jitter();
    let cache = TokenCache::builder(source).policy(policy).build().expect("a policy");
    let target = Target::origin("https://api.example".parse().expect("a URL")).expect("a target");
    let layer = AuthMiddleware::builder(cache.clone()).target(target).build().expect("a layer");
    let client = ClientBuilder::new(reqwest::Client::new()).with(layer).with(Canned("{}")).build();
    let runtime = crate::runtime(2);
    let (failed, waited) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let times = runtime.block_on(async {
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
                let begun = Instant::now();
                let mut answer = pin!(client.get("https://api.example/x").send());
                // Nothing behind the layer waits: who is not done at once, waits in it.
                let mut is_first = true;
                let answer = poll_fn(|context| {
                    let answer = answer.as_mut().poll(context);
                    if is_first && answer.is_pending() {
                        waited.fetch_add(1, Relaxed);
                    }
                    is_first = false;
                    match answer {
                        Poll::Ready(answer) => Poll::Ready(answer.is_ok()),
                        Poll::Pending => Poll::Pending,
                    }
                });
                if !answer.await {
                    failed.fetch_add(1, Relaxed);
                }
                begun.elapsed().as_secs_f64() * 1_000.0
            });
        }
        requests.join_all().await
    });
    let mut times = times;
    times.sort_by(f64::total_cmp);
    Done {
        failed: failed.load(Relaxed),
        waited: waited.load(Relaxed),
        grants: cache.status().token_requests(),
        times,
    }
}

/// How the issuer is, what is measured of it, and for how many seconds. Quiet is over before the first token is stale.
const LOADS: [(&str, Duration, bool, u32); 5] = [
    ("none: no refresh falls due", Duration::ZERO, false, 4),
    ("0.1 s", Duration::from_millis(100), false, 12),
    ("2 s", Duration::from_secs(2), false, 12),
    ("30 s", Duration::from_secs(30), false, 40),
    ("dead", Duration::from_millis(50), true, 12),
];

pub(crate) fn measure(issuer: &Issuer, report: &mut Report) {
    let mut done: [Vec<Done>; LOADS.len()] = Default::default();
    for _ in 0..RUNS {
        for ((_, delay, fails, seconds), done) in LOADS.iter().zip(&mut done) {
            // The longest once: its requests are those of the others, and it would take as long as all of them.
            if *seconds < 30 || done.is_empty() {
                done.push(run(issuer, *delay, *fails, *seconds));
            }
        }
    }
    let late = |done: &[Done], part| done.iter().map(|done| quantile(&done.times, part)).collect();
    let rows = LOADS.iter().zip(&done).map(|((name, ..), done)| {
        let sum = |count: fn(&Done) -> u64| done.iter().map(count).sum::<u64>().to_string();
        let times = [0.5, 0.99, 0.999].map(|part| Spread::of(late(done, part)).to_string());
        let counts = [
            sum(|done| done.times.len() as u64),
            sum(|done| done.failed),
            sum(|done| done.waited),
            sum(|done| done.grants),
        ];
        [vec![(*name).to_owned()], counts.to_vec(), times.to_vec()].concat()
    });
    report.table(
        "A thousand requests a second across refreshes",
        "A token is stale five seconds after the issuer was asked for it and usable for a minute more. Times in \
         milliseconds, from the first poll of a call until the canned answer behind the layer is back. A dead issuer is asked \
         once or twice in that time. Other than by default every token is stale at the same age.",
        &["issuer", "requests", "failed", "waited", "grants", "p50", "p99", "p99.9"],
        rows.collect(),
    );
    let [quiet, _, slow, _, dead] = &done;
    let both = |count: fn(&Done) -> u64| {
        let pairs = slow.iter().zip(dead);
        pairs.map(|(slow, dead)| (count(slow) + count(dead)) as f64).collect()
    };
    report.goal(Goal {
        name: "P5",
        what: "1,000 requests/s across refreshes, with an issuer of 2 s, and with it down",
        figures: vec![
            Figure::never_above(0.0, "failed calls", both(|done| done.failed)),
            Figure::never_above(0.0, "calls that waited", both(|done| done.waited)),
            Figure::at_most(
                1.0,
                "issuer of 2 s: p99.9 of the time in the layer, ms",
                late(slow, 0.999),
            ),
            Figure::at_most(1.0, "issuer down: p99.9, ms", late(dead, 0.999)),
            Figure::told("quiet: p99.9, ms", late(quiet, 0.999)),
        ],
    });
}
