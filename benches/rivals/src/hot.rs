//! P1: one owned header from a warm cache, compared with the floor: an `ArcSwap<HeaderValue>` that
//! is loaded and cloned.

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
    chart::{Chart, Scale},
    contender::{Contender, Warm},
    issuer::Issuer,
    report::{Figure, Goal, RUNS, Report},
    rivals::Rival,
    runtime,
    stats::Spread,
};

/// Headers per sample.
const HEADERS: u64 = 100_000;
const ROUNDS: usize = 11;

pub(crate) fn warm<R: Rival>(issuer: &Issuer) -> Result<Warm, String> {
    issuer.restore();
    let home = runtime::multi_thread(2);
    let rival = Arc::new(home.block_on(R::start(issuer))?);
    home.block_on(rival.header())?;
    let caller = runtime::current_thread();
    let (_, count, _) = counted(|| caller.block_on(headers(&*rival, 1_000)));
    Ok(Warm {
        allocations: (count / 100) as f64 / 10.0,
        take: Box::new(move |threads| take(&rival, threads, &home)),
    })
}

/// Borrows the rival's runtime, so that it stays alive.
fn take<R: Rival>(rival: &Arc<R>, threads: usize, _home: &Runtime) -> f64 {
    let ready = Arc::new(AtomicUsize::new(0));
    let threads = (0..threads).map(|core| {
        let (rival, ready) = (Arc::clone(rival), Arc::clone(&ready));
        std::thread::spawn(move || {
            runtime::pin_to_core(core);
            let caller = runtime::current_thread();
            ready.fetch_add(1, SeqCst);
            while ready.load(SeqCst) < threads {
                spin_loop();
            }
            caller.block_on(headers(&*rival, HEADERS / 10));
            let started = Instant::now();
            caller.block_on(headers(&*rival, HEADERS));
            started.elapsed().as_nanos() as f64 / HEADERS as f64
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

pub(crate) fn measure(issuer: &Issuer, contenders: &[Contender], report: &mut Report) {
    let warm: Vec<_> = contenders.iter().map(|it| (it.name, (it.warm)(issuer))).collect();
    let mut nanos = vec![[Vec::new(), Vec::new()]; warm.len()];
    for round in 0..RUNS * ROUNDS {
        let forward: Vec<_> = (0..warm.len()).collect();
        let backward = forward.iter().rev().copied();
        let order: Vec<_> = if round % 2 == 0 { forward } else { backward.collect() };
        for index in order {
            if let Ok(warm) = &warm[index].1 {
                for threads in [1, 2] {
                    nanos[index][threads - 1].push((warm.take)(threads));
                }
            }
        }
    }
    // Compares two contenders round by round.
    let ratios = |index: usize, other: usize, threads: usize| {
        let other = nanos[other][threads - 1].iter();
        let pairs = nanos[index][threads - 1].iter().zip(other);
        pairs.map(|(nanos, other)| nanos / other).collect::<Vec<_>>()
    };
    let to_floor = |index, threads| Spread::of(ratios(index, 0, threads));
    let mut rows = Vec::new();
    for (index, (name, warm)) in warm.iter().enumerate() {
        let name = (*name).to_owned();
        rows.push(match warm {
            Ok(warm) => vec![
                name,
                to_floor(index, 1).to_string(),
                to_floor(index, 2).to_string(),
                format!("{:.0}", Spread::of(nanos[index][0].clone()).median),
                format!("{:.0}", Spread::of(nanos[index][1].clone()).median),
                format!("{}", warm.allocations),
            ],
            Err(error) => vec![name, error.clone()],
        });
    }
    let bars = |threads| {
        let measured = warm.iter().enumerate().filter(|(_, (_, warm))| warm.is_ok());
        measured
            .map(|(index, (name, _))| ((*name).to_owned(), to_floor(index, threads).median))
            .collect::<Vec<_>>()
    };
    report.table(
        "One header from a warm cache",
        "Each ratio compares a cache with the floor in the same round: the median of all rounds \
         (minimum–maximum). The nanoseconds are medians on this machine.",
        &["", "1 thread", "2 threads", "ns", "ns, 2 threads", "allocations"],
        rows,
    );
    for (name, title, threads) in [
        ("header-1", "Time for one header from a warm cache, 1 thread", 1),
        ("header-2", "Time for one header from a warm cache, 2 threads", 2),
    ] {
        let axis = "time as a multiple of the floor's (logarithmic)";
        let rows = bars(threads);
        report.chart(Chart { name, title, axis, scale: Scale::Logarithmic, rows });
    }
    let ours = Contender::OURS;
    let runs = |ratios: Vec<f64>| {
        let runs = ratios.chunks(ROUNDS);
        runs.map(|run| Spread::of(run.to_vec()).median).collect()
    };
    let fastest = |threads| {
        let rivals = (ours + 1..warm.len()).filter(|index| warm[*index].1.is_ok());
        let medians = rivals.map(|index| (to_floor(index, threads).median, index));
        medians.min_by(|one, other| one.0.total_cmp(&other.0))
    };
    let to_fastest = |threads| {
        let fastest = fastest(threads).map_or(ours, |(_, index)| index);
        runs(ratios(ours, fastest, threads))
    };
    let allocations = warm[ours].1.as_ref().map_or(f64::NAN, |warm| warm.allocations);
    report.goal(Goal {
        name: "P1",
        what: "one owned header from a warm cache, after reading both clocks",
        figures: vec![
            Figure::at_most(1.4, "1 thread, ratio to the floor", runs(ratios(ours, 0, 1))),
            Figure::at_most(0.9, "2 threads, ratio to the floor", runs(ratios(ours, 0, 2))),
            Figure::at_most(1.0, "1 thread, ratio to the fastest rival", to_fastest(1)),
            Figure::at_most(1.0, "2 threads, ratio to the fastest rival", to_fastest(2)),
            Figure::never_above(0.0, "allocations", vec![allocations]),
        ],
    });
}
