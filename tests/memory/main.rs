//! Memory use, measured with a counting allocator in a separate process.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use http::Extensions;
use reqwest::ResponseBuilderExt as _;
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, Error, ErrorKind, Freshness, ManualClock, Target, Token,
    TokenCache, TokenClient, source_fn,
};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const DAY: Duration = Duration::from_secs(86_400);
const CACHES: usize = 10_000;

/// Starts to count allocations. One test at a time, because the count covers the whole process.
fn counting() -> (MutexGuard<'static, ()>, dhat::Profiler) {
    static LOCK: Mutex<()> = Mutex::new(());
    let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    (lock, dhat::Profiler::builder().testing().trim_backtraces(Some(1)).build())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Returns a token as long as Sitecore's.
fn token() -> String {
    "t".repeat(1_200)
}

#[test]
fn a_warm_cache_returns_headers_without_allocating() {
    let (_lock, _profiler) = counting();
    let runtime = runtime();
    let cache = TokenCache::new(source_fn(|_| async { Token::bearer(token(), DAY) }));
    runtime.block_on(cache.token()).unwrap();
    assert_eq!(thousand_headers(&cache), 0);
}

#[test]
fn a_stale_token_during_a_cooldown_costs_no_allocation() {
    let (_lock, _profiler) = counting();
    let runtime = runtime();
    let granted = AtomicBool::new(false);
    let clock = ManualClock::new();
    let source = source_fn(move |_| {
        let first = !granted.swap(true, Ordering::Relaxed);
        async move {
            match first {
                true => Token::bearer(token(), DAY),
                false => Err(Error::new(ErrorKind::Refused, "the client was deleted")),
            }
        }
    });
    let cache = TokenCache::builder(source).clock(clock.clone()).build().unwrap();
    runtime.block_on(async {
        cache.token().await.unwrap();
        clock.advance(DAY - Duration::from_secs(3_600));
        while cache.current().is_some() && cache.status().last_error().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(cache.status().freshness(), Some(Freshness::Stale));
    assert_eq!(cache.status().token_requests(), 2);
    assert_eq!(thousand_headers(&cache), 0);
}

/// Returns how many allocations a thousand reads of the current token make. It is the minimum of
/// several runs, because the test runner's threads allocate now and then.
fn thousand_headers(cache: &TokenCache) -> u64 {
    let headers = || {
        let before = dhat::HeapStats::get().total_blocks;
        for _ in 0..1_000 {
            drop(cache.current().expect("a token").header().1.clone());
        }
        dhat::HeapStats::get().total_blocks - before
    };
    (0..10).map(|_| headers()).min().unwrap()
}

#[test]
fn ten_thousand_idle_caches_cost_little_memory_and_no_task() {
    let (_lock, _profiler) = counting();
    let runtime = runtime();
    let first = TokenClient::new(ClientCredentials::new("id", "secret")).unwrap();
    let alive = Arc::new(());
    let before = dhat::HeapStats::get().curr_bytes;
    let caches: Vec<_> = (0..CACHES)
        .map(|number| {
            // Each tenant has its own client. It is kept but never used: there is no issuer.
            let client = first
                .with_credentials(ClientCredentials::new(format!("tenant-{number}"), "secret"))
                .unwrap();
            let alive = Arc::clone(&alive);
            let cache = TokenCache::new(source_fn(move |_| {
                let _kept = (&client, &alive);
                async { Token::bearer(token(), DAY) }
            }));
            runtime.block_on(cache.token()).unwrap();
            cache
        })
        .collect();
    let each = (dhat::HeapStats::get().curr_bytes - before) / CACHES;
    println!("{each} bytes per cache, including the token");
    // Each core has its own copy of the token, up to four.
    let copies = std::thread::available_parallelism().map_or(4, |cores| cores.get().min(4));
    let allowed = 1_800 + 640 * copies + token().len();
    assert!(each <= allowed, "{each} bytes per cache instead of {allowed}");
    assert_eq!(runtime.metrics().num_alive_tasks(), 0);
    drop(caches);
    assert_eq!(Arc::strong_count(&alive), 1, "a source was not dropped");
    let left = dhat::HeapStats::get().curr_bytes.saturating_sub(before);
    assert!(left < 64 * 1024, "{left} bytes were not freed");
}

#[test]
fn a_dropped_cache_is_freed_when_its_refresh_ends() {
    let (_lock, _profiler) = counting();
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

/// Counts how often a text occurs in this process's memory. It is passed backwards, so that the
/// argument itself is not found.
#[cfg(target_os = "linux")]
fn in_memory(backwards: &[u8]) -> usize {
    use std::os::unix::fs::FileExt as _;
    const PIECE: u64 = 1 << 16;
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    // So large that it lies apart from the rest. Otherwise it could be read into itself.
    let mut buffer = vec![0; 64 << 20];
    let own = buffer.as_ptr_range();
    let own = own.start.addr() as u64..own.end.addr() as u64;
    let piece = &mut buffer[..PIECE as usize + backwards.len() - 1];
    let mut found = 0;
    for map in maps.lines().filter(|map| map.contains("rw-p")) {
        let (from, to) = map.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let pieces = (number(from)..number(to)).step_by(PIECE as usize);
        for at in pieces.filter(|at| !own.contains(at)) {
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
fn a_tokens_text_is_overwritten_when_its_last_copy_is_dropped() {
    const BACKWARDS: &[u8] = b"ereh-morf-daer-si-ti-litnu-txet-on-si-siht";
    let (_lock, _profiler) = counting();
    let cache = TokenCache::new(source_fn(|_| async {
        let text: String = BACKWARDS.iter().rev().copied().map(char::from).collect();
        Token::bearer(text, DAY)
    }));
    let runtime = runtime();
    let token = runtime.block_on(cache.token()).unwrap();
    let header = token.header().1.clone();
    drop((cache, token));
    assert_eq!(in_memory(BACKWARDS), 1, "only the header is left");
    drop((header, runtime));
    assert_eq!(in_memory(BACKWARDS), 0);
}

/// Returns 50 MB in pieces that begin like a rejection but do not turn out to be one.
fn large_body() -> reqwest::Body {
    const PIECE: usize = 16 * 1024;
    let begin = stream::iter([Ok::<_, Infallible>(br#"{"errors":[{"message":""#.to_vec())]);
    let pieces = stream::iter(0..50 * 1024 * 1024 / PIECE).map(|_| Ok(vec![b'x'; PIECE]));
    reqwest::Body::wrap_stream(begin.chain(pieces))
}

/// Replaces the network, so that two runs differ only in the middleware.
struct LargeResponse;

#[async_trait]
impl Middleware for LargeResponse {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let response = http::Response::builder()
            .header("content-type", "application/json")
            .url(request.url().clone());
        Ok(response.body(large_body()).unwrap().into())
    }
}

#[test]
fn a_large_response_is_not_buffered() {
    const URL: &str = "https://cm.example/sitecore/api/authoring/graphql/v1/";
    /// Returns the peak memory use while the response is read piece by piece.
    fn peak(stack: impl FnOnce(ClientBuilder) -> ClientBuilder) -> usize {
        let (_lock, _profiler) = counting();
        let in_use = || dhat::HeapStats::get().curr_bytes;
        let client = stack(ClientBuilder::new(reqwest::Client::new())).with(LargeResponse).build();
        runtime().block_on(async {
            let before = in_use();
            let mut response = client.get(URL).send().await.unwrap();
            let (mut length, mut most) = (0, in_use());
            while let Some(piece) = response.chunk().await.unwrap() {
                length += piece.len();
                most = most.max(in_use());
            }
            assert!(length > 50_000_000);
            most - before
        })
    }
    let bare = peak(|client| client);
    let ours = peak(|client| {
        let cache = TokenCache::new(source_fn(|_| async { Token::bearer(token(), DAY) }));
        let target = Target::authoring("cm.example").unwrap();
        client.with(AuthMiddleware::builder(cache).target(target).build().unwrap())
    });
    println!("{bare} bytes without the middleware, {ours} with it");
    assert!(ours.saturating_sub(bare) < 64 * 1024, "{bare} without, {ours} with");
}

/// Passes every request on, and does nothing else.
struct PassOn;

#[async_trait]
impl Middleware for PassOn {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        next.run(request, extensions).await
    }
}

/// Replaces the network with a JSON response.
struct JsonResponse;

#[async_trait]
impl Middleware for JsonResponse {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let response = http::Response::builder().url(request.url().clone());
        let response = response.header("content-type", "application/json");
        Ok(response.body("{}").unwrap().into())
    }
}

#[test]
fn the_middleware_costs_few_allocations() {
    /// Returns the fewest allocations of a call through this middleware.
    fn blocks(path: &str, middleware: impl Middleware) -> u64 {
        let (_lock, _profiler) = counting();
        let client =
            ClientBuilder::new(reqwest::Client::new()).with(middleware).with(JsonResponse).build();
        let runtime = runtime();
        let url = format!("https://api.example{path}");
        let call = || {
            let request = client.get(&url).header("accept", "*/*").build().unwrap();
            let before = dhat::HeapStats::get().total_blocks;
            runtime.block_on(client.execute(request)).unwrap();
            dhat::HeapStats::get().total_blocks - before
        };
        (0..20).map(|_| call()).min().unwrap()
    }
    let ours = |replay| {
        let cache = TokenCache::new(source_fn(|_| async { Token::bearer(token(), DAY) }));
        let target = Target::origin("https://api.example".parse().unwrap()).unwrap();
        AuthMiddleware::builder(cache).target(target).replay(replay).build().unwrap()
    };
    let authoring = "/sitecore/api/authoring/graphql/v1/";
    let least = blocks("/x", PassOn);
    let added = |path, replay| blocks(path, ours(replay)) - least;
    let [without, with, inspecting] =
        [added("/x", false), added("/x", true), added(authoring, true)];
    println!("added allocations: {without}, {with} with replay, {inspecting} if inspecting");
    assert_eq!(without, 0);
    // The copy of the request, as reqwest makes it.
    assert!(with <= 8, "{with}");
    assert!(inspecting <= 15, "{inspecting}");
}
