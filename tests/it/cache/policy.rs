//! The policy's numbers: when a token becomes stale and unusable, for every lifetime.

use std::time::Duration;

use sitecore_auth::{Backoff, ErrorKind, Freshness, ManualClock, RefreshPolicy, TokenCache};
use tokio::time::advance;

use crate::support::{
    DAY, MINUTE, MS, PausedClock, SECOND, ScriptedSource, Step, cache_of, client_of, serve, settle,
    text,
};

/// Returns the state of a token with this lifetime at this age: fresh, stale (a refresh starts) or
/// expired (not returned).
async fn freshness_after(lifetime: Duration, age: Duration) -> Freshness {
    let source = ScriptedSource::new([Step::Grant(lifetime)], Step::Hang);
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
async fn boundaries_are_exact_for_every_lifetime() {
    // Lifetime, stale from, unusable from, in milliseconds.
    for (lifetime, stale, unusable) in [
        (1_000, 800, 900),
        (10_000, 8_000, 9_000),
        (300_000, 240_000, 270_000),
        (600_000, 480_000, 540_000),
        (900_000, 720_000, 840_000),
        (86_400_000, 69_120_000, 86_340_000),
        (2_592_000_000, 2_073_600_000, 2_591_940_000),
        // The longest accepted lifetime is 30 days.
        (5_000_000_000, 2_073_600_000, 2_591_940_000),
    ] {
        let [lifetime, stale, unusable] = [lifetime, stale, unusable].map(Duration::from_millis);
        for (age, expected) in [
            (Duration::ZERO, Freshness::Fresh),
            (stale - MS, Freshness::Fresh),
            (stale, Freshness::Stale),
            (stale + MS, Freshness::Stale),
            (unusable - MS, Freshness::Stale),
            (unusable, Freshness::Expired),
            (unusable + MS, Freshness::Expired),
        ] {
            assert_eq!(
                freshness_after(lifetime, age).await,
                expected,
                "{lifetime:?} after {age:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_with_a_lifetime_of_zero_is_never_returned() {
    let source = ScriptedSource::granting(Duration::ZERO);
    let cache = cache_of(&source, PausedClock::new());
    assert_eq!(cache.token().await.unwrap_err().kind(), ErrorKind::Malformed);
    assert!(cache.current().is_none());
}

#[tokio::test]
async fn a_lifetime_that_the_response_does_not_specify_is_five_minutes() {
    let response = serde_json::json!({ "access_token": "opaque", "token_type": "Bearer" });
    let server = serve(wiremock::ResponseTemplate::new(200).set_body_json(response)).await;
    let clock = ManualClock::new();
    let tokens = client_of(&server.uri()).build().unwrap();
    let cache = TokenCache::builder(tokens).clock(clock.clone()).build().unwrap();
    let token = cache.token().await.unwrap();
    assert_eq!(token.lifetime(), Some(5 * MINUTE));
    assert_eq!(cache.status().usable_for(), Some(270 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_enormous_lifetime_is_capped() {
    for lifetime in [Duration::MAX, Duration::from_secs(1_000_000_000_000_000_000)] {
        let month = 30 * DAY;
        assert_eq!(freshness_after(lifetime, month / 2).await, Freshness::Fresh);
        assert_eq!(freshness_after(lifetime, month).await, Freshness::Expired);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_lived_token_is_cached_and_used() {
    for lifetime in [10 * SECOND, SECOND] {
        let source = ScriptedSource::granting(lifetime);
        let cache = cache_of(&source, PausedClock::new());
        for _ in 0..100 {
            assert_eq!(text(&cache.token().await.unwrap()), "token-1");
        }
        assert_eq!(source.calls(), 1, "{lifetime:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_at_which_a_token_becomes_stale_is_drawn_once() {
    let mut early = 0;
    for _ in 0..200 {
        let source = ScriptedSource::new([Step::Grant(DAY)], Step::Hang);
        let cache = TokenCache::builder(source.clone()).clock(PausedClock::new()).build().unwrap();
        cache.token().await.unwrap();
        advance(DAY.mul_f64(0.7) - SECOND).await;
        for _ in 0..50 {
            assert!(cache.current().is_some());
        }
        settle().await;
        assert_eq!(source.calls(), 1, "stale before 0.7 of its lifetime");
        advance(DAY.mul_f64(0.05)).await;
        // However often the token is read, the time does not move.
        for _ in 0..50 {
            assert!(cache.current().is_some());
            settle().await;
        }
        early += source.calls() - 1;
        advance(DAY.mul_f64(0.05) + SECOND).await;
        assert!(cache.current().is_some());
        settle().await;
        assert!(source.calls() >= 2, "fresh after 0.8 of its lifetime");
    }
    assert!(
        (50..150).contains(&early),
        "about half of 200 tokens should be stale by 0.75, {early} are"
    );
}

type Change = fn(&mut RefreshPolicy);

#[test]
fn an_invalid_policy_is_an_error_that_names_its_field() {
    let source = || ScriptedSource::granting(MINUTE);
    let changes: [(&str, Change); 17] = [
        ("stale_from", |policy| policy.stale_from = 1.5),
        ("stale_from", |policy| policy.stale_from = 0.86),
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
            policy.cooldown_with_token = Backoff::new(SECOND, Duration::ZERO);
        }),
        ("cooldown_without_token.max", |policy| {
            policy.cooldown_without_token.max = MS;
        }),
        ("cooldown_refused.max", |policy| policy.cooldown_refused.max = MS),
        ("stale_from must be above 0.1 and at most 0.85, got 2", |policy| policy.stale_from = 2.0),
    ];
    for (name, change) in changes {
        let mut policy = RefreshPolicy::default();
        change(&mut policy);
        let error = TokenCache::builder(source()).policy(policy).build().expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(name), "{error} does not name {name}");
    }
}

#[test]
fn the_limits_of_a_policy_are_valid_themselves() {
    let mut policy = RefreshPolicy::default();
    policy.stale_from = 0.85;
    policy.cooldown_with_token.max = policy.cooldown_with_token.first;
    let cache = TokenCache::builder(ScriptedSource::granting(MINUTE)).policy(policy);
    assert!(cache.build().is_ok());
}

#[tokio::test(start_paused = true)]
async fn enormous_durations_do_not_panic() {
    let mut policy = RefreshPolicy::default();
    policy.max_retry_after = Duration::MAX;
    policy.max_lifetime = Duration::MAX;
    policy.refresh_timeout = Duration::MAX;
    policy.cooldown_without_token = Backoff::new(Duration::MAX, Duration::MAX);
    policy.stale_from = 0.85;
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
