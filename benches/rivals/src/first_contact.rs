//! P12: how long a newcomer waits for the quickstart, after Cargo has downloaded everything.

use std::{error::Error, process::Command, time::Instant};

use tempfile::TempDir;

use crate::{
    report::{Figure, Goal, Report},
    workspace,
};

pub(crate) fn measure(report: &mut Report) {
    let (seconds, crates) = quickstart().expect("the quickstart");
    report.goal(Goal {
        name: "P12",
        what: "`cargo run -p quickstart` from a clean start, without the downloads",
        figures: vec![
            Figure::at_most(75.0, "time until it has ended, s", vec![seconds]),
            Figure::never_above(140.0, "crates that are built", vec![crates]),
        ],
    });
}

/// Builds and runs the quickstart. Returns the seconds that this takes, and the number of crates.
fn quickstart() -> Result<(f64, f64), Box<dyn Error>> {
    let target = TempDir::new()?;
    let mut fetch = Command::new("cargo");
    fetch.args(["fetch", "--locked"]).current_dir(workspace::folder());
    if !fetch.status()?.success() {
        return Err("cargo could not fetch the crates".into());
    }
    let mut command = Command::new("cargo");
    command.args(["run", "--locked", "--package", "quickstart"]);
    command.env("CARGO_TARGET_DIR", target.path()).current_dir(workspace::folder());
    let started = Instant::now();
    let output = command.output()?;
    let seconds = started.elapsed().as_secs_f64();
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the quickstart failed: {log}").into());
    }
    let crates = log.lines().filter(|line| line.trim_start().starts_with("Compiling")).count();
    Ok((seconds, crates as f64))
}
