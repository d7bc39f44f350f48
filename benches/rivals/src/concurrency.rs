//! P3, P4, P6: concurrent callers without a token. The issuer responds, or it fails, or the caller
//! that started the token request is dropped.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Barrier, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    contender::{ColdStart, Contender, Outcome},
    issuer::Issuer,
    report::{Figure, Goal, RUNS, Report},
    rivals::{Rival, ours::OneAttempt},
    runtime,
    stats::quantile,
};

const CALLERS: usize = 10_000;
const LIMIT: Duration = Duration::from_secs(15);

pub(crate) fn run<R: Rival>(issuer: &Issuer, cold_start: ColdStart) -> Result<Outcome, String> {
    issuer.restore();
    let home = runtime::multi_thread(2);
    let outcome = home.block_on(async {
        let rival = Arc::new(R::start(issuer).await?);
        if issuer.token_requests() > 0 {
            return Ok(Outcome::NeedsFirstToken);
        }
        issuer.set_delay(cold_start.delay);
        issuer.set_fails(cold_start.fails);
        if let Some(stay) = cold_start.first_dropped {
            let first = Arc::clone(&rival);
            tokio::spawn(async move { timeout(stay, first.header()).await });
            sleep(Duration::from_millis(2)).await;
        }
        Ok(callers(issuer, &rival, cold_start.callers).await)
    });
    home.shutdown_background();
    outcome
}

async fn callers<R: Rival>(issuer: &Issuer, rival: &Arc<R>, number: usize) -> Outcome {
    let start = Arc::new(Barrier::new(number));
    let mut callers = JoinSet::new();
    for _ in 0..number {
        let (rival, start) = (Arc::clone(rival), Arc::clone(&start));
        callers.spawn(async move {
            start.wait().await;
            let started = Instant::now();
            let header = rival.header().await;
            (started.elapsed().as_secs_f64() * 1_000.0, header.is_err())
        });
    }
    let Ok(done) = timeout(LIMIT, callers.join_all()).await else {
        return Outcome::TimedOut { token_requests: issuer.token_requests() };
    };
    let lag = issuer.since_last_response().as_secs_f64() * 1_000.0;
    let mut times: Vec<_> = done.iter().map(|(time, _)| *time).collect();
    times.sort_by(f64::total_cmp);
    Outcome::Done {
        token_requests: issuer.token_requests(),
        failed: done.iter().filter(|(_, failed)| *failed).count(),
        times,
        lag,
    }
}

/// Returns the token requests, and the time until 99 % of the callers were done.
fn cells(outcome: &Outcome) -> [String; 2] {
    match outcome {
        Outcome::NeedsFirstToken => ["cannot start without a token".to_owned(), String::new()],
        Outcome::TimedOut { token_requests } => {
            [token_requests.to_string(), format!("> {} s", LIMIT.as_secs())]
        }
        Outcome::Done { token_requests, times, .. } => {
            [token_requests.to_string(), format!("{:.0} ms", quantile(times, 0.99))]
        }
    }
}

pub(crate) fn measure(issuer: &Issuer, contenders: &[Contender], report: &mut Report) {
    let millis = Duration::from_millis;
    let cold =
        |callers, fails| ColdStart { callers, delay: millis(50), fails, first_dropped: None };
    let dropped =
        ColdStart { callers: 9, delay: millis(60), fails: false, first_dropped: Some(millis(20)) };
    let cases = [cold(CALLERS, false), cold(50, true), dropped];
    let mut rows = Vec::new();
    for contender in &contenders[Contender::OURS..] {
        let mut row = vec![contender.name.to_owned()];
        for case in cases {
            match (contender.cold_start)(issuer, case) {
                Ok(outcome) => row.extend(cells(&outcome)),
                Err(error) => row.extend([error, String::new()]),
            }
        }
        rows.push(row);
    }
    report.table(
        "Concurrent callers without a token",
        "Three cases: 10,000 callers and an issuer that responds in 50 ms; 50 callers and an \
         issuer that fails after 50 ms; ten callers and an issuer that takes 60 ms, where the \
         first caller starts the token request and is dropped after 20 ms. The table shows the \
         token requests, and the time until 99 % of the callers were done.",
        &[
            "",
            "token requests",
            "99 %",
            "failing issuer: token requests",
            "99 %",
            "first caller dropped: token requests",
            "99 %",
        ],
        rows,
    );

    let ours = |case| Runs::of(contenders[Contender::OURS].cold_start, issuer, case);
    let succeeded = ours(cold(CALLERS, false));
    report.goal(Goal {
        name: "P3",
        what: "10,000 concurrent callers without a token; the issuer responds in 50 ms",
        figures: vec![
            Figure::never_above(1.0, "token requests", succeeded.token_requests),
            Figure::never_above(0.0, "failed calls", succeeded.failed),
            Figure::at_most(70.0, "99 % of the callers done after, ms", succeeded.late),
        ],
    });
    let failed = ours(cold(CALLERS, true));
    let floor = (0..RUNS).map(|_| wake_tasks()).collect();
    let single = Runs::of(run::<OneAttempt>, issuer, cold(CALLERS, true));
    report.goal(Goal {
        name: "P4",
        what: "10,000 concurrent callers without a token; the issuer fails after 50 ms",
        figures: vec![
            Figure::never_above(3.0, "token requests in the one refresh", failed.token_requests),
            Figure::at_most(20.0, "last caller done after the refresh failed, ms", failed.lag),
            Figure::unbounded("without a cache: as many tasks that wait for a channel, ms", floor),
            Figure::unbounded("last caller done after, ms", failed.last),
            Figure::at_most(70.0, "the same with one attempt per refresh, ms", single.last),
        ],
    });
    let dropped = ours(dropped);
    report.goal(Goal {
        name: "P6",
        what: "ten callers; the first starts a token request of 60 ms and is dropped after 20 ms",
        figures: vec![
            Figure::never_above(1.0, "token requests", dropped.token_requests),
            Figure::never_above(0.0, "failed calls", dropped.failed),
            Figure::at_most(65.0, "last caller done after, ms", dropped.last),
        ],
    });
}

/// Returns how many milliseconds Tokio takes to wake as many tasks as there are callers. They wait
/// for one channel, each with a time limit of its own.
fn wake_tasks() -> f64 {
    runtime::multi_thread(2).block_on(async {
        let (sender, receiver) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for _ in 0..CALLERS {
            let mut receiver = receiver.clone();
            tasks.spawn(async move {
                let is_sent = timeout(LIMIT, receiver.wait_for(|is_sent| *is_sent)).await;
                is_sent.is_ok_and(|is_sent| is_sent.is_ok())
            });
        }
        // A refresh that fails takes about as long.
        sleep(Duration::from_secs(1)).await;
        let started = Instant::now();
        tokio::spawn(async move { sender.send_replace(true) });
        assert!(tasks.join_all().await.into_iter().all(|is_sent| is_sent));
        started.elapsed().as_secs_f64() * 1_000.0
    })
}

/// The results of the same cold start in each run.
#[derive(Default)]
struct Runs {
    token_requests: Vec<f64>,
    failed: Vec<f64>,
    late: Vec<f64>,
    last: Vec<f64>,
    lag: Vec<f64>,
}

impl Runs {
    fn of(
        run: fn(&Issuer, ColdStart) -> Result<Outcome, String>,
        issuer: &Issuer,
        case: ColdStart,
    ) -> Self {
        let mut runs = Self::default();
        for _ in 0..RUNS {
            let Ok(Outcome::Done { token_requests, failed, times, lag }) = run(issuer, case) else {
                panic!("our cache did not serve all callers within {LIMIT:?}");
            };
            runs.token_requests.push(token_requests as f64);
            runs.failed.push(failed as f64);
            runs.late.push(quantile(&times, 0.99));
            runs.last.push(quantile(&times, 1.0));
            runs.lag.push(lag);
        }
        runs
    }
}
