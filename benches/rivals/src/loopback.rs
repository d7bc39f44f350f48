//! P8: requests over loopback HTTP, each beside the same request with its header set by hand.
//!
//! Where client and server run decides what is measured: on one core the client is never idle, while a core that waits
//! for another one sleeps, and wakes up with cold caches. So both are measured.

use std::{thread, time::Instant};

use axum::{Router, routing::get};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use sitecore_auth::Target;
use tokio::{net::TcpListener, runtime::Builder};

use crate::{
    layer::auth,
    report::{Figure, Goal, RUNS, Report},
    stats::{Spread, interval, quantile},
    stay_on,
};

const BLOCKS: usize = 200;
/// Rounds of a block; each sends one request of each kind.
const ROUNDS: usize = 50;

pub(crate) fn measure(report: &mut Report) {
    for (server, what) in [
        (
            0,
            "over loopback HTTP, beside the same request with a header set by hand, through a reqwest-middleware without a layer; client and server on one core",
        ),
        (1, "the same on two cores"),
    ] {
        let measured = thread::spawn(move || {
            stay_on(0);
            requests(server)
        });
        let [by_hand, replay_on, replay_off] = measured.join().expect("no panic");
        let more = |with: &[f64]| {
            let differences: Vec<_> = with.iter().zip(&by_hand).map(|(a, b)| a - b).collect();
            let runs = differences.chunks(BLOCKS);
            runs.map(interval).unzip::<_, _, Vec<_>, Vec<_>>()
        };
        let (least, most) = more(&replay_on);
        let (off_least, off_most) = more(&replay_off);
        let by_hand = by_hand.chunks(BLOCKS);
        let by_hand = by_hand.map(|run| Spread::of(run.to_vec()).median).collect();
        report.goal(Goal {
            name: "P8",
            what,
            figures: vec![
                Figure::at_most(2.0, "upper end of the 95 % interval of the difference, µs", most)
                    .and_at_least(&least),
                Figure::told("its lower end, µs", least),
                Figure::told("replay off: upper end, µs", off_most),
                Figure::told("replay off: lower end, µs", off_least),
                Figure::told("the request with a header set by hand, µs", by_hand),
            ],
        });
    }
}

/// Sends requests with a header set by hand, through the layer, and through one without replay, to a server on this
/// core. Returns for each kind how long one took in each block, in microseconds.
fn requests(server: usize) -> [Vec<f64>; 3] {
    let servers = Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(move || stay_on(server))
        .enable_all()
        .build()
        .expect("a runtime");
    let listener = servers.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let app = Router::new().route("/", get(|| async { "answer" }));
    servers.spawn(async move { axum::serve(listener, app).await });

    let runtime = crate::runtime(0);
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let target = Target::origin(url.parse().expect("a URL")).expect("a target");
    let layer = |replay| {
        let layer = auth(&runtime, target.clone(), replay);
        ClientBuilder::new(http.clone()).with(layer).build()
    };
    let header = HeaderValue::try_from(format!("Bearer {}", "t".repeat(1_200))).expect("a header");
    let bare = ClientBuilder::new(http.clone()).build();
    let kinds = [(bare, Some(&header)), (layer(true), None), (layer(false), None)];

    let mut blocks = [Vec::new(), Vec::new(), Vec::new()];
    runtime.block_on(async {
        for block in 0..=RUNS * BLOCKS {
            let mut times = [Vec::new(), Vec::new(), Vec::new()];
            for round in 0..ROUNDS {
                for place in 0..kinds.len() {
                    let kind = match round % 2 {
                        0 => place,
                        _ => kinds.len() - 1 - place,
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
    let begun = Instant::now();
    let mut request = client.get(url);
    if let Some(header) = header {
        request = request.header(AUTHORIZATION, header.clone());
    }
    let answer = request.send().await.expect("an answer");
    answer.bytes().await.expect("a body");
    begun.elapsed().as_secs_f64() * 1e6
}
