//! The log events and metric labels in `docs/operations.md` are emitted.

use std::{convert::Infallible, io, sync::atomic::Ordering, time::Duration};

use async_trait::async_trait;
use metrics_exporter_prometheus::PrometheusBuilder;
use sitecore_auth::{ErrorKind, TokenCache};
use sitecore_token_store::{Lease, Stored, TokenStore};
use tokio::time::{advance, sleep};

use super::client_of;
use crate::{
    docs::documented_log_lines,
    support::{
        DAY, HOUR, Logs, Memory, PausedClock, SECOND, ScriptedSource, Step, cache_of, caches,
        settle, shared,
    },
};

/// A store that fails to release leases.
struct KeepsLeases(Memory);

#[async_trait]
impl TokenStore for KeepsLeases {
    async fn load(&self, name: &str) -> io::Result<Option<Stored>> {
        self.0.load(name).await
    }

    async fn save(&self, name: &str, entry: &[u8], keep: Duration) -> io::Result<()> {
        self.0.save(name, entry, keep).await
    }

    async fn try_lease(&self, name: &str, lifetime: Duration) -> io::Result<Option<Lease>> {
        self.0.try_lease(name, lifetime).await
    }

    async fn release(&self, _: &str, _: Lease) -> io::Result<()> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

#[tokio::test(start_paused = true)]
async fn documented_log_events_and_metric_labels_are_emitted() {
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

    // A token that settles, and one that is identical to the rejected one.
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, clock.clone());
    let first = cache.token().await.unwrap();
    advance(20 * HOUR).await;
    cache.current().expect("a stale token");
    settle().await;
    advance(HOUR).await;
    let second = cache.current().expect("the settled token");
    assert_ne!(first.fingerprint(), second.fingerprint());
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Same(1, DAY));
    let cache = cache_of(&source, clock.clone());
    let first = cache.token().await.unwrap();
    cache.replace(&first).await.unwrap_err();

    // Everything that the middleware does about a response.
    let source = ScriptedSource::granting(DAY);
    let client = client_of(cache_of(&source, clock.clone()));
    for url in [
        "https://other.example/",
        "https://api.example/forbidden",
        "https://api.example/elsewhere",
        "https://api.example/rejected",
    ] {
        client.get(url).send().await.unwrap();
    }
    client.get("https://other.sitecorecloud.io/rejected").send().await.unwrap();
    let call = client.get("https://api.example/rejected").bearer_auth("own");
    call.send().await.unwrap();
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, Infallible>("a")]));
    advance(HOUR).await;
    let call = client.post("https://api.example/rejected").body(body);
    call.send().await.unwrap();
    source.turn_to(Step::Fail(ErrorKind::Unavailable));
    advance(HOUR).await;
    client.get("https://api.example/rejected").send().await.unwrap();

    // Every use of a store, and its failures.
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
    store.is_leased.store(true, Ordering::SeqCst);
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
    // Other tests cover these events.
    let tested_elsewhere = [
        "token response has",
        "credentials changed",
        "keep_fresh needs",
        "check for new credentials failed",
        "token refresh lost",
        "connection of a replay was closed",
    ];
    for (level, line) in documented_log_lines() {
        if tested_elsewhere.iter().any(|other| line.starts_with(other)) {
            continue;
        }
        let is_logged = text.lines().any(|logged| {
            logged.split_whitespace().nth(1) == Some(level) && logged.contains(&line)
        });
        assert!(is_logged, "{level} `{line}` was not logged");
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
        r#"store_total{cache="",outcome="requested",cause=""}"#,
        r#"store_total{cache="",outcome="adopted",cause=""}"#,
        r#"store_total{cache="",outcome="failure_adopted",cause=""}"#,
        r#"store_total{cache="",outcome="unavailable",cause="save"}"#,
    ] {
        assert!(metrics.contains(label), "{label} was not recorded");
    }
    let described = metrics.lines().filter(|line| line.starts_with("# HELP sitecore_auth_"));
    let recorded = metrics.lines().filter(|line| line.starts_with("# TYPE sitecore_auth_"));
    assert_eq!((described.count(), recorded.count()), (7, 7), "{metrics}");
    for kind in ["config", "refused", "rate_limited", "unavailable", "malformed", "timeout"] {
        for metric in [
            format!(r#"token_requests_total{{cache="",reason="empty",outcome="{kind}"}}"#),
            format!(r#"refresh_seconds_count{{cache="",reason="empty",outcome="{kind}"}}"#),
            format!(r#"wait_seconds_count{{cache="",outcome="{kind}"}}"#),
        ] {
            assert!(metrics.contains(&metric), "{metric} was not recorded");
        }
    }
}
