//! Panics in code that is not ours: sources, their errors, clocks and metrics recorders.

use std::{
    fmt,
    future::Future,
    panic::panic_any,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use sitecore_auth::{
    Clock, Error, ErrorKind, FetchContext, ManualClock, Moment, Result, Token, TokenCache,
    TokenSource, source_fn,
};

use crate::support::{DAY, SECOND, client_with, serve};

/// Panics when it is dropped, also as the payload of a panic.
struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

/// An error that panics when it is shown or dropped.
struct PanickingError;

impl fmt::Debug for PanickingError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("shown")
    }
}

impl fmt::Display for PanickingError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("shown")
    }
}

impl std::error::Error for PanickingError {}

impl Drop for PanickingError {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

/// Never ends, and panics when it is dropped.
struct PanickingFuture(PanicsWhenDropped);

impl Future for PanickingFuture {
    type Output = Result<Token>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let _ = &self.0;
        Poll::Pending
    }
}

/// What the first call of a source does. Later ones return a token.
#[derive(Clone, Copy, Debug)]
enum First {
    Panic,
    PanicWithPayload,
    PanicBeforeTheFuture,
    PanicInDrop,
    PanicInError,
}

struct Source(First, AtomicUsize);

#[async_trait]
impl TokenSource for Source {
    async fn fetch(&self, _: FetchContext<'_>) -> Result<Token> {
        if self.1.fetch_add(1, Ordering::SeqCst) > 0 {
            return Token::bearer("token", DAY);
        }
        match self.0 {
            First::Panic | First::PanicBeforeTheFuture => panic!("source"),
            First::PanicWithPayload => panic_any(PanicsWhenDropped),
            First::PanicInDrop => PanickingFuture(PanicsWhenDropped).await,
            First::PanicInError => Err(Error::new(ErrorKind::Refused, PanickingError)),
        }
    }

    async fn has_new_credentials(&self) -> bool {
        panic_any(PanicsWhenDropped)
    }
}

#[tokio::test(start_paused = true)]
async fn no_foreign_code_takes_a_caller_down_with_it() {
    for first in [
        First::Panic,
        First::PanicWithPayload,
        First::PanicBeforeTheFuture,
        First::PanicInDrop,
        First::PanicInError,
    ] {
        let clock = ManualClock::new();
        let source = Source(first, AtomicUsize::new(0));
        let cache = if let First::PanicBeforeTheFuture = first {
            let calls = AtomicUsize::new(0);
            let source = source_fn(move |_| {
                assert!(calls.fetch_add(1, Ordering::SeqCst) > 0, "source");
                async { Token::bearer("token", DAY) }
            });
            TokenCache::builder(source).clock(clock.clone()).build().unwrap()
        } else {
            TokenCache::builder(source).clock(clock.clone()).build().unwrap()
        };
        let error = cache.token().await.expect_err("a panic");
        assert!(error.retry_after().is_some(), "{first:?} caused no cooldown");
        // The error's cause may panic when it is dropped, which is the caller's own affair.
        std::mem::forget(error);
        clock.advance(2 * SECOND);
        if let First::PanicInError = first {
            // The check for new credentials panics too. The cooldown goes on.
            std::mem::forget(cache.token().await.expect_err("a refusal"));
            clock.advance(100 * SECOND);
        }
        cache.token().await.unwrap_or_else(|error| panic!("{first:?}: {:?}", error.kind()));
    }
}

/// A clock that panics at every other reading.
#[derive(Debug)]
struct PanickingClock(ManualClock, AtomicUsize);

impl Clock for PanickingClock {
    fn now(&self) -> Moment {
        assert!(self.1.fetch_add(1, Ordering::SeqCst).is_multiple_of(2), "clock");
        self.0.now()
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_panics_stands_still() {
    let clock = ManualClock::new();
    let source = source_fn(|_| async { Token::bearer("token", DAY) });
    let panicking = PanickingClock(clock.clone(), AtomicUsize::new(0));
    let cache = TokenCache::builder(source).clock(panicking).build().unwrap();
    for _ in 0..10 {
        cache.token().await.expect("a token");
        assert!(cache.status().is_usable());
    }
    clock.advance(2 * DAY);
    let _ = cache.current();
    assert!(cache.current().is_none(), "the clock has moved on");
}

/// A recorder that panics.
struct PanickingRecorder;

impl metrics::Recorder for PanickingRecorder {
    fn describe_counter(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }

    fn describe_gauge(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }

    fn describe_histogram(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }

    fn register_counter(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        panic!("recorder")
    }

    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        panic!("recorder")
    }

    fn register_histogram(
        &self,
        _: &metrics::Key,
        _: &metrics::Metadata<'_>,
    ) -> metrics::Histogram {
        panic!("recorder")
    }
}

#[tokio::test]
async fn a_metrics_recorder_that_panics_changes_nothing() {
    let _here = metrics::set_default_local_recorder(&PanickingRecorder);
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let source = source_fn(move |_| {
        let call = counter.fetch_add(1, Ordering::SeqCst);
        async move { Token::bearer(format!("token-{call}"), DAY) }
    });
    let server = serve(wiremock::ResponseTemplate::new(401)).await;
    let client = client_with(source, crate::support::origin(&server));
    let response = client.get(server.uri()).send().await.expect("the rejected response");
    assert_eq!((response.status().as_u16(), calls.load(Ordering::SeqCst)), (401, 2));
}
