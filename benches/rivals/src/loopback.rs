//! P8: requests over loopback HTTP, each paired with the same request with its header set by hand.
//!
//! The result depends on where client and server run. On one core, the client is never idle. On
//! two, each core sleeps while it waits for the other and wakes up with cold caches. Both are
//! measured.

use std::{thread, time::Instant};

use axum::{Router, routing::get};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use sitecore_auth::Target;
use tokio::{net::TcpListener, runtime::Builder};

use crate::{
    middleware::auth,
    report::{Figure, Goal, RUNS, Report},
    runtime::{self, pin_to_core},
    stats::{Spread, interval, quantile},
};

const BLOCKS: usize = 200;
/// Rounds per block; each sends one request of each kind.
const ROUNDS: usize = 50;

pub(crate) fn measure(report: &mut Report) {
    let one_core = "a request over loopback HTTP, compared with the same request with a header set \
                    by hand, sent through reqwest-middleware without any middleware; client and \
                    server on one core";
    for (server_core, what) in [(0, one_core), (1, "the same on two cores")] {
        let measured = thread::spawn(move || {
            pin_to_core(0);
            requests(server_core)
        });
        let [by_hand, ours] = measured.join().expect("no panic");
        let differences: Vec<_> = ours.iter().zip(&by_hand).map(|(a, b)| a - b).collect();
        let (lower, upper): (Vec<_>, Vec<_>) = differences.chunks(BLOCKS).map(interval).unzip();
        let by_hand = by_hand.chunks(BLOCKS);
        let by_hand = by_hand.map(|run| Spread::of(run.to_vec()).median).collect();
        report.goal(Goal {
            name: "P8",
            what,
            figures: vec![
                Figure::at_most(2.0, "upper end of the 95 % interval of the difference, µs", upper)
                    .with_lower_end(&lower),
                Figure::unbounded("its lower end, µs", lower),
                Figure::unbounded("the request with a header set by hand, µs", by_hand),
            ],
        });
    }
}

/// Sends two kinds of requests to a server on this core: with a header set by hand, and through the
/// middleware. Returns for each kind the median duration of every block, in microseconds.
fn requests(server_core: usize) -> [Vec<f64>; 2] {
    let servers = Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(move || pin_to_core(server_core))
        .enable_all()
        .build()
        .expect("a runtime");
    let listener = servers.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let app = Router::new().route("/", get(|| async { "hello!" }));
    servers.spawn(async move { axum::serve(listener, app).await });

    let runtime = runtime::current_thread();
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let target = Target::origin(url.parse().expect("a URL")).expect("a target");
    let ours = ClientBuilder::new(http.clone()).with(auth(&runtime, target, true)).build();
    let header = HeaderValue::try_from(format!("Bearer {}", "t".repeat(1_200))).expect("a header");
    let kinds = [(ClientBuilder::new(http).build(), Some(&header)), (ours, None)];

    let mut blocks = [Vec::new(), Vec::new()];
    runtime.block_on(async {
        for block in 0..=RUNS * BLOCKS {
            let mut times = [Vec::new(), Vec::new()];
            for round in 0..ROUNDS {
                for index in 0..kinds.len() {
                    let kind = match round % 2 {
                        0 => index,
                        _ => kinds.len() - 1 - index,
                    };
                    let (client, header) = &kinds[kind];
                    times[kind].push(micros(client, &url, *header).await);
                }
            }
            // The first block warms up.
            if block > 0 {
                for (block, times) in blocks.iter_mut().zip(&mut times) {
                    times.sort_by(f64::total_cmp);
                    block.push(quantile(times, 0.5));
                }
            }
        }
    });
    blocks
}

async fn micros(client: &ClientWithMiddleware, url: &str, header: Option<&HeaderValue>) -> f64 {
    let started = Instant::now();
    let mut request = client.get(url);
    if let Some(header) = header {
        request = request.header(AUTHORIZATION, header.clone());
    }
    let response = request.send().await.expect("a response");
    response.bytes().await.expect("a body");
    started.elapsed().as_secs_f64() * 1e6
}
