//! Spans and events: their fields, and how often and in which span they are logged.

use std::sync::Mutex;

use async_trait::async_trait;
use metrics_exporter_prometheus::PrometheusBuilder;
use sitecore_auth::{Error, ErrorKind, FetchContext, Token, TokenCache, TokenSource, source_fn};
use tokio::time::advance;

use super::{COOLDOWN_UNTIL, client_of, gauge};
use crate::support::{
    DAY, HOUR, Logs, PausedClock, SECOND, ScriptedSource, Step, cache_of, settle,
};

#[tokio::test(start_paused = true)]
async fn each_refresh_logs_its_reason_attempts_and_outcome() {
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
    let positions: Vec<_> = [
        r#"token_refresh{reason="empty" attempts=2 outcome="refreshed"}: "#,
        r#"token_refresh{reason="requested" attempts=1 outcome="refreshed"}: "#,
        r#"token_refresh{reason="stale" attempts=1 outcome="refreshed"}: "#,
        r#"token_refresh{reason="expired" attempts=1 outcome="refused"}: "#,
    ]
    .iter()
    .map(|span| text.find(span))
    .collect();
    assert!(
        positions.is_sorted() && positions.iter().all(Option::is_some),
        "{positions:?} in {text}"
    );
}

/// Returns the lines that contain this text.
fn lines<'a>(log: &'a str, part: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(part)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_new_token_is_logged_when_it_arrives_and_when_it_is_put_to_use() {
    let logs = Logs::capture();
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.unwrap();
    advance(20 * HOUR).await;
    cache.current().expect("a stale token");
    settle().await;
    assert_eq!(lines(&logs.text(), "token refreshed").len(), 2);
    assert!(lines(&logs.text(), "put to use").is_empty());
    advance(HOUR).await;
    let second = cache.current().expect("a settled token");
    cache.current().expect("the same one");
    let text = logs.text();
    let [line] = lines(&text, "token put to use after settling")[..] else { panic!("{text}") };
    assert!(line.contains(&second.fingerprint().to_string()), "{line}");
}

#[tokio::test]
async fn an_adopted_token_is_not_logged_as_refreshed() {
    let logs = Logs::capture();
    let adopted = source_fn(|_| async { Ok(Token::bearer("adopted", DAY)?.adopted()) });
    TokenCache::new(adopted).token().await.unwrap();
    assert!(lines(&logs.text(), "token refreshed").is_empty(), "{}", logs.text());
}

#[tokio::test(start_paused = true)]
async fn each_failure_is_logged_once_and_names_its_cache_if_that_has_a_name() {
    let failure = Error::new(ErrorKind::Refused, "always the same");
    for (name, field) in [("", None), ("edge", Some(r#"cache="edge""#))] {
        let logs = Logs::capture();
        let failure = failure.clone();
        let source = source_fn(move |_| {
            let failure = failure.clone();
            async move { Err(failure) }
        });
        let builder = TokenCache::builder(source).clock(PausedClock::new()).name(name);
        let cache = builder.build().unwrap();
        for _ in 0..2 {
            cache.token().await.unwrap_err();
            cache.token().await.unwrap_err();
            advance(SECOND).await;
            // This starts a check for new credentials.
            cache.token().await.unwrap_err();
            advance(HOUR).await;
        }
        let text = logs.text();
        let failures = lines(&text, "token refresh failed");
        let checks = lines(&text, "credentials unchanged");
        assert_eq!((failures.len(), checks.len()), (2, 2), "{text}");
        for line in failures.into_iter().chain(checks) {
            let (_, event) = line.rsplit_once("}: ").unwrap_or(("", line));
            assert_eq!(event.contains("cache="), field.is_some(), "{line}");
            assert!(field.is_none_or(|field| event.contains(field)), "{line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_that_continues_is_logged_once() {
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
    assert!(text.contains("credentials unchanged, still backing off"), "{text}");
    let metrics = recorder.handle().render();
    // The gauge still shows the cooldown, which lasts a minute.
    assert!(gauge(&metrics, &format!("{COOLDOWN_UNTIL}{{cache=\"\"}} ")) > 40.0);
    let refreshes = "sitecore_auth_refresh_seconds_count";
    let refreshes = metrics.lines().filter(|line| line.starts_with(refreshes));
    assert_eq!(
        refreshes.collect::<Vec<_>>(),
        [r#"sitecore_auth_refresh_seconds_count{cache="",reason="empty",outcome="refused"} 1"#]
    );
}

/// Is refused, and then asked for new credentials: the checks end like this, one after the other.
struct Refused(Mutex<Vec<Option<bool>>>);

#[async_trait]
impl TokenSource for Refused {
    async fn fetch(&self, _: FetchContext<'_>) -> Result<Token, Error> {
        Err(Error::new(ErrorKind::Refused, "scripted"))
    }

    async fn has_new_credentials(&self) -> bool {
        let next = self.0.lock().unwrap().remove(0);
        next.expect("a check that panics")
    }
}

#[tokio::test(start_paused = true)]
async fn checks_for_new_credentials_and_freezes_are_logged() {
    let logs = Logs::capture();
    let clock = PausedClock::new();
    let source = Refused(Mutex::new(vec![None, Some(false), Some(true)]));
    let cache = TokenCache::builder(source).clock(clock.clone()).build().unwrap();
    for _ in 0..4 {
        cache.token().await.unwrap_err();
        advance(4 * SECOND).await;
    }
    let source = ScriptedSource::new([Step::Hang], Step::Grant(DAY));
    let cache = cache_of(&source, clock.clone());
    let caller = cache.token();
    tokio::pin!(caller);
    assert!(futures_util::poll!(&mut caller).is_pending());
    settle().await;
    clock.wall_forward(DAY);
    caller.await.expect("another refresh");
    let text = logs.text();
    for line in [
        "DEBUG sitecore_auth::cache::refresh: check for new credentials failed, still backing off",
        "DEBUG sitecore_auth::cache::refresh: credentials unchanged, still backing off",
        "INFO sitecore_auth::cache::refresh: credentials changed, ending the cooldown",
        "token refresh lost, because the process stood still",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_about_a_rejected_token_name_the_cache_and_the_api() {
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
        let line = text.lines().find(|logged| logged.contains(line)).expect(line);
        for field in [r#"cache="deploy""#, r#"api="https://api.example/""#] {
            assert!(line.contains(field), "{line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_distinguishes_caches_in_logs() {
    let logs = Logs::capture();
    let cache = TokenCache::builder(ScriptedSource::granting(DAY)).name("deploy");
    cache.build().unwrap().token().await.unwrap();
    let text = logs.text();
    assert!(text.contains(r#"token_refresh{cache="deploy" reason="empty""#), "{text}");
}

#[tokio::test]
async fn the_middleware_logs_within_the_callers_span() {
    let logs = Logs::capture();
    let cache = cache_of(&ScriptedSource::granting(DAY), PausedClock::new());
    let client = client_of(cache);
    client.get("https://other.example/").send().await.unwrap();
    let text = logs.text();
    let line = text.lines().find(|line| line.contains("request matched no target"));
    assert!(line.expect("the event").contains("of_the_caller"), "{text}");
}
