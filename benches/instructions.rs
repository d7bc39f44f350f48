//! Runs one operation a given number of times, so that `scripts/instructions` can count its
//! instructions.

mod support;

use std::{hint::black_box, time::Duration};

use reqwest_middleware::ClientBuilder;
use sitecore_auth::{AuthMiddleware, Target, Token, TokenCache, source_fn};
use support::{Canned, HOST, Nothing, RESPONSE_BODY};
use tokio::runtime::{Builder, Runtime};

const PATH: &str = "/api/projects/v1";
/// The middleware inspects responses of this path.
const AUTHORING_PATH: &str = "/sitecore/api/authoring/graphql/v1/";

const OPERATIONS: [&str; 5] = ["header", "floor", "middleware", "replay", "inspect"];

fn main() {
    let args: Vec<_> = std::env::args().collect();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    // Without arguments, as in a test: each operation once.
    let (operations, count) = match args.as_slice() {
        [_, operation, count] => (vec![operation.as_str()], count.parse().unwrap()),
        _ => (OPERATIONS.to_vec(), 1),
    };
    for operation in operations {
        run(&runtime, operation, count);
    }
}

fn run(runtime: &Runtime, operation: &str, count: u32) {
    let day = Duration::from_secs(86_400);
    let cache =
        TokenCache::new(source_fn(move |_| async move { Token::bearer("t".repeat(1_200), day) }));
    runtime.block_on(cache.token()).unwrap();
    if operation == "header" {
        for _ in 0..count {
            black_box(cache.current().unwrap().header().1.clone());
        }
        return;
    }
    let authoring = || Target::authoring(HOST).unwrap();
    let origin = || Target::origin(format!("https://{HOST}").parse().unwrap()).unwrap();
    let auth = |target, replay| {
        let builder = AuthMiddleware::builder(cache.clone()).target(target);
        builder.replay(replay).build().unwrap()
    };
    let client = ClientBuilder::new(reqwest::Client::new());
    let client = match operation {
        "floor" => client.with(Nothing),
        "middleware" => client.with(auth(origin(), false)),
        "replay" => client.with(auth(origin(), true)),
        "inspect" => client.with(auth(authoring(), true)),
        _ => panic!("unknown operation `{operation}`; expected one of {OPERATIONS:?}"),
    };
    let client = client.with(Canned(RESPONSE_BODY)).build();
    let path = if operation == "inspect" { AUTHORING_PATH } else { PATH };
    let url = format!("https://{HOST}{path}");
    runtime.block_on(async {
        for _ in 0..count {
            black_box(client.get(&url).send().await.unwrap());
        }
    });
}
