//! P7: a hundred real processes and one store, and a fleet of caches on paused time.

use std::{
    collections::HashMap,
    env, io,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::{Extensions, header::WWW_AUTHENTICATE};
use reqwest::{Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, Clock, Endpoint, Error, ErrorKind, Moment, Target, Token,
    TokenCache, TokenClient, source_fn,
};
use sitecore_token_store::{FileStore, MemoryStore, SharedSource};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    issuer::Issuer,
    report::{Figure, Goal, RUNS, Report},
    runtime,
};

const SECRET: &str = "a-secret-of-thirty-two-bytes-and-some-more";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Runs in each worker process: gets one token through the store.
pub(crate) fn work(token_url: &str, folder: PathBuf) -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = Endpoint::new(token_url.parse()?, "https://api.example")?;
    let tokens = TokenClient::builder(ClientCredentials::new("client", SECRET));
    let shared = SharedSource::new(tokens.endpoint(endpoint).build()?, FileStore::in_dir(folder)?)?;
    runtime::current_thread().block_on(TokenCache::new(shared).token())?;
    Ok(())
}

/// Returns the token requests of a hundred workers.
fn processes(issuer: &Issuer) -> io::Result<u64> {
    issuer.restore();
    issuer.set_delay(Duration::from_secs(2));
    let folder = TempDir::new()?;
    let workers = (0..100).map(|_| {
        let mut worker = Command::new(env::current_exe()?);
        worker.arg("worker").arg(issuer.token_url()).arg(folder.path().join("store"));
        worker.spawn()
    });
    for worker in workers.collect::<io::Result<Vec<_>>>()? {
        let output = worker.wait_with_output()?;
        if !output.status.success() {
            return Err(io::Error::other("a worker failed"));
        }
    }
    Ok(issuer.token_requests())
}

/// A clock that follows Tokio's paused time.
#[derive(Clone, Copy, Debug)]
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> Moment {
        let elapsed = self.0.elapsed() + DAY;
        Moment::new(elapsed, elapsed + Duration::from_secs(1_800_000_000))
    }
}

/// Runs a fleet whose caches each need a token every ten minutes. Returns the minute of every token
/// request, and the number of failed calls.
async fn fleet(caches: usize, days: u32, outage: Option<(Duration, Duration)>) -> (Vec<u64>, u64) {
    let started = Instant::now();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let store = MemoryStore::default();
    let mut failed = 0;
    let fleet: Vec<_> = (0..caches)
        .map(|_| {
            let requests = Arc::clone(&requests);
            let source = source_fn(move |_| {
                let now = started.elapsed();
                requests.lock().expect("no panic").push(now.as_secs() / 60);
                async move {
                    sleep(Duration::from_millis(300)).await;
                    if outage.is_some_and(|(from, to)| from <= now && now < to) {
                        // The issuer itself reports it, with a 503.
                        let outage = Error::new(ErrorKind::Unavailable, "the outage");
                        return Err(outage.with_issuer_responded());
                    }
                    Token::bearer(format!("token-{}", now.as_millis()), DAY)
                }
            });
            let shared = SharedSource::with_key(source, store.clone(), "fleet", SECRET);
            let clock = PausedClock(started);
            let shared = shared.expect("a valid key").with_clock(clock);
            TokenCache::builder(shared).clock(clock).build().expect("a valid policy")
        })
        .collect();
    for cache in &fleet {
        failed += u64::from(cache.token().await.is_err());
    }
    // A tenth of the caches call each minute.
    for minute in 0..days as usize * 1_440 {
        for cache in fleet.iter().skip(minute % 10).step_by(10) {
            failed += u64::from(cache.token().await.is_err());
        }
        sleep(MINUTE).await;
    }
    drop(fleet);
    let requests = requests.lock().expect("no panic").clone();
    (requests, failed)
}

/// Runs a hundred caches that share a store for an hour. With the token of each, a working API and
/// one that rejects everything are called every minute. Returns the token requests and the failed
/// calls to the working API.
async fn rejected_fleet() -> (u64, u64) {
    let started = Instant::now();
    let requests = Arc::new(AtomicU64::new(0));
    let store = MemoryStore::default();
    let client = |_| {
        let requests = Arc::clone(&requests);
        let source = source_fn(move |_| {
            let number = requests.fetch_add(1, SeqCst);
            async move {
                sleep(Duration::from_millis(300)).await;
                Token::bearer(format!("token-{number}"), DAY)
            }
        });
        let clock = PausedClock(started);
        let shared = SharedSource::with_key(source, store.clone(), "fleet", SECRET);
        let shared = shared.expect("a valid key").with_clock(clock);
        let cache = TokenCache::builder(shared).clock(clock).build().expect("a valid policy");
        let target = |url: &str| Target::origin(url.parse().expect("a URL")).expect("a target");
        let auth = AuthMiddleware::builder(cache).targets([target(WORKING), target(REJECTING)]);
        let auth = auth.build().expect("a middleware");
        ClientBuilder::new(reqwest::Client::new()).with(auth).with(RejectingApi).build()
    };
    let fleet: Vec<_> = (0..100).map(client).collect();
    let mut failed = 0;
    for _ in 0..60 {
        let minute = Instant::now();
        for client in &fleet {
            let working = client.get(WORKING).send().await;
            failed += u64::from(!working.is_ok_and(|response| response.status() == 200));
            // Its rejections are what is measured.
            drop(client.get(REJECTING).send().await);
        }
        sleep_until(minute + MINUTE).await;
    }
    (requests.load(SeqCst), failed)
}

const WORKING: &str = "https://working.example/";
const REJECTING: &str = "https://rejecting.example/";

/// Responds in place of two APIs, one of which rejects every token.
struct RejectingApi;

#[async_trait]
impl Middleware for RejectingApi {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let mut response = http::Response::builder().url(request.url().clone());
        if request.url().as_str() == REJECTING {
            response =
                response.status(401).header(WWW_AUTHENTICATE, r#"Bearer error="invalid_token""#);
        }
        Ok(response.body("").expect("a valid response").into())
    }
}

pub(crate) fn measure(issuer: &Issuer, report: &mut Report) {
    let of_processes = |_| processes(issuer).expect("a hundred workers") as f64;
    let days = 10_u32;
    let a_day = |_| {
        let (requests, _) = paused().block_on(fleet(100, days, None));
        requests.len() as f64 / f64::from(days)
    };
    let rejected = (0..RUNS).map(|_| paused().block_on(rejected_fleet()));
    let (rejected, failed): (Vec<_>, Vec<_>) =
        rejected.map(|(requests, failed)| (requests as f64, failed as f64)).unzip();
    report.goal(Goal {
        name: "P7",
        what: "100 real processes that start without a token and share a store; 100 caches that \
               share a store for ten days of paused time, and for an hour with an API that rejects \
               every token",
        figures: vec![
            Figure::never_above(1.0, "token requests", (0..RUNS).map(of_processes).collect()),
            Figure::never_above(1.5, "token requests a day", (0..RUNS).map(a_day).collect()),
            Figure::never_above(10.0, "token requests in the hour with rejections", rejected),
            Figure::never_above(0.0, "failed calls to the working API", failed),
        ],
    });

    // The outage begins an hour before the fourteenth token becomes stale: a fleet refreshes at the
    // earliest of the times that its caches draw.
    let from = DAY.mul_f64(14.0 * 0.7) - Duration::from_secs(3_600);
    let outage = (from, from + Duration::from_secs(4 * 3_600));
    let (requests, failed) = paused().block_on(fleet(1_000, 30, Some(outage)));
    let minute = |time: Duration| time.as_secs() / 60;
    let (begin, end) = (minute(outage.0), minute(outage.1));
    let during = requests.iter().filter(|at| (begin..end).contains(at)).count();
    let after = requests.iter().filter(|at| (end..end + 60).contains(at)).count();
    let mut minutes = HashMap::new();
    for at in &requests {
        *minutes.entry(at).or_insert(0_u32) += 1;
    }
    let row = [
        format!("{:.2}", (requests.len() - during) as f64 / 30.0),
        minutes.values().max().copied().unwrap_or(0).to_string(),
        during.to_string(),
        after.to_string(),
        failed.to_string(),
    ];
    report.table(
        "A fleet of a thousand caches for thirty days",
        "A thousand caches share one store on paused time. Each needs a token every ten minutes, \
         and they ask one after another. The issuer is down for four hours in which a token \
         becomes stale. The first four columns are token requests.",
        &[
            "per day, without the outage",
            "in the busiest minute",
            "during the outage",
            "in the hour after it",
            "failed calls",
        ],
        vec![row.to_vec()],
    );
}

fn paused() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime")
}
