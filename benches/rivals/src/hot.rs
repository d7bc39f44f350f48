//! P1: one owned header from a warm cache, beside the floor: an `ArcSwap<HeaderValue>`, loaded and cloned.

use std::{
    hint::black_box,
    sync::{Arc, Barrier},
    time::Instant,
};

use tokio::runtime::Runtime;

use crate::{
    alloc::counted,
    issuer::Issuer,
    report::{Report, Row},
    rivals::{Rival, Subject},
    stats::Spread,
};

/// Headers in one go.
const HEADERS: u64 = 100_000;
const ROUNDS: usize = 11;

/// A rival that holds a token, in the runtime where it was started.
pub(crate) struct Warm {
    /// Takes headers on so many threads at once; nanoseconds for each.
    take: Box<dyn Fn(usize) -> f64>,
    /// Allocations for a header.
    allocations: f64,
}

pub(crate) fn warm<R: Rival>(issuer: &Issuer) -> Result<Warm, String> {
    issuer.restore();
    let runtime = crate::runtime(2);
    let rival = Arc::new(runtime.block_on(R::start(issuer))?);
    runtime.block_on(rival.header())?;
    let one = crate::runtime(0);
    let (_, count, _) = counted(|| one.block_on(headers(&*rival, 1_000)));
    Ok(Warm {
        allocations: (count / 100) as f64 / 10.0,
        take: Box::new(move |threads| take(&rival, threads, &runtime)),
    })
}

fn take<R: Rival>(rival: &Arc<R>, threads: usize, _alive: &Runtime) -> f64 {
    let start = Arc::new(Barrier::new(threads));
    let threads = (0..threads).map(|_| {
        let (rival, start) = (Arc::clone(rival), Arc::clone(&start));
        std::thread::spawn(move || {
            let runtime = crate::runtime(0);
            start.wait();
            let begun = Instant::now();
            runtime.block_on(headers(&*rival, HEADERS));
            begun.elapsed().as_nanos() as f64 / HEADERS as f64
        })
    });
    let threads: Vec<_> = threads.collect();
    let each = threads.into_iter().map(|thread| thread.join().unwrap());
    each.fold(0.0, f64::max)
}

async fn headers<R: Rival>(rival: &R, count: u64) {
    for _ in 0..count {
        black_box(rival.header().await.unwrap());
    }
}

pub(crate) fn measure(issuer: &Issuer, subjects: &[Subject], report: &mut Report) {
    let warm: Vec<_> = subjects
        .iter()
        .map(|subject| (subject, (subject.warm)(issuer)))
        .collect();
    let mut nanos = vec![[Vec::new(), Vec::new()]; warm.len()];
    for round in 0..ROUNDS {
        let forth: Vec<_> = (0..warm.len()).collect();
        let back = forth.iter().rev().copied();
        let order: Vec<_> = if round % 2 == 0 {
            forth
        } else {
            back.collect()
        };
        for place in order {
            if let Ok(warm) = &warm[place].1 {
                for threads in [1, 2] {
                    nanos[place][threads - 1].push((warm.take)(threads));
                }
            }
        }
    }
    let ratios = |place: usize, threads: usize| {
        let floor = nanos[0][threads - 1].iter();
        let each = nanos[place][threads - 1].iter().zip(floor);
        Spread::of(each.map(|(nanos, floor)| nanos / floor).collect())
    };
    let mut rows = Vec::new();
    for (place, (subject, warm)) in warm.iter().enumerate() {
        let name = subject.name.to_owned();
        rows.push(match warm {
            Ok(warm) => vec![
                name,
                ratios(place, 1).to_string(),
                ratios(place, 2).to_string(),
                format!("{:.0}", Spread::of(nanos[place][0].clone()).median),
                format!("{:.0}", Spread::of(nanos[place][1].clone()).median),
                format!("{}", warm.allocations),
            ],
            Err(error) => vec![name, error.clone()],
        });
    }
    let bars = |threads| {
        let measured = warm
            .iter()
            .enumerate()
            .filter(|(_, (_, warm))| warm.is_ok());
        measured
            .map(|(place, (subject, _))| (subject.name.to_owned(), ratios(place, threads).median))
            .collect::<Vec<_>>()
    };
    report.plot(
        "header-1",
        "One header, 1 thread, times the floor",
        &bars(1),
    );
    report.plot(
        "header-2",
        "One header, 2 threads, times the floor",
        &bars(2),
    );
    report.table(
        "One header from a warm cache",
        "Ratios to the floor of the same round: median of eleven rounds (least–most). Nanoseconds are medians, and \
         this machine's.",
        &["", "1 thread", "2 threads", "ns", "ns, 2 threads", "allocations"],
        rows,
    );
    let ours = Subject::OURS;
    let best = |threads| {
        let rivals = bars(threads).into_iter().skip(ours + 1);
        rivals.map(|(_, ratio)| ratio).fold(f64::INFINITY, f64::min)
    };
    let (one, two) = (ratios(ours, 1), ratios(ours, 2));
    let allocations = warm[ours]
        .1
        .as_ref()
        .map_or(f64::NAN, |warm| warm.allocations);
    report.goal(Row {
        name: "P1",
        what: "owned header from a warm cache, both clocks checked",
        goal: "≤ 1.6 × the floor at 1 and 2 threads, 0 allocations, ahead of every rival",
        measured: format!(
            "{one} and {two}, {allocations} allocations; the best rival {:.2} and {:.2}",
            best(1),
            best(2)
        ),
        is_met: one.median <= 1.6
            && two.median <= 1.6
            && allocations == 0.0
            && one.median < best(1)
            && two.median < best(2),
    });
}
