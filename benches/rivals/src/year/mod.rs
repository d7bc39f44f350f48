//! P10: a year of a machine and its issuer on paused time, with token lifetimes of 24 h. Every day
//! has an issuer outage of four hours, half an hour of suspend and a step of the wall clock; every
//! week has new signing keys. One API rejects every token.

mod aliri;
mod aws_smithy;
mod cf_gears;
mod google_cloud;
mod huskarl;
mod loopback;
mod ours;
mod reqsign;
mod world;

use std::sync::Arc;

use self::world::{GOOD, REJECTING, World, Year};
use crate::report::{Figure, Goal, RUNS, Report};

const SEED: u64 = 2_026;

/// Runs a year on a runtime whose time advances only while all tasks wait.
fn run<F: Future<Output = Year>>(seed: u64, year: impl FnOnce(Arc<World>) -> F) -> Year {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build();
    let year = async { year(World::new(seed)).await };
    runtime.expect("a runtime").block_on(year)
}

pub(crate) fn measure(report: &mut Report) {
    let by_both = &[GOOD, REJECTING][..];
    let by_good = &[GOOD][..];
    let years = [
        ("sitecore-auth 0.1.0", run(SEED, ours::year)),
        ("aliri_tokens 0.3.2", run(SEED, aliri::year)),
        ("aws-smithy-runtime 1.16.2", run(SEED, aws_smithy::year)),
        ("huskarl 0.11.10", run(SEED, |world| huskarl::year(world, by_both))),
        ("huskarl 0.11.10, working API only", run(SEED, |world| huskarl::year(world, by_good))),
        ("google-cloud-auth 1.18.0", run(SEED, google_cloud::year)),
        ("cf-gears-toolkit-auth 0.8.3", run(SEED, |world| cf_gears::year(world, by_both))),
        (
            "cf-gears-toolkit-auth 0.8.3, working API only",
            run(SEED, |world| cf_gears::year(world, by_good)),
        ),
        ("reqsign-core 3.3.2", run(SEED, reqsign::year)),
    ];
    let rows = years.iter().map(|(name, year)| {
        let counts = [year.calls, year.failed, year.waited, year.tokens, year.token_requests];
        let mut row = vec![(*name).to_owned()];
        row.extend(counts.map(|count| count.to_string()));
        row
    });
    report.table(
        "A simulated year",
        "Every day the issuer is down for four hours at a random time, the machine is suspended \
         for half an hour, and its wall clock is set to within ten minutes of the true time. \
         Every week there are new signing keys, which the APIs require at once. Outages are at \
         least eight hours apart, and keys do not change within an hour of one. Every five \
         minutes a call goes to a working API, and every hour one goes to an API that rejects every \
         token. Only calls to the working API are counted.\n\nThe table contains the rivals that use Tokio's \
         clock or accept another one, each called as its documentation says. The others read \
         clocks that cannot be set. Two rivals accept reports of rejected tokens, after which the \
         call is repeated. In their first row, rejections by both APIs are reported; in the \
         second, only those by the working API.",
        &["", "calls", "failed", "waited", "tokens granted", "token requests"],
        rows.collect(),
    );
    let failed = |(name, year): &(&str, Year)| ((*name).to_owned(), year.failed as f64);
    report.plot("year", "Failed calls in a simulated year", years.iter().map(failed).collect());
    let years: Vec<_> = (0..RUNS as u64).map(|number| run(SEED + number, ours::year)).collect();
    let each = |count: fn(&Year) -> u64| years.iter().map(|year| count(year) as f64).collect();
    report.goal(Goal {
        name: "P10",
        what: "a simulated year; each run has another random seed",
        figures: vec![
            Figure::never_above(0.0, "failed calls", each(|year| year.failed)),
            Figure::unbounded("calls", each(|year| year.calls)),
            Figure::unbounded("calls that waited", each(|year| year.waited)),
            Figure::unbounded("tokens granted", each(|year| year.tokens)),
        ],
    });
}
