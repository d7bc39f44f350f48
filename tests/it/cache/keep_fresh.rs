//! Renewal without traffic, and what a health endpoint sees.

use std::time::Duration;

use sitecore_auth::{ErrorKind, Freshness, ManualClock, Token, TokenCache, source_fn};
use tokio::time::{advance, sleep, timeout};

use crate::support::{DAY, HOUR, PausedClock, SECOND, ScriptedSource, Step, cache_of, spawn, text};

#[tokio::test(start_paused = true)]
async fn an_empty_cache_is_filled_and_kept_fresh_without_traffic() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    spawn(cache.keep_fresh());
    sleep(SECOND).await;
    assert_eq!(text(&cache.current().expect("it fetched")), "token-1");
    for day in 1..=10 {
        // Renewed at 0.8 of each life, without anybody calling.
        sleep(DAY.mul_f64(0.8)).await;
        assert_eq!(source.calls(), 1 + day);
        assert_eq!(cache.status().freshness(), Some(Freshness::Fresh));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_one_grant_per_gate_without_traffic_too() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Unavailable));
    let cache = cache_of(&source, PausedClock::new());
    spawn(cache.keep_fresh());
    sleep(HOUR).await;
    // One grant each, 1 s doubling to 30 s apart.
    assert!((115..=126).contains(&source.calls()), "{}", source.calls());
    source.turn_to(Step::Grant(DAY));
    sleep(31 * SECOND).await;
    assert!(cache.current().is_some());
}

#[tokio::test(start_paused = true)]
async fn waking_from_suspend_is_noticed_within_half_a_minute() {
    let clock = PausedClock::new();
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, clock.clone());
    spawn(cache.keep_fresh());
    sleep(HOUR + 7 * SECOND).await;
    assert_eq!(source.calls(), 1);
    clock.wall_forward(2 * DAY);
    sleep(30 * SECOND + SECOND).await;
    assert_eq!((source.calls(), cache.status().freshness()), (2, Some(Freshness::Fresh)));
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_last_handle() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    let kept = spawn(cache.keep_fresh());
    sleep(HOUR).await;
    let clone = cache.clone();
    drop(cache);
    sleep(HOUR).await;
    assert!(!kept.is_finished());
    drop(clone);
    timeout(SECOND / 10, kept).await.expect("it ends at once").expect("it does not panic");
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_last_handle_although_a_refresh_hangs() {
    let source = ScriptedSource::new([], Step::Hang);
    let cache = cache_of(&source, PausedClock::new());
    let kept = spawn(cache.keep_fresh());
    sleep(SECOND).await;
    drop(cache);
    timeout(31 * SECOND, kept)
        .await
        .expect("it ends with that refresh")
        .expect("it does not panic");
}

#[tokio::test(start_paused = true)]
async fn it_idles_for_a_key_without_expiry() {
    let source = source_fn(|_| async { Token::api_key("sc_apikey".parse().unwrap(), "key") });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    let kept = spawn(cache.keep_fresh());
    sleep(100 * DAY).await;
    assert_eq!(cache.status().token_requests(), 1);
    assert_eq!((cache.status().usable_for(), cache.status().next_attempt_in()), (None, None));
    drop(cache);
    timeout(SECOND, kept).await.expect("it ends").expect("it does not panic");
}

#[test]
fn outside_a_runtime_it_ends_at_once() {
    let cache = TokenCache::new(ScriptedSource::granting(DAY));
    let kept = cache.keep_fresh();
    assert!(futures_util::FutureExt::now_or_never(kept).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_status_tells_how_things_stand() {
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
    assert_eq!(failed.last_error().map(sitecore_auth::Error::kind), Some(ErrorKind::Malformed));
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
    crate::support::settle().await;
    let stale = cache.status();
    assert_eq!(
        (stale.freshness(), stale.is_usable(), stale.is_refreshing()),
        (Some(Freshness::Stale), true, false)
    );
    assert_eq!(
        (stale.last_error().map(sitecore_auth::Error::kind), stale.next_attempt_in()),
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
async fn a_manual_clock_moves_when_it_is_told_to() {
    let clock = ManualClock::new();
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, clock.clone());
    cache.token().await.unwrap();
    clock.advance(HOUR);
    assert_eq!(cache.status().age(), Some(HOUR));
    clock.suspend(HOUR);
    assert_eq!(cache.status().age(), Some(2 * HOUR));
    clock.set_wall(Duration::from_secs(1_000));
    // The wall clock is useless now, and the monotonic one did not see the suspend.
    assert_eq!(cache.status().age(), Some(HOUR));
    clock.advance(DAY);
    assert!(cache.current().is_none());
}
