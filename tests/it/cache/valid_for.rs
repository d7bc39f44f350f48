//! Tokens that must be usable for some time, and callers that are polled late.

use std::{
    future::Future as _,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use sitecore_auth::{ErrorKind, Token, TokenCache, source_fn};
use tokio::time::advance;

use crate::support::{
    DAY, HOUR, MINUTE, PausedClock, SECOND, ScriptedSource, cache_of, settle, text,
};

#[tokio::test(start_paused = true)]
async fn a_token_that_lasts_long_enough_is_returned_without_a_token_request() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    for time in [Duration::ZERO, HOUR, DAY - MINUTE] {
        assert_eq!(text(&cache.token_valid_for(time).await.expect("a token")), "token-1");
    }
    assert_eq!(source.calls(), 1);
    // The last minute of a lifetime is never used.
    let error = cache.token_valid_for(DAY - MINUTE + SECOND).await.expect_err("too long");
    assert_eq!((error.kind(), source.calls()), (ErrorKind::Config, 1));
}

#[tokio::test(start_paused = true)]
async fn an_issuer_whose_tokens_are_old_on_arrival_is_asked_only_twice() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let source = source_fn(move |_| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        async move { Ok(Token::bearer(format!("token-{number}"), DAY)?.with_age(12 * HOUR)) }
    });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    // The first refresh could have been one that was already in flight.
    let error = cache.token_valid_for(20 * HOUR).await.expect_err("12 h are left");
    assert_eq!((error.kind(), calls.load(Ordering::Relaxed)), (ErrorKind::Unavailable, 2));
    cache.token_valid_for(11 * HOUR).await.expect("a token with 12 h left");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_polled_late_gets_no_expired_token() {
    let source = ScriptedSource::granting(10 * SECOND);
    let cache = cache_of(&source, PausedClock::new());
    let mut call = pin!(cache.token());
    let mut poll = || call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    for calls in 1..=3 {
        assert!(poll().is_pending());
        settle().await;
        assert_eq!(source.calls(), calls);
        // The refresh has ended, but its token expires before the caller is polled.
        advance(9 * SECOND).await;
    }
    assert!(poll().is_pending());
    settle().await;
    let Poll::Ready(token) = poll() else { panic!("the token is usable") };
    assert_eq!(text(&token.expect("a token")), "token-4");
}
