//! What the cache, the layer and the store tell: spans, events, counts.

use std::{convert::Infallible, io, sync::atomic::Ordering, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use http::Extensions;
use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::{Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use sitecore_auth::{AuthMiddleware, ErrorKind, Target, Token, TokenCache};
use sitecore_token_store::{Lease, Stored, TokenStore};
use tokio::time::{Instant, advance, sleep};
use tracing::{Instrument as _, info_span};

use crate::{
    docs::documented_log_lines,
    support::{
        DAY, HOUR, Logs, Memory, PausedClock, SECOND, ScriptedSource, Step, Tied, cache_of, caches,
        settle, shared,
    },
};

const CLOSED: &str = "sitecore_auth_cooldown_until_timestamp_seconds";

/// What a gauge says, from when the wall clock began.
fn gauge(said: &str, name: &str) -> f64 {
    let value = said.lines().find_map(|line| line.strip_prefix(name));
    value.expect("a gauge").parse::<f64>().unwrap() - 1_800_100_000.0
}

#[tokio::test(start_paused = true)]
async fn each_refresh_tells_its_reason_its_grants_and_its_outcome() {
    let logs = Logs::capture();
    let source = ScriptedSource::new([Step::Fail(ErrorKind::Unavailable)], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    cache.replace(&first).await.unwrap();
    advance(20 * HOUR).await;
    cache.current().expect("a stale token");
    settle().await;
    source.turn_to(Step::Fail(ErrorKind::Refused));
    advance(DAY).await;
    cache.token().await.unwrap_err();
    let text = logs.text();
    let told: Vec<_> = [
        r#"token_refresh{reason="empty" attempts=2 outcome="refreshed"}: "#,
        r#"token_refresh{reason="requested" attempts=1 outcome="refreshed"}: "#,
        r#"token_refresh{reason="stale" attempts=1 outcome="refreshed"}: "#,
        r#"token_refresh{reason="expired" attempts=1 outcome="refused"}: "#,
    ]
    .iter()
    .map(|span| text.find(span))
    .collect();
    assert!(told.is_sorted() && told.iter().all(Option::is_some), "{told:?} in {text}");
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_stays_closed_is_told_once() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let logs = Logs::capture();
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Refused));
    let cache = cache_of(&source, PausedClock::new());
    for _ in 0..20 {
        cache.token().await.unwrap_err();
        advance(SECOND).await;
    }
    assert_eq!(source.calls(), 1);
    let text = logs.text();
    let warnings = text.lines().filter(|line| line.contains("token refresh failed"));
    assert_eq!(warnings.count(), 1, "{text}");
    assert!(text.contains(r#"attempts=0 outcome="credentials_unchanged"}: "#), "{text}");
    let said = recorder.handle().render();
    // Nor does it look open meanwhile: a minute, less a quarter, are left at first.
    assert!(gauge(&said, &format!("{CLOSED}{{cache=\"\"}} ")) > 40.0);
    let refreshes = "sitecore_auth_refresh_seconds_count";
    let refreshes = said.lines().filter(|line| line.starts_with(refreshes));
    assert_eq!(
        refreshes.collect::<Vec<_>>(),
        [r#"sitecore_auth_refresh_seconds_count{cache="",reason="empty",outcome="refused"} 1"#]
    );
}

#[tokio::test(start_paused = true)]
async fn the_gauge_of_the_gate_tells_when_it_is_open() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let begun = Instant::now();
    // By how much the gate is closed for longer than now.
    let closed_for = || {
        let until = gauge(&recorder.handle().render(), &format!("{CLOSED}{{cache=\"\"}} "));
        until - begun.elapsed().as_secs_f64()
    };
    // A refusal closes it for a minute, unless there are new credentials.
    let refusing = Step::Fail(ErrorKind::Refused);
    let source = ScriptedSource::new([refusing.clone()], Step::Grant(DAY));
    let cache = TokenCache::builder(Tied(source.clone(), "new")).clock(PausedClock::new());
    let cache = cache.build().unwrap();
    cache.token().await.unwrap_err();
    assert!(closed_for() > 40.0);
    advance(2 * SECOND).await;
    let first = cache.token().await.unwrap();
    assert!(closed_for() <= 0.0);
    // The same token once more is no reason to leave the issuer alone.
    source.turn_to(Step::Same(1, DAY));
    cache.replace(&first).await.unwrap_err();
    assert!(closed_for() <= 0.0);
    advance(20 * HOUR).await;
    for (step, is_closed) in [(refusing, true), (Step::Same(1, DAY), false)] {
        source.turn_to(step);
        cache.current().expect("a stale token");
        settle().await;
        assert_eq!(closed_for() > 20.0, is_closed);
        advance(2 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_done_about_a_refusal_names_cache_and_api() {
    let logs = Logs::capture();
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Fail(ErrorKind::Unavailable));
    let cache = TokenCache::builder(source.clone()).name("deploy");
    let cache = cache.clock(PausedClock::new()).build().unwrap();
    let client = client_of(cache);
    let call = || client.get("https://api.example/").send();
    assert_eq!(call().await.unwrap().status(), 401);
    source.turn_to(Step::Grant(DAY));
    advance(DAY / 2).await;
    assert_eq!(call().await.unwrap().status(), 200);
    let text = logs.text();
    for line in ["could not replace rejected token", "retrying request with another token"] {
        let line = text.lines().find(|said| said.contains(line)).expect(line);
        for field in [r#"cache="deploy""#, r#"api="https://api.example/""#] {
            assert!(line.contains(field), "{line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_tells_caches_apart_in_logs() {
    let logs = Logs::capture();
    let cache = TokenCache::builder(ScriptedSource::granting(DAY)).name("deploy");
    cache.build().unwrap().token().await.unwrap();
    let text = logs.text();
    assert!(text.contains(r#"token_refresh{cache="deploy" reason="empty""#), "{text}");
}

#[tokio::test]
async fn what_a_layer_says_of_a_request_stands_in_its_span() {
    let logs = Logs::capture();
    let cache = cache_of(&ScriptedSource::granting(DAY), PausedClock::new());
    let client = client_of(cache);
    client.get("https://other.example/").send().await.unwrap();
    let text = logs.text();
    let line = text.lines().find(|line| line.contains("request matched no target"));
    assert!(line.expect("a line").contains("of_the_caller"), "{text}");
}

/// Stands for the network: refuses the first token of a source at `/`, and answers other paths by their names.
struct Canned;

#[async_trait]
impl Middleware for Canned {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let token = request.headers().get("authorization");
        let is_first = token.is_some_and(|token| token == "Bearer token-1");
        let (status, from) = match request.url().path() {
            "/forbidden" => (403, request.url().clone()),
            "/elsewhere" => (200, "https://other.example/".parse().unwrap()),
            "/refused" => (401, request.url().clone()),
            _ => (if is_first { 401 } else { 200 }, request.url().clone()),
        };
        let answer = http::Response::builder().status(status).url(from);
        Ok(answer.body("").unwrap().into())
    }
}

/// A client of `https://api.example/` on that network, with a layer around ours that has a span.
fn client_of(cache: TokenCache) -> ClientWithMiddleware {
    let target = Target::origin("https://api.example".parse().unwrap()).unwrap();
    let auth = AuthMiddleware::builder(cache).target(target);
    ClientBuilder::new(reqwest::Client::new())
        .with(Spans)
        .with(auth.build().unwrap())
        .with(Canned)
        .build()
}

/// Gives what is below it a span, as layers for tracing do.
struct Spans;

#[async_trait]
impl Middleware for Spans {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let answer = next.run(request, extensions);
        answer.instrument(info_span!("of_the_caller")).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let counted = recorder.handle();
    let check = |lines: &[&str]| {
        let said = counted.render();
        for line in lines {
            assert!(said.lines().any(|said| said == *line), "no {line} in {said}");
        }
    };
    let source = ScriptedSource::new(
        [Step::Fail(ErrorKind::Unavailable), Step::Slow(SECOND, DAY)],
        Step::Grant(DAY),
    );
    let cache = TokenCache::builder(source.clone()).name("a").clock(PausedClock::new());
    let cache = cache.build().unwrap();
    join_all((0..10).map(|_| cache.token())).await;
    check(&[
        r#"sitecore_auth_token_requests_total{cache="a",reason="empty",outcome="unavailable"} 1"#,
        r#"sitecore_auth_token_requests_total{cache="a",reason="empty",outcome="token"} 1"#,
        r#"sitecore_auth_refresh_seconds_count{cache="a",reason="empty",outcome="refreshed"} 1"#,
        r#"sitecore_auth_wait_seconds_count{cache="a",outcome="token"} 10"#,
    ]);

    let gauge = |name: &str| gauge(&counted.render(), &format!("{name}{{cache=\"a\"}} "));
    // A day, less the margin, from before the second grant, which came within half a second.
    let usable = gauge("sitecore_auth_usable_until_timestamp_seconds");
    assert!((86_340.0..86_340.6).contains(&usable), "{usable}");

    let client = client_of(cache.clone());
    let call = || client.get("https://api.example/").send();
    assert_eq!(call().await.unwrap().status(), 200);
    check(&[
        r#"sitecore_auth_rejected_responses_total{cache="a",action="replayed"} 1"#,
        r#"sitecore_auth_token_requests_total{cache="a",reason="rejected",outcome="token"} 1"#,
    ]);

    // A fresh token counts nothing.
    let sorted = || {
        let said = counted.render();
        let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = sorted();
    call().await.unwrap();
    assert_eq!(sorted(), before);

    source.turn_to(Step::FailFor(ErrorKind::RateLimited, 100 * SECOND));
    sleep(2 * DAY).await;
    cache.token().await.unwrap_err();
    let until = gauge(CLOSED) - 2.0 * DAY.as_secs_f64();
    assert!((100.0..115.0).contains(&until), "{until}");
}

#[tokio::test(start_paused = true)]
async fn what_a_store_is_good_for_is_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let counted = recorder.handle();
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::granting(DAY);
    let four = caches(4, &source, &store, &clock);
    for cache in &four[..3] {
        cache.token().await.unwrap();
    }
    store.is_down.store(true, Ordering::SeqCst);
    four[3].token().await.unwrap();
    let said = counted.render();
    for line in [
        r#"sitecore_auth_store_total{outcome="requested"} 1"#,
        r#"sitecore_auth_store_total{outcome="adopted"} 2"#,
        r#"sitecore_auth_store_total{outcome="unavailable"} 1"#,
    ] {
        assert!(said.lines().any(|said| said == line), "no {line} in {said}");
    }
}

/// Takes no lease back.
struct KeepsLeases(Memory);

#[async_trait]
impl TokenStore for KeepsLeases {
    async fn load(&self, name: &str) -> io::Result<Option<Stored>> {
        self.0.load(name).await
    }

    async fn save(&self, name: &str, entry: &[u8], keep: Duration) -> io::Result<()> {
        self.0.save(name, entry, keep).await
    }

    async fn try_lease(&self, name: &str, life: Duration) -> io::Result<Option<Lease>> {
        self.0.try_lease(name, life).await
    }

    async fn release(&self, _: &str, _: Lease) -> io::Result<()> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

#[tokio::test(start_paused = true)]
async fn everything_that_operations_names_is_said() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let logs = Logs::capture();
    let clock = PausedClock::new();

    // Each reason and each outcome of a refresh.
    let source = ScriptedSource::new([Step::Fail(ErrorKind::Unavailable)], Step::Grant(DAY));
    let cache = cache_of(&source, clock.clone());
    let first = cache.token().await.unwrap();
    cache.replace(&first).await.unwrap();
    source.turn_to(Step::Same(2, DAY));
    advance(20 * HOUR).await;
    cache.current().expect("a stale token");
    settle().await;
    advance(DAY).await;
    source.turn_to(Step::Grant(DAY));
    cache.token().await.unwrap();
    for kind in [
        ErrorKind::Config,
        ErrorKind::Refused,
        ErrorKind::RateLimited,
        ErrorKind::Unavailable,
        ErrorKind::Malformed,
        ErrorKind::Timeout,
    ] {
        let cache = cache_of(&ScriptedSource::new([], Step::Fail(kind)), clock.clone());
        cache.token().await.unwrap_err();
        advance(2 * SECOND).await;
        cache.token().await.unwrap_err();
    }

    // Each thing that is done about an answer.
    let source = ScriptedSource::granting(DAY);
    let client = client_of(cache_of(&source, clock.clone()));
    for url in [
        "https://other.example/",
        "https://api.example/forbidden",
        "https://api.example/elsewhere",
        "https://api.example/refused",
    ] {
        client.get(url).send().await.unwrap();
    }
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, Infallible>("a")]));
    advance(HOUR).await;
    let call = client.post("https://api.example/refused").body(body);
    call.send().await.unwrap();
    source.turn_to(Step::Fail(ErrorKind::Unavailable));
    advance(HOUR).await;
    client.get("https://api.example/refused").send().await.unwrap();

    // Each thing that a store is good for, or not.
    let (store, source) = (Memory::default(), ScriptedSource::granting(DAY));
    for cache in caches(2, &source, &store, &clock) {
        cache.token().await.unwrap();
    }
    let store = Memory::default();
    let failing = ScriptedSource::new([], Step::Fail(ErrorKind::Refused));
    for cache in caches(2, &failing, &store, &clock) {
        cache.token().await.unwrap_err();
    }
    let store = Memory::default();
    store.is_stuck.store(true, Ordering::SeqCst);
    caches(1, &source, &store, &clock)[0].token().await.unwrap();
    store.is_down.store(true, Ordering::SeqCst);
    caches(1, &source, &store, &clock)[0].token().await.unwrap();
    let slow = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    let store = Memory::default();
    let cache = caches(1, &slow, &store, &clock).remove(0);
    let going_down = async {
        sleep(SECOND / 2).await;
        store.is_down.store(true, Ordering::SeqCst);
    };
    tokio::join!(async { cache.token().await.unwrap() }, going_down);
    let cache = TokenCache::builder(shared(&source, KeepsLeases(Memory::default())));
    let cache = cache.clock(clock.clone()).build().unwrap();
    cache.token().await.unwrap();

    let text = logs.text();
    // Those of a token answer, of changed credentials and of a missing runtime are provoked where these are tested.
    let elsewhere = ["token response has", "credentials changed", "keep_fresh needs"];
    for (level, line) in documented_log_lines() {
        if elsewhere.iter().any(|other| line.starts_with(other)) {
            continue;
        }
        let is_said = text
            .lines()
            .any(|said| said.split_whitespace().nth(1) == Some(level) && said.contains(&line));
        assert!(is_said, "{level} `{line}` was not said");
    }
    let metrics = recorder.handle().render();
    for label in [
        r#"token_requests_total{cache="",reason="empty",outcome="token"}"#,
        r#"token_requests_total{cache="",reason="requested",outcome="token"}"#,
        r#"token_requests_total{cache="",reason="stale",outcome="token"}"#,
        r#"token_requests_total{cache="",reason="expired",outcome="token"}"#,
        r#"token_requests_total{cache="",reason="rejected",outcome="token"}"#,
        r#"refresh_seconds_count{cache="",reason="empty",outcome="refreshed"}"#,
        r#"refresh_seconds_count{cache="",reason="stale",outcome="unchanged"}"#,
        r#"refresh_seconds_count{cache="",reason="rejected",outcome="unavailable"}"#,
        r#"wait_seconds_count{cache="",outcome="token"}"#,
        r#"rejected_responses_total{cache="",action="replayed"}"#,
        r#"rejected_responses_total{cache="",action="replaced"}"#,
        r#"rejected_responses_total{cache="",action="not_replaced"}"#,
        r#"store_total{outcome="requested"}"#,
        r#"store_total{outcome="adopted"}"#,
        r#"store_total{outcome="failure_adopted"}"#,
        r#"store_total{outcome="unavailable"}"#,
    ] {
        assert!(metrics.contains(label), "{label} was not counted");
    }
    for kind in ["config", "refused", "rate_limited", "unavailable", "malformed", "timeout"] {
        for metric in [
            format!(r#"token_requests_total{{cache="",reason="empty",outcome="{kind}"}}"#),
            format!(r#"refresh_seconds_count{{cache="",reason="empty",outcome="{kind}"}}"#),
            format!(r#"wait_seconds_count{{cache="",outcome="{kind}"}}"#),
        ] {
            assert!(metrics.contains(&metric), "{metric} was not counted");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_without_expiry_has_no_gauge_of_its_end() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let cache = TokenCache::new(sitecore_auth::source_fn(|_| async {
        Token::api_key(http::HeaderName::from_static("sc_apikey"), "a-key")
    }));
    cache.token().await.unwrap();
    let said = recorder.handle().render();
    assert!(
        said.contains("sitecore_auth_token_requests_total") && !said.contains("usable_until"),
        "{said}"
    );
}
