//! Compares `sitecore-auth` with other token caches and measures the project's own goals, in one
//! run: `cargo run --release --manifest-path benches/rivals/Cargo.toml`. The figures are written to
//! `docs/benchmarks.md`. With the names of parts as arguments (`-- hot middleware`) it measures
//! only those and writes nothing.
//!
//! The machine should be otherwise idle.

mod alloc;
mod chart;
mod command_line;
mod concurrency;
mod contender;
mod first_contact;
mod hot;
mod issuer;
mod load;
mod loopback;
mod memory;
mod middleware;
mod middleware_aliri;
mod processes;
mod report;
mod rivals;
mod runtime;
mod stale;
mod stats;
#[path = "../../support/mod.rs"]
mod support;
mod workspace;
mod year;

use std::{error::Error, fs, process::Command, time::Instant};

use chrono::Utc;
use contender::Contender;
use issuer::Issuer;
use report::Report;
use rivals::{
    Rival, aliri::Aliri, aws_smithy::AwsSmithy, azure::Azure, cf_gears::CfGears, floor::Floor,
    gcloud::GcloudAuth, gcp::GcpAuth, google_cloud::GoogleCloudAuth, huskarl::Huskarl,
    middle::Middle, ours::Ours, reqsign::Reqsign,
};

type Measure = fn(&Issuer, &[Contender], &mut Report);

const PARTS: [(&str, Measure); 11] = [
    ("hot", hot::measure),
    ("middleware", |issuer, _, report| middleware::measure(issuer, report)),
    ("loopback", |_, _, report| loopback::measure(report)),
    ("concurrency", concurrency::measure),
    ("stale", stale::measure),
    ("load", |issuer, _, report| load::measure(issuer, report)),
    ("memory", |_, _, report| memory::measure(report)),
    ("processes", |issuer, _, report| processes::measure(issuer, report)),
    ("year", |_, _, report| year::measure(report)),
    ("command_line", |_, _, report| command_line::measure(report)),
    ("first_contact", |_, _, report| first_contact::measure(report)),
];

/// Returns the floor, our own cache and its rivals.
fn contenders() -> Vec<Contender> {
    vec![
        contender::<Floor>(),
        contender::<Ours>(),
        contender::<Middle>(),
        contender::<Aliri>(),
        contender::<AwsSmithy>(),
        contender::<GcloudAuth>(),
        contender::<GcpAuth>(),
        contender::<Huskarl>(),
        contender::<GoogleCloudAuth>(),
        contender::<CfGears>(),
        contender::<Reqsign>(),
        contender::<Azure>(),
    ]
}

fn contender<R: Rival>() -> Contender {
    Contender {
        name: R::NAME,
        setup: R::SETUP,
        warm: hot::warm::<R>,
        cold_start: concurrency::run::<R>,
        stale: stale::stale::<R>,
        runtime_gone: stale::runtime_gone::<R>,
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let [what, token_url, folder] = args.as_slice()
        && what == "worker"
    {
        return processes::work(token_url, folder.into());
    }
    let issuer_runtime = runtime::multi_thread(1);
    let issuer = issuer_runtime.block_on(Issuer::start())?;
    let contenders = contenders();
    let mut report = Report::default();
    let is_selected = |part: &str| args.is_empty() || args.iter().any(|arg| arg == part);
    for (part, measure) in PARTS {
        if is_selected(part) {
            let started = Instant::now();
            measure(&issuer, &contenders, &mut report);
            println!("{part}: {:.0?}\n", started.elapsed());
        }
    }
    if !args.is_empty() {
        return Ok(());
    }
    let setups = contenders.iter().map(|it| vec![it.name.to_owned(), it.setup.to_owned()]);
    report.table(
        "How each cache gets its tokens",
        "All use the same fake issuer: in process if the crate has a trait for that, otherwise by \
         OAuth2 over loopback HTTP.",
        &["", "setup"],
        setups.collect(),
    );
    report.write(&machine())
}

/// Describes the machine, the date and the compiler.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let date = Utc::now().format("%Y-%m-%d");
    let rustc = Command::new("rustc").arg("--version").output();
    let rustc = rustc.map_or_else(|_| "rustc".into(), |output| output.stdout);
    format!(
        "Measured on {date}: {model}, {cores} cores, {}, release build by {}.",
        std::env::consts::OS,
        String::from_utf8_lossy(&rustc).trim()
    )
}
