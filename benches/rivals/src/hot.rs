//! P1: one owned header from a warm cache, beside the floor: an `ArcSwap<HeaderValue>`, loaded and cloned.

use std::{
    hint::{black_box, spin_loop},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};

use tokio::runtime::Runtime;

use crate::{
    alloc::counted,
    issuer::Issuer,
    report::{Figure, Goal, RUNS, Report},
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
    let ready = Arc::new(AtomicUsize::new(0));
    let threads = (0..threads).map(|core| {
        let (rival, ready) = (Arc::clone(rival), Arc::clone(&ready));
        std::thread::spawn(move || {
            crate::stay_on(core);
            let runtime = crate::runtime(0);
            ready.fetch_add(1, SeqCst);
            while ready.load(SeqCst) < threads {
                spin_loop();
            }
            runtime.block_on(headers(&*rival, HEADERS / 10));
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
    let warm: Vec<_> = subjects.iter().map(|subject| (subject, (subject.warm)(issuer))).collect();
    let mut nanos = vec![[Vec::new(), Vec::new()]; warm.len()];
    for round in 0..RUNS * ROUNDS {
        let forth: Vec<_> = (0..warm.len()).collect();
        let back = forth.iter().rev().copied();
        let order: Vec<_> = if round % 2 == 0 { forth } else { back.collect() };
        for place in order {
            if let Ok(warm) = &warm[place].1 {
                for threads in [1, 2] {
                    nanos[place][threads - 1].push((warm.take)(threads));
                }
            }
        }
    }
    // Beside another in the same round.
    let beside = |place: usize, other: usize, threads: usize| {
        let other = nanos[other][threads - 1].iter();
        let pairs = nanos[place][threads - 1].iter().zip(other);
        pairs.map(|(nanos, other)| nanos / other).collect::<Vec<_>>()
    };
    let ratios = |place, threads| Spread::of(beside(place, 0, threads));
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
        let measured = warm.iter().enumerate().filter(|(_, (_, warm))| warm.is_ok());
        measured
            .map(|(place, (subject, _))| (subject.name.to_owned(), ratios(place, threads).median))
            .collect::<Vec<_>>()
    };
    report.table(
        "One header from a warm cache",
        "Ratios to the floor of the same round: median of all rounds (least–most). Nanoseconds are medians, and \
         this machine's.",
        &["", "1 thread", "2 threads", "ns", "ns, 2 threads", "allocations"],
        rows,
    );
    report.plot("header-1", "One header, 1 thread, times the floor", bars(1));
    report.plot("header-2", "One header, 2 threads, times the floor", bars(2));
    let ours = Subject::OURS;
    let runs = |ratios: Vec<f64>| {
        let runs = ratios.chunks(ROUNDS);
        runs.map(|run| Spread::of(run.to_vec()).median).collect()
    };
    let best = |threads| {
        let rivals = (ours + 1..warm.len()).filter(|place| warm[*place].1.is_ok());
        let medians = rivals.map(|place| (ratios(place, threads).median, place));
        medians.min_by(|one, other| one.0.total_cmp(&other.0))
    };
    let beside_best = |threads| {
        let best = best(threads).map_or(ours, |(_, place)| place);
        runs(beside(ours, best, threads))
    };
    let allocations = warm[ours].1.as_ref().map_or(f64::NAN, |warm| warm.allocations);
    report.goal(Goal {
        name: "P1",
        what: "one owned header from a warm cache, both clocks read, beside the floor and the fastest rival",
        figures: vec![
            Figure::at_most(1.6, "1 thread, times the floor", runs(beside(ours, 0, 1))),
            Figure::at_most(1.6, "2 threads, times the floor", runs(beside(ours, 0, 2))),
            Figure::at_most(1.0, "1 thread, times the fastest rival", beside_best(1)),
            Figure::at_most(1.0, "2 threads, times the fastest rival", beside_best(2)),
            Figure::never_above(0.0, "allocations", vec![allocations]),
        ],
    });
}
