//! Memory by a counting allocator, in a process of its own: what a warm cache, ten thousand idle ones and a
//! large answer cost.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use http::Extensions;
use reqwest::ResponseBuilderExt as _;
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, Target, Token, TokenCache, TokenClient, source_fn,
};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const DAY: Duration = Duration::from_secs(86_400);
const CACHES: usize = 10_000;

/// A count is of the whole process: one test at a time.
fn counting() -> (MutexGuard<'static, ()>, dhat::Profiler) {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    (one, dhat::Profiler::builder().testing().trim_backtraces(Some(1)).build())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A token as large as Sitecore's.
fn token() -> String {
    "t".repeat(1_200)
}

#[test]
fn a_warm_cache_hands_out_headers_without_allocating() {
    let (_one, _profiler) = counting();
    let runtime = runtime();
    let cache = TokenCache::new(source_fn(|_| async { Token::bearer(token(), DAY) }));
    runtime.block_on(cache.token()).unwrap();
    let headers = || {
        let before = dhat::HeapStats::get().total_blocks;
        for _ in 0..1_000 {
            drop(cache.current().expect("a token").header().1.clone());
        }
        dhat::HeapStats::get().total_blocks - before
    };
    // The count is of the whole process, and the test runner's own threads allocate now and then.
    let least = (0..10).map(|_| headers()).min();
    assert_eq!(least, Some(0), "for a thousand headers");
}

#[test]
fn ten_thousand_idle_caches_cost_little_memory_and_no_task() {
    let (_one, _profiler) = counting();
    let runtime = runtime();
    let first = TokenClient::new(ClientCredentials::new("id", "secret")).unwrap();
    let granting = || async { Token::bearer(token(), DAY) };
    let alive = Arc::new(());
    let before = dhat::HeapStats::get().curr_bytes;
    let caches: Vec<_> = (0..CACHES)
        .map(|number| {
            // The tenant's own client, as it would be; asking it would need an issuer.
            let client = first
                .with_credentials(ClientCredentials::new(format!("tenant-{number}"), "secret"))
                .unwrap();
            let alive = Arc::clone(&alive);
            let cache = TokenCache::new(source_fn(move |_| {
                let _kept = (&client, &alive);
                granting()
            }));
            runtime.block_on(cache.token()).unwrap();
            cache
        })
        .collect();
    let each = (dhat::HeapStats::get().curr_bytes - before) / CACHES;
    println!("{each} bytes each, token included");
    assert!(each <= 8 * 1024 + token().len(), "{each} bytes each");
    assert_eq!(runtime.metrics().num_alive_tasks(), 0);
    drop(caches);
    assert_eq!(Arc::strong_count(&alive), 1, "a source is left");
    let left = dhat::HeapStats::get().curr_bytes.saturating_sub(before);
    assert!(left < 64 * 1024, "{left} bytes are left");
}

#[test]
fn a_dropped_cache_ends_with_its_refresh() {
    let (_one, _profiler) = counting();
    let runtime = runtime();
    let alive = Arc::new(());
    runtime.block_on(async {
        for _ in 0..100 {
            let alive = Arc::clone(&alive);
            let cache = TokenCache::new(source_fn(move |_| {
                let alive = Arc::clone(&alive);
                async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    drop(alive);
                    Token::bearer("t", DAY)
                }
            }));
            let _ = tokio::time::timeout(Duration::from_millis(1), cache.token()).await;
        }
        assert!(runtime.metrics().num_alive_tasks() > 0);
        tokio::time::sleep(Duration::from_millis(200)).await;
    });
    assert_eq!(runtime.metrics().num_alive_tasks(), 0);
    assert_eq!(Arc::strong_count(&alive), 1);
}

/// Tells how often a text stands in this process's memory. It is given backwards, so that what it is looked for with is
/// not found.
#[cfg(target_os = "linux")]
fn in_memory(backwards: &[u8]) -> usize {
    use std::os::unix::fs::FileExt as _;
    const PIECE: u64 = 1 << 16;
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let (mut found, mut piece) = (0, vec![0; PIECE as usize + backwards.len() - 1]);
    for map in maps.lines().filter(|map| map.contains("rw-p")) {
        let (from, to) = map.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        for at in (number(from)..number(to)).step_by(PIECE as usize) {
            let length = (number(to) - at).min(piece.len() as u64) as usize;
            if memory.read_exact_at(&mut piece[..length], at).is_ok() {
                let windows = piece[..length].windows(backwards.len());
                found += windows
                    .filter(|window| window[0] == backwards[backwards.len() - 1])
                    .filter(|window| window.iter().rev().eq(backwards))
                    .count();
            }
            piece.fill(0);
        }
    }
    found
}

#[cfg(target_os = "linux")]
#[test]
fn a_tokens_text_is_overwritten_when_nobody_holds_it() {
    const BACKWARDS: &[u8] = b"ereh-morf-daer-si-ti-litnu-txet-on-si-siht";
    let (_one, _profiler) = counting();
    let cache = TokenCache::new(source_fn(|_| async {
        let text: String = BACKWARDS.iter().rev().copied().map(char::from).collect();
        Token::bearer(text, DAY)
    }));
    let runtime = runtime();
    let token = runtime.block_on(cache.token()).unwrap();
    let header = token.header().1.clone();
    drop((cache, token));
    assert_eq!(in_memory(BACKWARDS), 1, "a header is held");
    drop((header, runtime));
    assert_eq!(in_memory(BACKWARDS), 0);
}

/// 50 MB in pieces, which begin as a refusal would and do not end as one.
fn large_body() -> reqwest::Body {
    const PIECE: usize = 16 * 1024;
    let begin = stream::iter([Ok::<_, Infallible>(br#"{"errors":[{"message":""#.to_vec())]);
    let pieces = stream::iter(0..50 * 1024 * 1024 / PIECE).map(|_| Ok(vec![b'x'; PIECE]));
    reqwest::Body::wrap_stream(begin.chain(pieces))
}

/// Stands for the network: no socket, so that nothing but the layer differs between two runs.
struct Canned;

#[async_trait]
impl Middleware for Canned {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let answer = http::Response::builder()
            .header("content-type", "application/json")
            .url(request.url().clone());
        Ok(answer.body(large_body()).unwrap().into())
    }
}

#[test]
fn a_large_answer_is_not_held() {
    const URL: &str = "https://cm.example/sitecore/api/authoring/graphql/v1/";
    /// The most memory in use while the answer is read, piece by piece.
    fn peak(stack: impl FnOnce(ClientBuilder) -> ClientBuilder) -> usize {
        let (_one, _profiler) = counting();
        let in_use = || dhat::HeapStats::get().curr_bytes;
        let client = stack(ClientBuilder::new(reqwest::Client::new())).with(Canned).build();
        runtime().block_on(async {
            let before = in_use();
            let mut answer = client.get(URL).send().await.unwrap();
            let (mut length, mut most) = (0, in_use());
            while let Some(piece) = answer.chunk().await.unwrap() {
                length += piece.len();
                most = most.max(in_use());
            }
            assert!(length > 50_000_000);
            most - before
        })
    }
    let bare = peak(|client| client);
    let layered = peak(|client| {
        let cache = TokenCache::new(source_fn(|_| async { Token::bearer(token(), DAY) }));
        let target = Target::authoring("cm.example").unwrap();
        client.with(AuthMiddleware::builder(cache).target(target).build().unwrap())
    });
    println!("{bare} bytes without the layer, {layered} with it");
    assert!(layered.saturating_sub(bare) < 64 * 1024, "{bare} without, {layered} with");
}

/// Does what any middleware must.
struct Nothing;

#[async_trait]
impl Middleware for Nothing {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        next.run(request, extensions).await
    }
}

/// Answers without a body and without a network.
struct Empty;

#[async_trait]
impl Middleware for Empty {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let answer = http::Response::builder().url(request.url().clone());
        Ok(answer.body("").unwrap().into())
    }
}

#[test]
fn without_replay_the_layer_allocates_no_more_than_any_other() {
    /// The allocations of a call through this middleware, at least.
    fn blocks(middleware: impl Middleware) -> u64 {
        let (_one, _profiler) = counting();
        let client =
            ClientBuilder::new(reqwest::Client::new()).with(middleware).with(Empty).build();
        let runtime = runtime();
        let call = || {
            let request =
                client.get("https://api.example/x").header("accept", "*/*").build().unwrap();
            let before = dhat::HeapStats::get().total_blocks;
            runtime.block_on(client.execute(request)).unwrap();
            dhat::HeapStats::get().total_blocks - before
        };
        (0..20).map(|_| call()).min().unwrap()
    }
    let layer = |replay| {
        let cache = TokenCache::new(source_fn(|_| async { Token::bearer(token(), DAY) }));
        let target = Target::origin("https://api.example".parse().unwrap()).unwrap();
        AuthMiddleware::builder(cache).target(target).replay(replay).build().unwrap()
    };
    let (nothing, without, with) = (blocks(Nothing), blocks(layer(false)), blocks(layer(true)));
    println!(
        "{nothing} allocations with a middleware that does nothing, {without} with ours, {with} with replay"
    );
    assert_eq!(without, nothing);
}
