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
    report::{Report, Row},
    stats::quantile,
};

const LIFE: Duration = Duration::from_secs(600);
/// Stale after five seconds, and usable for another minute.
const AGE: Duration = Duration::from_secs(475);

struct Done {
    requests: usize,
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
    let mut policy = RefreshPolicy::default();
    policy.stale_spread = 0.0;
    let cache = TokenCache::builder(source)
        .policy(policy)
        .build()
        .expect("a policy");
    let target = Target::origin("https://api.example".parse().expect("a URL")).expect("a target");
    let layer = AuthMiddleware::builder(cache.clone())
        .target(target)
        .build()
        .expect("a layer");
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(layer)
        .with(Canned("{}"))
        .build();
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
        requests: times.len(),
        failed: failed.load(Relaxed),
        waited: waited.load(Relaxed),
        grants: cache.status().grants(),
        times,
    }
}

pub(crate) fn measure(issuer: &Issuer, report: &mut Report) {
    let millis = Duration::from_millis;
    let loads = [
        ("none: no refresh falls due", None, false, 10),
        ("0.1 s", Some(millis(100)), false, 20),
        ("2 s", Some(millis(2_000)), false, 20),
        ("30 s", Some(millis(30_000)), false, 40),
        ("dead", Some(millis(50)), true, 20),
    ];
    let done: Vec<_> = loads
        .iter()
        .map(|(name, delay, fails, seconds)| {
            // Quiet: over before the first token is stale.
            let seconds = if delay.is_some() { *seconds } else { 1 };
            (
                *name,
                run(issuer, delay.unwrap_or_default(), *fails, seconds),
            )
        })
        .collect();
    let rows = done.iter().map(|(name, done)| {
        let mut cells = vec![(*name).to_owned()];
        cells.extend(
            [done.requests as u64, done.failed, done.waited, done.grants].map(|n| n.to_string()),
        );
        cells.extend([0.5, 0.99, 0.999].map(|part| format!("{:.3}", quantile(&done.times, part))));
        cells
    });
    report.table(
        "A thousand requests a second across refreshes",
        "A token is stale five seconds after the issuer was asked for it and usable for a minute more. Times in milliseconds, from the call \
         until the canned answer behind the layer is back.",
        &["issuer", "requests", "failed", "waited", "grants", "p50", "p99", "p99.9"],
        rows.collect(),
    );
    let sum = |count: fn(&Done) -> u64| done.iter().map(|(_, done)| count(done)).sum::<u64>();
    let late = |place: usize| quantile(&done[place].1.times, 0.999);
    let most = (1..done.len()).map(late).fold(0.0, f64::max);
    let (failed, waited) = (sum(|done| done.failed), sum(|done| done.waited));
    report.goal(Row {
        name: "P5",
        what: "1,000 requests/s across refreshes with an issuer of 2 s, and with it down",
        goal: "no failure, no wait while a token is usable, time in the layer ≤ 1 ms",
        measured: format!(
            "{failed} failed, {waited} waited; p99.9 ≤ {most:.3} ms, quiet {:.3} ms",
            late(0)
        ),
        is_met: failed == 0 && waited == 0 && most <= 1.0,
    });
}
