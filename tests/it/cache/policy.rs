//! The numbers: when a token becomes stale and unusable, for every life.

use std::time::Duration;

use sitecore_auth::{Backoff, ErrorKind, Freshness, ManualClock, RefreshPolicy, TokenCache};
use tokio::time::advance;

use crate::support::{
    MS, PausedClock, ScriptedSource, Step, cache_of, client_of, serve, settle, text,
};

/// Takes in a token of this life and tells what it is after `age`: fresh, stale (a refresh starts) or
/// expired (not handed out).
async fn freshness_after(life: Duration, age: Duration) -> Freshness {
    let source = ScriptedSource::new([Step::Grant(life)], Step::Hang);
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.expect("a token");
    advance(age).await;
    match cache.current() {
        None => Freshness::Expired,
        Some(_) => {
            settle().await;
            if source.calls() == 1 { Freshness::Fresh } else { Freshness::Stale }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn boundaries_are_exact_for_every_life() {
    // Life, stale from, unusable from, in milliseconds.
    for (life, stale, unusable) in [
        (1_000, 800, 900),
        (10_000, 8_000, 9_000),
        (300_000, 240_000, 270_000),
        (600_000, 480_000, 540_000),
        (900_000, 720_000, 840_000),
        (86_400_000, 69_120_000, 86_340_000),
        (2_592_000_000, 2_073_600_000, 2_591_940_000),
        // Beyond 30 days nobody is believed.
        (5_000_000_000, 2_073_600_000, 2_591_940_000),
    ] {
        let [life, stale, unusable] = [life, stale, unusable].map(Duration::from_millis);
        for (age, expected) in [
            (Duration::ZERO, Freshness::Fresh),
            (stale - MS, Freshness::Fresh),
            (stale, Freshness::Stale),
            (stale + MS, Freshness::Stale),
            (unusable - MS, Freshness::Stale),
            (unusable, Freshness::Expired),
            (unusable + MS, Freshness::Expired),
        ] {
            assert_eq!(freshness_after(life, age).await, expected, "{life:?} after {age:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_life_of_no_time_is_never_handed_out() {
    let source = ScriptedSource::granting(Duration::ZERO);
    let cache = cache_of(&source, PausedClock::new());
    assert_eq!(cache.token().await.unwrap_err().kind(), ErrorKind::Malformed);
    assert!(cache.current().is_none());
}

#[tokio::test]
async fn a_life_that_the_issuer_does_not_tell_is_five_minutes() {
    let answer = serde_json::json!({ "access_token": "opaque", "token_type": "Bearer" });
    let server = serve(wiremock::ResponseTemplate::new(200).set_body_json(answer)).await;
    let clock = ManualClock::new();
    let tokens = client_of(&server.uri()).build().unwrap();
    let cache = TokenCache::builder(tokens).clock(clock.clone()).build().unwrap();
    let token = cache.token().await.unwrap();
    assert_eq!(token.lifetime(), Some(Duration::from_secs(300)));
    assert_eq!(cache.status().usable_for(), Some(Duration::from_secs(270)));
}

#[tokio::test(start_paused = true)]
async fn a_life_beyond_all_numbers_is_capped() {
    for life in [Duration::MAX, Duration::from_secs(1_000_000_000_000_000_000)] {
        let month = Duration::from_secs(30 * 24 * 3600);
        assert_eq!(freshness_after(life, month / 2).await, Freshness::Fresh);
        assert_eq!(freshness_after(life, month).await, Freshness::Expired);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_token_is_cached_and_used() {
    for life in [Duration::from_secs(10), Duration::from_secs(1)] {
        let source = ScriptedSource::granting(life);
        let cache = cache_of(&source, PausedClock::new());
        for _ in 0..100 {
            assert_eq!(text(&cache.token().await.unwrap()), "token-1");
        }
        assert_eq!(source.calls(), 1, "a grant for each call of a token that lives {life:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_stale_point_is_drawn_once_per_token() {
    let day = Duration::from_secs(86_400);
    let mut early = 0;
    for _ in 0..200 {
        let source = ScriptedSource::new([Step::Grant(day)], Step::Hang);
        let cache = TokenCache::builder(source.clone()).clock(PausedClock::new()).build().unwrap();
        cache.token().await.unwrap();
        advance(day.mul_f64(0.7) - Duration::from_secs(1)).await;
        for _ in 0..50 {
            assert!(cache.current().is_some());
        }
        settle().await;
        assert_eq!(source.calls(), 1, "stale before 0.7 of its life");
        advance(day.mul_f64(0.05)).await;
        // However often it is read, the point does not move.
        for _ in 0..50 {
            assert!(cache.current().is_some());
            settle().await;
        }
        early += source.calls() - 1;
        advance(day.mul_f64(0.05) + Duration::from_secs(1)).await;
        assert!(cache.current().is_some());
        settle().await;
        assert!(source.calls() >= 2, "fresh after 0.8 of its life");
    }
    assert!((50..150).contains(&early), "half of 200 points should lie before 0.75, {early} do");
}

type Change = fn(&mut RefreshPolicy);

#[test]
fn a_senseless_policy_is_refused_by_the_name_of_its_number() {
    let source = || ScriptedSource::granting(Duration::from_secs(60));
    let changes: [(&str, Change); 17] = [
        ("stale_from", |policy| policy.stale_from = 1.5),
        ("stale_from", |policy| policy.stale_from = 0.91),
        ("stale_from", |policy| policy.stale_from = 0.1),
        ("stale_from", |policy| policy.stale_from = -0.1),
        ("stale_from", |policy| policy.stale_from = f64::NAN),
        ("refresh_timeout", |policy| policy.refresh_timeout = Duration::ZERO),
        ("unknown_lifetime", |policy| policy.unknown_lifetime = Duration::ZERO),
        ("max_lifetime", |policy| policy.max_lifetime = Duration::ZERO),
        ("max_retry_after", |policy| policy.max_retry_after = Duration::ZERO),
        ("attempts_per_refresh", |policy| policy.attempts_per_refresh = 0),
        ("cooldown_with_token.first", |policy| policy.cooldown_with_token.first = Duration::ZERO),
        ("cooldown_without_token.first", |policy| {
            policy.cooldown_without_token.first = Duration::ZERO;
        }),
        ("cooldown_refused.first", |policy| {
            policy.cooldown_refused = Backoff::new(Duration::ZERO, Duration::ZERO);
        }),
        ("cooldown_with_token.max", |policy| {
            policy.cooldown_with_token = Backoff::new(Duration::from_secs(1), Duration::ZERO);
        }),
        ("cooldown_without_token.max", |policy| {
            policy.cooldown_without_token.max = Duration::from_millis(1);
        }),
        ("cooldown_refused.max", |policy| policy.cooldown_refused.max = Duration::from_millis(1)),
        ("stale_from must be above 0.1 and at most 0.9, got 2", |policy| policy.stale_from = 2.0),
    ];
    for (name, change) in changes {
        let mut policy = RefreshPolicy::default();
        change(&mut policy);
        let error = TokenCache::builder(source()).policy(policy).build().expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Config);
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains(name), "{cause} does not name {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn numbers_beyond_all_measure_do_not_panic() {
    let mut policy = RefreshPolicy::default();
    policy.max_retry_after = Duration::MAX;
    policy.max_lifetime = Duration::MAX;
    policy.refresh_timeout = Duration::MAX;
    policy.cooldown_without_token = Backoff::new(Duration::MAX, Duration::MAX);
    policy.stale_from = 0.9;
    policy.margin = Duration::ZERO;
    let steps = [
        Step::Fail(ErrorKind::Malformed),
        Step::FailFor(ErrorKind::Malformed, Duration::MAX),
        Step::FailFor(ErrorKind::RateLimited, Duration::MAX),
        Step::Grant(Duration::MAX),
    ];
    for step in steps {
        let source = ScriptedSource::new([], step);
        let cache = TokenCache::builder(source.clone())
            .policy(policy.clone())
            .clock(PausedClock::new())
            .build()
            .unwrap();
        let (first, second) = (cache.token().await, cache.token().await);
        assert_eq!(first.is_ok(), second.is_ok());
        assert!(source.calls() <= 3, "{}", source.calls());
    }
}
