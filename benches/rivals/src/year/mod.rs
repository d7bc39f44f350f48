//! P10: a year of a machine and its issuer on paused time, with token lifetimes of 24 h. Every day
//! has an issuer outage of four hours, half an hour of suspend, a process that is frozen for half
//! an hour, and a step of the wall clock; every week has new signing keys. The clocks of the APIs
//! are behind, one of them rejects every token, and one reports a rejection with status 500.

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
use crate::{
    chart::{Chart, Scale},
    report::{Figure, Goal, RUNS, Report},
};

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
        ("sitecore-auth 0.2.0", run(SEED, ours::year)),
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
        let Year { calls, failed, at_new_key, waited, tokens, token_requests } = year;
        let counts = [calls, failed, at_new_key, waited, tokens, token_requests];
        let mut row = vec![(*name).to_owned()];
        row.extend(counts.map(u64::to_string));
        row
    });
    report.table(
        "A simulated year",
        "Every day the issuer is down for four hours at a random time, the machine is suspended \
         for half an hour, and its wall clock is set to within ten minutes of the true time. \
         Once a day the process is also frozen for half an hour, during its next token request. \
         Every week the issuer changes its signing key. Five minutes later the \
         APIs do so, and reject all tokens of the old key. Their clocks are two seconds behind, \
         and they reject tokens from the future. Outages are at least eight hours apart, and \
         keys do not change within an hour of an outage.\n\n\
         Every five minutes there is a call to each of two working APIs. One reports a rejected \
         token with status 401. The other does so with status 500 and a GraphQL error, as newer \
         versions of the Authoring API may. Every hour there is a call to an API that rejects \
         every token. Only calls to the working APIs are counted. A failed call is counted \
         separately if it belongs to the first two rounds after the APIs have changed their \
         key, and no token existed yet that the API would have accepted. That is usual for the \
         very first call: the API rejects the old token because of its key, and its replacement \
         because it is from the future.\n\n\
         The table contains the rivals that use Tokio's clock or accept a custom one. Each is \
         called as its documentation says. The others read clocks that cannot be controlled. \
         Two rivals can be told that a token was rejected with status 401. The call is then \
         repeated. In their first row, all such rejections are reported; in the second, only \
         those by the working API that returns 401.",
        &[
            "",
            "calls",
            "failed",
            "failed, no token yet",
            "waited",
            "tokens granted",
            "token requests",
        ],
        rows.collect(),
    );
    let failed = |(name, year): &(&str, Year)| ((*name).to_owned(), year.failed as f64);
    report.chart(Chart {
        name: "year",
        title: "Failed calls in a simulated year with an outage of 4 h a day",
        axis: "failed calls",
        scale: Scale::Linear,
        rows: years.iter().map(failed).collect(),
    });
    let years: Vec<_> = (0..RUNS as u64).map(|number| run(SEED + number, ours::year)).collect();
    let each = |count: fn(&Year) -> u64| years.iter().map(|year| count(year) as f64).collect();
    report.goal(Goal {
        name: "P10",
        what: "a simulated year; each run has a different random seed",
        figures: vec![
            Figure::never_above(0.0, "failed calls", each(|year| year.failed)),
            Figure::unbounded(
                "failed calls for which no token existed yet",
                each(|year| year.at_new_key),
            ),
            Figure::unbounded("calls", each(|year| year.calls)),
            Figure::unbounded("calls that waited", each(|year| year.waited)),
            Figure::unbounded("tokens granted", each(|year| year.tokens)),
        ],
    });
}
