//! The cost of a header from a warm cache, and of the middleware in front of a canned response or a
//! loopback server. Each is measured next to its floor, with its allocations.
//!
//! Run it with `cargo bench`. `benches/rivals` compares the cache with others.

mod support;

use std::{sync::LazyLock, time::Duration};

use arc_swap::ArcSwap;
use axum::{Router, routing::get};
use divan::{AllocProfiler, Bencher};
use http::HeaderValue;
use reqwest::header::AUTHORIZATION;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware};
use sitecore_auth::{AuthMiddleware, Target, Token, TokenCache, source_fn};
use support::{Canned, HOST, Nothing, RESPONSE_BODY};
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

/// Creates a cache with a token as long as Sitecore's.
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
        let header = ArcSwap::from_pointee(HeaderValue::from_static("Bearer"));
        bencher.bench(|| (**header.load()).clone());
    }

    #[divan::bench(threads = THREADS)]
    fn from_a_warm_cache(bencher: Bencher<'_, '_>) {
        let cache = cache();
        bencher.bench(|| cache.current().unwrap().header().1.clone());
    }
}

fn auth(target: Target, replay: bool) -> AuthMiddleware {
    AuthMiddleware::builder(cache()).target(target).replay(replay).build().unwrap()
}

mod middleware {
    use super::*;

    const PATH: &str = "/api/projects/v1";
    /// The middleware inspects responses of this path.
    const AUTHORING_PATH: &str = "/sitecore/api/authoring/graphql/v1/";

    fn bench(bencher: Bencher<'_, '_>, middleware: impl Middleware, path: &str) {
        let client = ClientBuilder::new(reqwest::Client::new()).with(middleware);
        let client = client.with(Canned(RESPONSE_BODY)).build();
        let runtime = Builder::new_current_thread().build().unwrap();
        let url = format!("https://{HOST}{path}");
        bencher.bench_local(|| runtime.block_on(client.get(&url).send()).unwrap());
    }

    fn origin() -> Target {
        Target::origin(format!("https://{HOST}").parse().unwrap()).unwrap()
    }

    #[divan::bench]
    fn floor(bencher: Bencher<'_, '_>) {
        bench(bencher, Nothing, PATH);
    }

    #[divan::bench]
    fn without_replay(bencher: Bencher<'_, '_>) {
        bench(bencher, auth(origin(), false), PATH);
    }

    #[divan::bench]
    fn with_replay(bencher: Bencher<'_, '_>) {
        bench(bencher, auth(origin(), true), PATH);
    }

    #[divan::bench]
    fn with_replay_and_an_inspected_response(bencher: Bencher<'_, '_>) {
        let target = Target::authoring(HOST).unwrap();
        bench(bencher, auth(target, true), AUTHORING_PATH);
    }
}

mod loopback {
    use super::*;

    /// The URL of a server that responds to every request with the same body.
    static URL: LazyLock<String> = LazyLock::new(|| {
        let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let app = Router::new().route("/", get(|| async { "hello!" }));
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
    fn header_set_by_hand(bencher: Bencher<'_, '_>) {
        let header = HeaderValue::try_from(format!("Bearer {}", "t".repeat(1_200))).unwrap();
        bench(bencher, &ClientBuilder::new(http()).build(), Some(&header));
    }

    #[divan::bench]
    fn header_set_by_the_middleware(bencher: Bencher<'_, '_>) {
        let target = Target::origin(URL.parse().unwrap()).unwrap();
        let client = ClientBuilder::new(http()).with(auth(target, true)).build();
        bench(bencher, &client, None);
    }
}
