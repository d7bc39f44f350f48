//! What our own code costs: a header from a warm cache, and the layer with a canned answer behind it or a server on
//! loopback. Each stands beside its floor, with its allocations.
//!
//! `cargo bench`; with a rival beside it: `benches/rivals`.

mod support;

use std::{sync::LazyLock, time::Duration};

use arc_swap::ArcSwap;
use axum::{Router, routing::get};
use divan::{AllocProfiler, Bencher};
use http::HeaderValue;
use reqwest::header::AUTHORIZATION;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware};
use sitecore_auth::{AuthMiddleware, Target, Token, TokenCache, source_fn};
use support::{Canned, Nothing};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const THREADS: [usize; 3] = [1, 2, 8];

fn main() {
    divan::main();
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
});

/// A cache that holds a token as long as Sitecore's.
fn cache() -> TokenCache {
    let day = Duration::from_secs(86_400);
    let cache =
        TokenCache::new(source_fn(move |_| async move { Token::bearer("t".repeat(1_200), day) }));
    RUNTIME.block_on(cache.token()).unwrap();
    cache
}

mod header {
    use super::*;

    #[divan::bench(threads = THREADS)]
    fn floor(bencher: Bencher<'_, '_>) {
        let held = ArcSwap::from_pointee(HeaderValue::from_static("Bearer"));
        bencher.bench(|| (**held.load()).clone());
    }

    #[divan::bench(threads = THREADS)]
    fn from_a_warm_cache(bencher: Bencher<'_, '_>) {
        let cache = cache();
        bencher.bench(|| cache.current().unwrap().header().1.clone());
    }
}

fn auth(target: Target, replay: bool) -> AuthMiddleware {
    let layer = AuthMiddleware::builder(cache()).target(target);
    layer.replay(replay).build().unwrap()
}

mod layer {
    use super::*;

    const URL: &str = "https://cm.example/api/projects/v1";
    /// Whose answers are looked at.
    const AUTHORING_URL: &str = "https://cm.example/sitecore/api/authoring/graphql/v1/";

    fn bench(bencher: Bencher<'_, '_>, layer: impl Middleware, url: &str) {
        let client = ClientBuilder::new(reqwest::Client::new()).with(layer);
        let client = client.with(Canned(r#"{"data":{"sites":[]}}"#)).build();
        let runtime = Builder::new_current_thread().build().unwrap();
        bencher.bench_local(|| runtime.block_on(client.get(url).send()).unwrap());
    }

    fn origin() -> Target {
        Target::origin("https://cm.example".parse().unwrap()).unwrap()
    }

    #[divan::bench]
    fn floor(bencher: Bencher<'_, '_>) {
        bench(bencher, Nothing, URL);
    }

    #[divan::bench]
    fn without_replay(bencher: Bencher<'_, '_>) {
        bench(bencher, auth(origin(), false), URL);
    }

    #[divan::bench]
    fn with_replay(bencher: Bencher<'_, '_>) {
        bench(bencher, auth(origin(), true), URL);
    }

    #[divan::bench]
    fn with_replay_and_a_look_at_the_answer(bencher: Bencher<'_, '_>) {
        let target = Target::authoring("cm.example").unwrap();
        bench(bencher, auth(target, true), AUTHORING_URL);
    }
}

mod loopback {
    use super::*;

    /// A server that answers everything.
    static URL: LazyLock<String> = LazyLock::new(|| {
        let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let app = Router::new().route("/", get(|| async { "answer" }));
        RUNTIME.spawn(async move { axum::serve(listener, app).await });
        url
    });

    fn bench(
        bencher: Bencher<'_, '_>,
        client: &ClientWithMiddleware,
        header: Option<&HeaderValue>,
    ) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        bencher.bench_local(|| {
            let mut request = client.get(&*URL);
            if let Some(header) = header {
                request = request.header(AUTHORIZATION, header.clone());
            }
            runtime.block_on(async { request.send().await.unwrap().bytes().await.unwrap() })
        });
    }

    fn http() -> reqwest::Client {
        reqwest::Client::builder().no_proxy().build().unwrap()
    }

    #[divan::bench]
    fn header_by_hand(bencher: Bencher<'_, '_>) {
        let header = HeaderValue::try_from(format!("Bearer {}", "t".repeat(1_200))).unwrap();
        bench(bencher, &ClientBuilder::new(http()).build(), Some(&header));
    }

    #[divan::bench]
    fn the_layer(bencher: Bencher<'_, '_>) {
        let target = Target::origin(URL.parse().unwrap()).unwrap();
        let client = ClientBuilder::new(http()).with(auth(target, true)).build();
        bench(bencher, &client, None);
    }
}
