//! P9: ten thousand tenants, each with a cache, a token and a token client of its own.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use sitecore_auth::{ClientCredentials, Token, TokenCache, TokenClient, source_fn};

use crate::{
    alloc::counted,
    report::{Report, Row},
};

const TENANTS: u32 = 10_000;
const TOKEN: usize = 1_200;

pub(crate) fn measure(report: &mut Report) {
    let runtime = crate::runtime(0);
    let first = TokenClient::new(ClientCredentials::new("id", "secret")).expect("a client");
    let begun = Instant::now();
    let (caches, _, bytes) = counted(|| {
        let tenants = (0..TENANTS).map(|number| {
            let credentials = ClientCredentials::new(format!("tenant-{number}"), "secret");
            let client = first.with_credentials(credentials).expect("a client");
            // The tenant's own client, which is not asked here: that would measure the network.
            let cache = TokenCache::new(source_fn(move |_| {
                let _kept = &client;
                async { Token::bearer("t".repeat(TOKEN), Duration::from_secs(86_400)) }
            }));
            runtime.block_on(cache.token()).expect("a token");
            cache
        });
        tenants.collect::<Vec<_>>()
    });
    let made = begun.elapsed() / TENANTS;
    let begun = Instant::now();
    // In an order that no cache of the processor foresees.
    for step in 0..TENANTS {
        let place = (u64::from(step) * 7_919 % u64::from(TENANTS)) as usize;
        black_box(caches[place].current());
    }
    let looked_up = begun.elapsed() / TENANTS;
    let each = bytes / i64::from(TENANTS);
    let tasks = runtime.metrics().num_alive_tasks();
    report.goal(Row {
        name: "P9",
        what: "memory per cache; 10,000 tenants with real `TokenClient`s",
        goal: "≤ 8 KiB + the token each; no task while idle",
        measured: format!(
            "{each} bytes each with a token of {TOKEN}, {tasks} tasks; made and filled in {made:?}, looked up in {looked_up:?}"
        ),
        is_met: each <= 8 * 1_024 + TOKEN as i64 && tasks == 0,
    });
}
