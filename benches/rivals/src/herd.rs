//! P3, P4, P6: many callers and no token: the issuer answers, fails, or the caller that asked it is dropped.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    issuer::Issuer,
    report::{Report, Row},
    rivals::{Rival, Subject},
    stats::{Spread, quantile},
};

const LIMIT: Duration = Duration::from_secs(15);
const RUNS: usize = 5;

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
            Self::Done { calls, times, .. } => [
                calls.to_string(),
                format!("{:.0} ms", quantile(times, 0.99)),
            ],
        }
    }
}

pub(crate) fn measure(issuer: &Issuer, subjects: &[Subject], report: &mut Report) {
    let millis = Duration::from_millis;
    let cold = |callers, fails| Herd {
        callers,
        delay: millis(50),
        fails,
        driver_goes: None,
    };
    let dropped = Herd {
        callers: 9,
        delay: millis(60),
        fails: false,
        driver_goes: Some(millis(20)),
    };
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

    let ours = |herd: Herd| {
        let run = |_| match (subjects[Subject::OURS].herd)(issuer, herd) {
            Ok(Outcome::Done {
                calls,
                failed,
                times,
                lag,
            }) => (calls, failed, times, lag),
            _ => (0, 0, vec![f64::INFINITY], f64::INFINITY),
        };
        let runs: Vec<_> = (0..RUNS).map(run).collect();
        let calls = runs.iter().map(|(calls, ..)| *calls).collect::<Vec<_>>();
        let part = |part| {
            Spread::of(
                runs.iter()
                    .map(|(_, _, times, _)| quantile(times, part))
                    .collect(),
            )
        };
        let failed: usize = runs.iter().map(|(_, failed, ..)| failed).sum();
        let lag = Spread::of(runs.iter().map(|(.., lag)| *lag).collect());
        (calls, failed, part(0.99), part(1.0), lag)
    };
    let (calls, failed, late, ..) = ours(cold(10_000, false));
    report.goal(Row {
        name: "P3",
        what: "10,000 cold callers, issuer answers in 50 ms",
        goal: "1 grant, p99 ≤ 70 ms",
        measured: format!("grants {calls:?}, failed {failed}, p99 {late} ms"),
        is_met: calls.iter().all(|calls| *calls == 1) && failed == 0 && late.median <= 70.0,
    });
    let (calls, _, _, all, lag) = ours(cold(10_000, true));
    let one = |_| match run::<crate::rivals::OneGrant>(issuer, cold(10_000, true)) {
        Ok(Outcome::Done { times, .. }) => quantile(&times, 1.0),
        _ => f64::INFINITY,
    };
    let single = Spread::of((0..RUNS).map(one).collect());
    report.goal(Row {
        name: "P4",
        what: "10,000 cold callers, issuer fails in 50 ms",
        goal: "one refresh, all done within 20 ms of its end; with one grant per refresh ≤ 70 ms",
        measured: format!(
            "grants tried {calls:?} in one refresh; the last caller {lag} ms after its end ({all} ms in all); with one grant \
             per refresh {single} ms in all"
        ),
        is_met: calls.iter().all(|calls| *calls <= 3)
            && lag.median <= 20.0
            && single.median <= 70.0,
    });
    let (calls, failed, _, all, _) = ours(dropped);
    report.goal(Row {
        name: "P6",
        what: "the driver of the refresh dropped at 20 of 60 ms",
        goal: "1 grant, the others done at 60 ms",
        measured: format!("grants {calls:?}, failed {failed}, last {all} ms"),
        is_met: calls.iter().all(|calls| *calls == 1) && failed == 0 && all.median <= 65.0,
    });
}
