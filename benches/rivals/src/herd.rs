//! P3, P4, P6: many callers and no token: the issuer answers, fails, or the caller that asked it is dropped.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    issuer::Issuer,
    report::{Figure, Goal, RUNS, Report},
    rivals::{OneGrant, Rival, Subject},
    stats::quantile,
};

const LIMIT: Duration = Duration::from_secs(15);

/// What a herd meets.
#[derive(Clone, Copy)]
pub(crate) struct Herd {
    callers: usize,
    delay: Duration,
    fails: bool,
    /// The first caller goes away after this time.
    driver_goes: Option<Duration>,
}

/// What becomes of it.
pub(crate) enum Outcome {
    NeedsFirstToken,
    /// Some were not done by then.
    TimedOut(u64),
    Done {
        calls: u64,
        failed: usize,
        /// In milliseconds, sorted.
        times: Vec<f64>,
        /// From the issuer's last answer until the last caller was done, in milliseconds.
        lag: f64,
    },
}

pub(crate) fn run<R: Rival>(issuer: &Issuer, herd: Herd) -> Result<Outcome, String> {
    issuer.restore();
    let runtime = crate::runtime(2);
    let outcome = runtime.block_on(async {
        let rival = Arc::new(R::start(issuer).await?);
        if issuer.calls() > 0 {
            return Ok(Outcome::NeedsFirstToken);
        }
        issuer.set_delay(herd.delay);
        issuer.set_fails(herd.fails);
        if let Some(stay) = herd.driver_goes {
            let driver = Arc::clone(&rival);
            tokio::spawn(async move { timeout(stay, driver.header()).await });
            sleep(Duration::from_millis(2)).await;
        }
        Ok(callers(issuer, &rival, herd.callers).await)
    });
    runtime.shutdown_background();
    outcome
}

async fn callers<R: Rival>(issuer: &Issuer, rival: &Arc<R>, number: usize) -> Outcome {
    let start = Arc::new(Barrier::new(number));
    let mut callers = JoinSet::new();
    for _ in 0..number {
        let (rival, start) = (Arc::clone(rival), Arc::clone(&start));
        callers.spawn(async move {
            start.wait().await;
            let begun = Instant::now();
            let header = rival.header().await;
            (begun.elapsed().as_secs_f64() * 1_000.0, header.is_err())
        });
    }
    let Ok(done) = timeout(LIMIT, callers.join_all()).await else {
        return Outcome::TimedOut(issuer.calls());
    };
    let lag = issuer.since_last_answer().as_secs_f64() * 1_000.0;
    let mut times: Vec<_> = done.iter().map(|(time, _)| *time).collect();
    times.sort_by(f64::total_cmp);
    Outcome::Done {
        calls: issuer.calls(),
        failed: done.iter().filter(|(_, failed)| *failed).count(),
        times,
        lag,
    }
}

impl Outcome {
    /// Calls of the issuer, and the time after which 99 of 100 were done.
    fn cells(&self) -> [String; 2] {
        match self {
            Self::NeedsFirstToken => ["needs a first token".to_owned(), String::new()],
            Self::TimedOut(calls) => [calls.to_string(), format!("> {} s", LIMIT.as_secs())],
            Self::Done { calls, times, .. } => {
                [calls.to_string(), format!("{:.0} ms", quantile(times, 0.99))]
            }
        }
    }
}

pub(crate) fn measure(issuer: &Issuer, subjects: &[Subject], report: &mut Report) {
    let millis = Duration::from_millis;
    let cold = |callers, fails| Herd { callers, delay: millis(50), fails, driver_goes: None };
    let dropped =
        Herd { callers: 9, delay: millis(60), fails: false, driver_goes: Some(millis(20)) };
    let herds = [cold(10_000, false), cold(50, true), dropped];
    let mut rows = Vec::new();
    for subject in &subjects[Subject::OURS..] {
        let mut cells = vec![subject.name.to_owned()];
        for herd in herds {
            match (subject.herd)(issuer, herd) {
                Ok(outcome) => cells.extend(outcome.cells()),
                Err(error) => cells.extend([error, String::new()]),
            }
        }
        rows.push(cells);
    }
    report.table(
        "A cold herd",
        "10,000 callers, the issuer answers in 50 ms; 50 callers, it fails after 50 ms; ten callers of which the first, \
         who caused the grant, goes away at 20 of 60 ms. Calls of the issuer, and the time after which 99 of \
         100 callers were done.",
        &["", "calls", "99 %", "failing: calls", "99 %", "driver gone: calls", "99 %"],
        rows,
    );

    let ours = |herd| Runs::of(subjects[Subject::OURS].herd, issuer, herd);
    let answered = ours(cold(10_000, false));
    report.goal(Goal {
        name: "P3",
        what: "10,000 cold callers, the issuer answers in 50 ms",
        figures: vec![
            Figure::never_above(1.0, "grants", answered.calls),
            Figure::never_above(0.0, "failed calls", answered.failed),
            Figure::at_most(70.0, "99 of 100 are done after, ms", answered.late),
        ],
    });
    let failed = ours(cold(10_000, true));
    let single = Runs::of(run::<OneGrant>, issuer, cold(10_000, true));
    report.goal(Goal {
        name: "P4",
        what: "10,000 cold callers, the issuer fails in 50 ms",
        figures: vec![
            Figure::never_above(3.0, "grants tried in the one refresh", failed.calls),
            Figure::at_most(20.0, "the last is done after its end, ms", failed.lag),
            Figure::told("the last is done after, ms", failed.last),
            Figure::at_most(70.0, "the same with one grant per refresh, ms", single.last),
        ],
    });
    let dropped = ours(dropped);
    report.goal(Goal {
        name: "P6",
        what: "ten callers, of which the one that drives the refresh is dropped at 20 of 60 ms",
        figures: vec![
            Figure::never_above(1.0, "grants", dropped.calls),
            Figure::never_above(0.0, "failed calls", dropped.failed),
            Figure::at_most(65.0, "the last is done after, ms", dropped.last),
        ],
    });
}

/// What became of the same herd, in each run.
#[derive(Default)]
struct Runs {
    calls: Vec<f64>,
    failed: Vec<f64>,
    late: Vec<f64>,
    last: Vec<f64>,
    lag: Vec<f64>,
}

impl Runs {
    fn of(run: fn(&Issuer, Herd) -> Result<Outcome, String>, issuer: &Issuer, herd: Herd) -> Self {
        let mut runs = Self::default();
        for _ in 0..RUNS {
            let Ok(Outcome::Done { calls, failed, times, lag }) = run(issuer, herd) else {
                panic!("a herd of ours was not done within {LIMIT:?}");
            };
            runs.calls.push(calls as f64);
            runs.failed.push(failed as f64);
            runs.late.push(quantile(&times, 0.99));
            runs.last.push(quantile(&times, 1.0));
            runs.lag.push(lag);
        }
        runs
    }
}
