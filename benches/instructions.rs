//! Does one thing so many times, for a count of instructions: see `scripts/instructions`.

mod support;

use std::{hint::black_box, time::Duration};

use reqwest_middleware::ClientBuilder;
use sitecore_auth::{AuthMiddleware, Target, Token, TokenCache, source_fn};
use support::{Canned, Nothing};
use tokio::runtime::{Builder, Runtime};

const URL: &str = "https://cm.example/api/projects/v1";
/// Whose answers are looked at.
const AUTHORING_URL: &str = "https://cm.example/sitecore/api/authoring/graphql/v1/";

fn main() {
    let args: Vec<_> = std::env::args().collect();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    // Without arguments, as a test: each of them, once.
    let (what, count) = match args.as_slice() {
        [_, what, count] => (vec![what.as_str()], count.parse().unwrap()),
        _ => (vec!["header", "floor", "layer", "replay", "look"], 1),
    };
    for what in what {
        run(&runtime, what, count);
    }
}

fn run(runtime: &Runtime, what: &str, count: u32) {
    let day = Duration::from_secs(86_400);
    let cache =
        TokenCache::new(source_fn(move |_| async move { Token::bearer("t".repeat(1_200), day) }));
    runtime.block_on(cache.token()).unwrap();
    if what == "header" {
        for _ in 0..count {
            black_box(cache.current().unwrap().header().1.clone());
        }
        return;
    }
    let authoring = || Target::authoring("cm.example").unwrap();
    let origin = || Target::origin("https://cm.example".parse().unwrap()).unwrap();
    let auth = |target, replay| {
        let layer = AuthMiddleware::builder(cache.clone()).target(target);
        layer.replay(replay).build().unwrap()
    };
    let client = ClientBuilder::new(reqwest::Client::new());
    let client = match what {
        "floor" => client.with(Nothing),
        "layer" => client.with(auth(origin(), false)),
        "replay" => client.with(auth(origin(), true)),
        "look" => client.with(auth(authoring(), true)),
        _ => panic!("header, floor, layer, replay or look, and how often"),
    };
    let client = client.with(Canned(r#"{"data":{"sites":[]}}"#)).build();
    let url = if what == "look" { AUTHORING_URL } else { URL };
    runtime.block_on(async {
        for _ in 0..count {
            black_box(client.get(url).send().await.unwrap());
        }
    });
}
