//! What the cache, the layer and the store tell: spans, events, counts.

use std::{sync::atomic::Ordering, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use http::Extensions;
use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use sitecore_auth::{AuthMiddleware, ErrorKind, Target, TokenCache};
use tokio::time::{advance, sleep};
use tracing::{Instrument as _, info_span};

use crate::support::{Logs, Memory, PausedClock, ScriptedSource, Step, cache_of, caches, settle};

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

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
        r#"token_refresh{reason="empty" grants=2 outcome="renewed"}: "#,
        r#"token_refresh{reason="forced" grants=1 outcome="renewed"}: "#,
        r#"token_refresh{reason="stale" grants=1 outcome="renewed"}: "#,
        r#"token_refresh{reason="expired" grants=1 outcome="refused"}: "#,
    ]
    .iter()
    .map(|span| text.find(span))
    .collect();
    assert!(
        told.is_sorted() && told.iter().all(Option::is_some),
        "{told:?} in {text}"
    );
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
    let warnings = text.lines().filter(|line| line.contains("no new token"));
    assert_eq!(warnings.count(), 1, "{text}");
    assert!(
        text.contains(r#"grants=0 outcome="still_closed"}: "#),
        "{text}"
    );
    let said = recorder.handle().render();
    let refreshes = "sitecore_auth_refresh_seconds_count";
    let refreshes = said.lines().filter(|line| line.starts_with(refreshes));
    assert_eq!(
        refreshes.collect::<Vec<_>>(),
        [r#"sitecore_auth_refresh_seconds_count{cache="",reason="empty",outcome="refused"} 1"#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_granted_once_more_closes_no_gate() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let logs = Logs::capture();
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Same(1, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    cache.replace(&first).await.unwrap_err();
    assert!(logs.text().contains("no new token"));
    let said = recorder.handle().render();
    assert!(!said.contains("sitecore_auth_gate_closed"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn what_is_done_about_a_refusal_names_cache_and_api() {
    let logs = Logs::capture();
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Fail(ErrorKind::Unavailable));
    let cache = TokenCache::builder(source.clone()).name("deploy");
    let cache = cache.clock(PausedClock::new()).build().unwrap();
    let target = Target::origin("https://api.example".parse().unwrap()).unwrap();
    let auth = AuthMiddleware::builder(cache).target(target);
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(auth.build().unwrap())
        .with(RefusesTheFirst)
        .build();
    let call = || client.get("https://api.example/").send();
    assert_eq!(call().await.unwrap().status(), 401);
    source.turn_to(Step::Grant(DAY));
    advance(DAY / 2).await;
    assert_eq!(call().await.unwrap().status(), 200);
    let text = logs.text();
    for line in [
        "the refused token could not be replaced",
        "a request is sent once more",
    ] {
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
    assert!(
        text.contains(r#"token_refresh{cache="deploy" reason="empty""#),
        "{text}"
    );
}

#[tokio::test]
async fn what_a_layer_says_of_a_request_stands_in_its_span() {
    let logs = Logs::capture();
    let cache = cache_of(&ScriptedSource::granting(DAY), PausedClock::new());
    let target = Target::origin("https://api.example".parse().unwrap()).unwrap();
    let auth = AuthMiddleware::builder(cache).target(target);
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(Spans)
        .with(auth.build().unwrap())
        .with(RefusesNone)
        .build();
    client.get("https://other.example/").send().await.unwrap();
    let text = logs.text();
    let line = text
        .lines()
        .find(|line| line.contains("no target of this layer"));
    assert!(line.expect("a line").contains("of_the_caller"), "{text}");
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

struct RefusesNone;

#[async_trait]
impl Middleware for RefusesNone {
    async fn handle(
        &self,
        _: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        Ok(http::Response::new("").into())
    }
}

/// Refuses the first token that it sees, as an API does.
struct RefusesTheFirst;

#[async_trait]
impl Middleware for RefusesTheFirst {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let is_first = request.headers()["authorization"] == "Bearer token-1";
        let status = if is_first { 401 } else { 200 };
        let answer = http::Response::builder().status(status);
        let answer = reqwest::ResponseBuilderExt::url(answer, request.url().clone());
        Ok(answer.body("").unwrap().into())
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
            assert!(
                said.lines().any(|said| said == *line),
                "no {line} in {said}"
            );
        }
    };
    let source = ScriptedSource::new(
        [Step::Fail(ErrorKind::Unavailable), Step::Slow(SECOND, DAY)],
        Step::Grant(DAY),
    );
    let cache = TokenCache::builder(source.clone())
        .name("a")
        .clock(PausedClock::new());
    let cache = cache.build().unwrap();
    join_all((0..10).map(|_| cache.token())).await;
    check(&[
        r#"sitecore_auth_grants_total{cache="a",reason="empty",outcome="unavailable"} 1"#,
        r#"sitecore_auth_grants_total{cache="a",reason="empty",outcome="token"} 1"#,
        r#"sitecore_auth_refresh_seconds_count{cache="a",reason="empty",outcome="renewed"} 1"#,
        r#"sitecore_auth_wait_seconds_count{cache="a",outcome="token"} 10"#,
    ]);

    let gauge = |name: &str| {
        let said = counted.render();
        let mut values = said.lines().filter_map(|line| line.strip_prefix(name));
        let value: f64 = values.next().expect("a gauge").parse().unwrap();
        // The wall clock began with this.
        value - 1_800_100_000.0
    };
    // A day, less the margin, from before the second grant, which came within half a second.
    let usable = gauge("sitecore_auth_usable_until_timestamp_seconds{cache=\"a\"} ");
    assert!((86_340.0..86_340.6).contains(&usable), "{usable}");

    let target = Target::origin("https://api.example".parse().unwrap()).unwrap();
    let auth = AuthMiddleware::builder(cache.clone()).target(target);
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(auth.build().unwrap())
        .with(RefusesTheFirst)
        .build();
    let call = || client.get("https://api.example/").send();
    assert_eq!(call().await.unwrap().status(), 200);
    check(&[
        r#"sitecore_auth_refused_answers_total{cache="a",then="replayed"} 1"#,
        r#"sitecore_auth_grants_total{cache="a",reason="refused",outcome="token"} 1"#,
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
    let until = gauge("sitecore_auth_gate_closed_until_timestamp_seconds{cache=\"a\"} ")
        - 2.0 * DAY.as_secs_f64();
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
        r#"sitecore_auth_store_total{outcome="asked"} 1"#,
        r#"sitecore_auth_store_total{outcome="adopted"} 2"#,
        r#"sitecore_auth_store_total{outcome="unavailable"} 1"#,
    ] {
        assert!(said.lines().any(|said| said == line), "no {line} in {said}");
    }
}
