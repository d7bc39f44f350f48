//! Measures `sitecore-auth` beside its rivals, and the goals that it has set itself, in one run:
//! `cargo run --release --manifest-path benches/rivals/Cargo.toml`. The figures go to `docs/benchmarks.md`.
//! With the names of parts behind it (`-- hot layer`) only those are measured, and nothing is written.
//!
//! The machine should have nothing else to do meanwhile.

mod alloc;
mod herd;
mod hot;
mod issuer;
mod layer;
mod layer_aliri;
mod load;
mod loopback;
mod memory;
mod processes;
mod report;
mod rivals;
mod stale;
mod stats;
mod year;

use std::{error::Error, fs, process::Command, time::Instant};

use chrono::Utc;
use issuer::Issuer;
use report::Report;
use rivals::Subject;
use tokio::runtime::{Builder, Runtime};

type Measure = fn(&Issuer, &[Subject], &mut Report);

const PARTS: [(&str, Measure); 9] = [
    ("hot", hot::measure),
    ("layer", |issuer, _, report| layer::measure(issuer, report)),
    ("loopback", |_, _, report| loopback::measure(report)),
    ("herd", herd::measure),
    ("stale", stale::measure),
    ("load", |issuer, _, report| load::measure(issuer, report)),
    ("memory", |_, _, report| memory::measure(report)),
    ("processes", |issuer, _, report| {
        processes::measure(issuer, report);
    }),
    ("year", |_, _, report| year::measure(report)),
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let [what, token_url, folder] = args.as_slice()
        && what == "worker"
    {
        return processes::work(token_url, folder.into());
    }
    let issuing = runtime(1);
    let issuer = issuing.block_on(Issuer::start())?;
    let subjects = rivals::all();
    let mut report = Report::default();
    let is_wanted = |part: &str| args.is_empty() || args.iter().any(|arg| arg == part);
    for (part, measure) in PARTS {
        if is_wanted(part) {
            let begun = Instant::now();
            measure(&issuer, &subjects, &mut report);
            println!("{part}: {:.0?}\n", begun.elapsed());
        }
    }
    if !args.is_empty() {
        return Ok(());
    }
    let fed = subjects.iter().map(|subject| vec![subject.name.to_owned(), subject.fed.to_owned()]);
    report.table(
        "How each is fed",
        "All by the same issuer, in the process where the rival has a trait for that, else by OAuth2 over loopback.",
        &["", "fed"],
        fed.collect(),
    );
    report.write(&machine())
}

/// A runtime with so many workers; with none, that of the calling thread.
fn runtime(workers: usize) -> Runtime {
    let mut builder = match workers {
        0 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let builder = builder.worker_threads(workers.max(1)).enable_all();
    builder.build().expect("a runtime")
}

/// Ties this thread to a core. Left to themselves, two threads share one or do not, as the system likes, and
/// that is the greater difference.
fn stay_on(core: usize) {
    #[cfg(target_os = "linux")]
    {
        let mut cores = rustix::thread::CpuSet::new();
        cores.set(core);
        rustix::thread::sched_setaffinity(None, &cores).expect("two cores");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = core;
}

/// What this was measured on.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let date = Utc::now().format("%Y-%m-%d");
    let rustc = Command::new("rustc").arg("--version").output();
    let rustc = rustc.map_or_else(|_| "rustc".into(), |said| said.stdout);
    format!(
        "Measured on {date}: {model}, {cores} cores, {}, release build by {}.",
        std::env::consts::OS,
        String::from_utf8_lossy(&rustc).trim()
    )
}
