//! P8: requests over loopback HTTP, each beside the same request with its header set by hand.

use std::time::Instant;

use axum::{Router, routing::get};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use sitecore_auth::Target;
use tokio::net::TcpListener;

use crate::{
    layer::auth,
    report::{Figure, Goal, RUNS, Report},
    stats::{Spread, interval, quantile},
};

const BLOCKS: usize = 200;
const PAIRS: usize = 50;

pub(crate) fn measure(report: &mut Report) {
    let servers = crate::runtime(1);
    let listener = servers
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let app = Router::new().route("/", get(|| async { "answer" }));
    servers.spawn(async move { axum::serve(listener, app).await });

    let runtime = crate::runtime(0);
    let http = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let target = Target::origin(url.parse().expect("a URL")).expect("a target");
    let layer = ClientBuilder::new(http.clone())
        .with(auth(&runtime, target, true))
        .build();
    let bare = ClientBuilder::new(http).build();
    let header = HeaderValue::try_from(format!("Bearer {}", "t".repeat(1_200))).expect("a header");
    let by_layer = async || micros(&layer, &url, None).await;
    let by_hand = async || micros(&bare, &url, Some(&header)).await;

    let mut differences = Vec::new();
    let mut times = Vec::new();
    runtime.block_on(async {
        for block in 0..=RUNS * BLOCKS {
            let (mut with, mut without) = (Vec::new(), Vec::new());
            for pair in 0..PAIRS {
                if pair % 2 == 0 {
                    with.push(by_layer().await);
                    without.push(by_hand().await);
                } else {
                    without.push(by_hand().await);
                    with.push(by_layer().await);
                }
            }
            with.sort_by(f64::total_cmp);
            without.sort_by(f64::total_cmp);
            // The first block warms up.
            if block > 0 {
                times.push(quantile(&without, 0.5));
                differences.push(quantile(&with, 0.5) - quantile(&without, 0.5));
            }
        }
    });
    let runs = differences.chunks(BLOCKS);
    let (least, most): (Vec<_>, Vec<_>) = runs.map(interval).unzip();
    let runs = times.chunks(BLOCKS);
    let by_hand = runs.map(|run| Spread::of(run.to_vec()).median).collect();
    report.goal(Goal {
        name: "P8",
        what: "over loopback HTTP, beside the same request with a header set by hand, through a reqwest-middleware without a layer",
        figures: vec![
            Figure::at_most(
                2.0,
                "upper end of the 95 % interval of the difference, µs",
                most,
            )
            .and_at_least(&least),
            Figure::told("its lower end, µs", least),
            Figure::told("the request with a header set by hand, µs", by_hand),
        ],
    });
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
