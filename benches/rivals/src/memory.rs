//! P9: ten thousand tenants, each with a cache, a token and a token client of its own.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use sitecore_auth::{ClientCredentials, Endpoint, Token, TokenCache, TokenClient, source_fn};

use crate::{
    alloc::counted,
    report::{Figure, Goal, RUNS, Report},
    runtime,
};

const TENANTS: u32 = 10_000;
const TOKEN_BYTES: usize = 1_200;

struct Tenants {
    bytes: f64,
    tasks: f64,
    created_micros: f64,
    looked_up_nanos: f64,
}

fn tenants() -> Tenants {
    let runtime = runtime::current_thread();
    // This program is compiled without TLS.
    let endpoint = Endpoint::new("http://127.0.0.1/token".parse().expect("a URL"), "audience");
    let first = TokenClient::builder(ClientCredentials::new("id", "secret"))
        .endpoint(endpoint.expect("an endpoint"))
        .build()
        .expect("a client");
    let started = Instant::now();
    let (caches, _, bytes) = counted(|| {
        let tenants = (0..TENANTS).map(|number| {
            let credentials = ClientCredentials::new(format!("tenant-{number}"), "secret");
            let client = first.with_credentials(credentials).expect("a client");
            // The tenant's own client is kept but not called: that would measure the network.
            let cache = TokenCache::new(source_fn(move |_| {
                let _kept = &client;
                async { Token::bearer("t".repeat(TOKEN_BYTES), Duration::from_secs(86_400)) }
            }));
            runtime.block_on(cache.token()).expect("a token");
            cache
        });
        tenants.collect::<Vec<_>>()
    });
    let created = started.elapsed() / TENANTS;
    let started = Instant::now();
    // In an order that the processor cannot prefetch.
    for step in 0..TENANTS {
        let index = (u64::from(step) * 7_919 % u64::from(TENANTS)) as usize;
        black_box(caches[index].current());
    }
    let looked_up = started.elapsed() / TENANTS;
    Tenants {
        bytes: bytes as f64 / f64::from(TENANTS) - TOKEN_BYTES as f64,
        tasks: runtime.metrics().num_alive_tasks() as f64,
        created_micros: created.as_secs_f64() * 1e6,
        looked_up_nanos: looked_up.as_secs_f64() * 1e9,
    }
}

pub(crate) fn measure(report: &mut Report) {
    let runs: Vec<_> = (0..RUNS).map(|_| tenants()).collect();
    let each = |figure: fn(&Tenants) -> f64| runs.iter().map(figure).collect();
    report.goal(Goal {
        name: "P9",
        what: "10,000 tenants, each with a cache, a token and a `TokenClient` on one HTTP client",
        figures: vec![
            Figure::at_most(
                3.0 * 1_024.0,
                "bytes per tenant, without the token",
                each(|run| run.bytes),
            ),
            Figure::never_above(0.0, "tasks while idle", each(|run| run.tasks)),
            Figure::unbounded("time to create and fill one, µs", each(|run| run.created_micros)),
            Figure::unbounded("time to look up one token, ns", each(|run| run.looked_up_nanos)),
        ],
    });
}
