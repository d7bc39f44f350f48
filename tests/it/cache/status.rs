//! What a health endpoint sees of a cache.

use std::time::Duration;

use serde_json::{Value, json};
use sitecore_auth::{Error, ErrorKind, Freshness, ManualClock};
use tokio::time::advance;

use crate::support::{DAY, HOUR, PausedClock, SECOND, ScriptedSource, Step, cache_of, settle};

#[tokio::test(start_paused = true)]
async fn a_cache_whose_token_has_settled_in_the_meantime_is_usable() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.unwrap();
    advance(20 * HOUR).await;
    cache.current().expect("a stale token");
    settle().await;
    assert_eq!(cache.status().freshness(), Some(Freshness::Stale));
    // No caller for hours. The previous token has expired by then.
    advance(6 * HOUR).await;
    let status = cache.status();
    assert_eq!((status.is_usable(), status.freshness()), (true, Some(Freshness::Fresh)));
}

#[tokio::test(start_paused = true)]
async fn the_program_can_retry_at_once_and_ask_for_a_token_that_lasts() {
    let wait = Step::FailFor(ErrorKind::RateLimited, HOUR);
    let source = ScriptedSource::new([wait], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.expect_err("a rate limit");
    cache.token().await.expect_err("a cooldown");
    cache.retry_now();
    let first = cache.token().await.expect("no cooldown");
    advance(20 * HOUR).await;
    let second = cache.token_valid_for(10 * HOUR).await.expect("a new token");
    assert_ne!(first.fingerprint(), second.fingerprint());
    let shown = format!("Fingerprint({})", first.fingerprint());
    assert_eq!(format!("{:?}", first.fingerprint()), shown);
    assert_eq!(source.calls(), 3);
    // It rejects nothing: other callers keep the first one while the new one settles.
    assert_eq!(cache.token().await.unwrap().fingerprint(), first.fingerprint());
    let error = cache.token_valid_for(25 * HOUR).await.expect_err("no token lasts that long");
    assert_eq!((error.kind(), source.calls()), (ErrorKind::Config, 3));
}

#[tokio::test(start_paused = true)]
async fn the_status_describes_each_state_of_a_cache() {
    let source = ScriptedSource::new(
        [Step::Fail(ErrorKind::Malformed), Step::Grant(DAY)],
        Step::Fail(ErrorKind::Refused),
    );
    let cache = cache_of(&source, PausedClock::new());
    let empty = cache.status();
    assert_eq!((empty.freshness(), empty.is_usable(), empty.token_requests()), (None, false, 0));
    assert_eq!((empty.age(), empty.usable_for(), empty.expires_at()), (None, None, None));
    assert_eq!((empty.next_attempt_in(), empty.is_refreshing()), (Some(Duration::ZERO), false));
    assert!(
        empty.last_error().is_none() && empty.fingerprint().is_none() && empty.quota().is_none()
    );

    assert!(cache.token().await.is_err());
    assert!(format!("{empty:?}").contains("usable_for: None"), "{empty:?}");
    let failed = cache.status();
    assert_eq!(failed.last_error().map(Error::kind), Some(ErrorKind::Malformed));
    assert_eq!((failed.next_attempt_in(), failed.token_requests()), (Some(SECOND), 1));

    advance(SECOND).await;
    let token = cache.token().await.unwrap();
    advance(HOUR).await;
    let fresh = cache.status();
    assert_eq!(
        (fresh.freshness(), fresh.is_usable(), fresh.token_requests()),
        (Some(Freshness::Fresh), true, 2)
    );
    assert_eq!((fresh.age(), fresh.usable_for()), (Some(HOUR), Some(DAY - HOUR - 60 * SECOND)));
    assert_eq!(
        (fresh.fingerprint(), fresh.expires_at()),
        (Some(token.fingerprint()), token.expires_at())
    );
    assert_eq!(fresh.next_attempt_in(), Some(DAY.mul_f64(0.8) - HOUR));
    assert!(fresh.last_error().is_none());

    advance(19 * HOUR).await;
    assert!(cache.current().is_some());
    assert!(cache.status().is_refreshing());
    settle().await;
    let stale = cache.status();
    assert_eq!(
        (stale.freshness(), stale.is_usable(), stale.is_refreshing()),
        (Some(Freshness::Stale), true, false)
    );
    assert_eq!(
        (stale.last_error().map(Error::kind), stale.next_attempt_in()),
        (Some(ErrorKind::Refused), Some(60 * SECOND))
    );
    assert!(!format!("{stale:?}{stale:#?}").contains("token-1"));

    advance(5 * HOUR).await;
    let expired = cache.status();
    assert_eq!(
        (expired.freshness(), expired.is_usable(), expired.usable_for()),
        (Some(Freshness::Expired), false, Some(Duration::ZERO))
    );
}

#[tokio::test]
async fn a_status_can_be_serialized_without_a_secret() {
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Fail(ErrorKind::Refused));
    let clock = ManualClock::new();
    let cache = cache_of(&source, clock.clone());
    let empty = serde_json::to_value(cache.status()).unwrap();
    assert_eq!((&empty["is_ready"], &empty["freshness"]), (&json!(true), &Value::Null));
    let token = cache.token().await.unwrap();
    let fresh = serde_json::to_value(cache.status()).unwrap();
    assert_eq!((&fresh["is_ready"], &fresh["freshness"]), (&json!(true), &json!("fresh")));
    assert_eq!(fresh["fingerprint"], token.fingerprint().to_string());
    assert_eq!((&fresh["usable_for"], &fresh["token_requests"]), (&json!(86_340.0), &json!(1)));
    assert!(fresh["expires_at"].as_str().unwrap().contains('T'));
    clock.advance(DAY);
    cache.token().await.unwrap_err();
    let expired = serde_json::to_value(cache.status()).unwrap();
    assert_eq!((&expired["is_ready"], &expired["freshness"]), (&json!(false), &json!("expired")));
    assert!(expired["last_error"].as_str().unwrap().contains("scripted"));
    assert!(!expired.to_string().contains("token-1"), "{expired}");
}
