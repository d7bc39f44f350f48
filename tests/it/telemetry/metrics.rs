//! Counters, histograms and gauges.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use metrics_exporter_prometheus::PrometheusBuilder;
use sitecore_auth::{ErrorKind, Token, TokenCache};
use tokio::time::{Instant, advance, sleep};

use super::{COOLDOWN_UNTIL, client_of, gauge};
use crate::support::{
    DAY, HOUR, Memory, PausedClock, SECOND, ScriptedSource, Step, Tied, caches, settle,
};

#[tokio::test(start_paused = true)]
async fn the_cooldown_gauge_reports_when_the_cooldown_ends() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let started = Instant::now();
    // How long the cooldown still lasts by the gauge, in seconds.
    let remaining = || {
        let until = gauge(&recorder.handle().render(), &format!("{COOLDOWN_UNTIL}{{cache=\"\"}} "));
        until - started.elapsed().as_secs_f64()
    };
    // The issuer refuses the client: the cooldown is a minute, unless there are new credentials.
    let refused = Step::Fail(ErrorKind::Refused);
    let source = ScriptedSource::new([refused.clone()], Step::Grant(DAY));
    let cache = TokenCache::builder(Tied(source.clone(), "new")).clock(PausedClock::new());
    let cache = cache.build().unwrap();
    cache.token().await.unwrap_err();
    assert!(remaining() > 40.0);
    advance(2 * SECOND).await;
    let first = cache.token().await.unwrap();
    assert!(remaining() <= 0.0);
    // Getting the same token again starts no cooldown.
    source.turn_to(Step::Same(1, DAY));
    cache.replace(&first).await.unwrap_err();
    assert!(remaining() <= 0.0);
    advance(20 * HOUR).await;
    // The program ends a cooldown.
    source.turn_to(refused.clone());
    cache.current().expect("a stale token");
    settle().await;
    assert!(remaining() > 20.0);
    cache.retry_now();
    assert!(remaining() <= 0.0);
    for (step, starts_cooldown) in [(refused, true), (Step::Same(1, DAY), false)] {
        source.turn_to(step);
        cache.current().expect("a stale token");
        settle().await;
        assert_eq!(remaining() > 20.0, starts_cooldown);
        advance(2 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn token_requests_waits_and_rejected_responses_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let recorded = recorder.handle();
    let check = |lines: &[&str]| {
        let metrics = recorded.render();
        for line in lines {
            assert!(metrics.lines().any(|metric| metric == *line), "no {line} in {metrics}");
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

    let gauge = |name: &str| gauge(&recorded.render(), &format!("{name}{{cache=\"a\"}} "));
    // A day minus the margin, from the second token request, which was sent within half a second.
    let usable = gauge("sitecore_auth_usable_until_timestamp_seconds");
    assert!((86_340.0..86_340.6).contains(&usable), "{usable}");

    let client = client_of(cache.clone());
    let call = || client.get("https://api.example/").send();
    assert_eq!(call().await.unwrap().status(), 200);
    check(&[
        r#"sitecore_auth_rejected_responses_total{cache="a",action="replayed"} 1"#,
        r#"sitecore_auth_token_requests_total{cache="a",reason="rejected",outcome="token"} 1"#,
    ]);

    // Using a fresh token records nothing.
    let sorted = || {
        let metrics = recorded.render();
        let mut lines: Vec<_> = metrics.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = sorted();
    call().await.unwrap();
    assert_eq!(sorted(), before);

    source.turn_to(Step::FailFor(ErrorKind::RateLimited, 100 * SECOND));
    sleep(2 * DAY).await;
    cache.token().await.unwrap_err();
    let until = gauge(COOLDOWN_UNTIL) - 2.0 * DAY.as_secs_f64();
    assert!((100.0..115.0).contains(&until), "{until}");
}

#[tokio::test(start_paused = true)]
async fn uses_of_a_store_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let recorded = recorder.handle();
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::granting(DAY);
    let four = caches(4, &source, &store, &clock);
    for cache in &four[..3] {
        cache.token().await.unwrap();
    }
    store.is_down.store(true, Ordering::SeqCst);
    four[3].token().await.unwrap();
    let metrics = recorded.render();
    for line in [
        r#"sitecore_auth_store_total{cache="",outcome="requested",cause=""} 2"#,
        r#"sitecore_auth_store_total{cache="",outcome="adopted",cause=""} 2"#,
        // It fails twice before the process does without it.
        r#"sitecore_auth_store_total{cache="",outcome="unavailable",cause="load"} 2"#,
    ] {
        assert!(metrics.lines().any(|metric| metric == line), "no {line} in {metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_without_expiry_has_no_usable_until_gauge() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let cache = TokenCache::new(sitecore_auth::source_fn(|_| async {
        Token::api_key(http::HeaderName::from_static("sc_apikey"), "a-key")
    }));
    cache.token().await.unwrap();
    let metrics = recorder.handle().render();
    assert!(
        metrics.contains("sitecore_auth_token_requests_total") && !metrics.contains("usable_until"),
        "{metrics}"
    );
}
