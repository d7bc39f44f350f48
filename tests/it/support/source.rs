//! A token source that follows a script.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use sitecore_auth::{
    Clock, Error, ErrorKind, FetchContext, RefreshPolicy, Token, TokenCache, TokenSource,
};
use tokio::time::{Instant, sleep};

/// What one call of the source does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Returns a new token with this lifetime.
    Grant(Duration),
    /// Returns the token with this number again, with this lifetime.
    Same(usize, Duration),
    /// Returns a new token after a delay. The second duration is its lifetime.
    Slow(Duration, Duration),
    /// Fails with an error of this kind.
    Fail(ErrorKind),
    /// Fails with an error that specifies when to retry.
    FailFor(ErrorKind, Duration),
    /// Fails after a delay.
    SlowFail(Duration, ErrorKind),
    /// Never returns.
    Hang,
    Panic,
}

/// Follows its script, and then repeats the last step.
#[derive(Clone)]
pub(crate) struct ScriptedSource(Arc<Mutex<Script>>);

struct Script {
    steps: VecDeque<Step>,
    last: Step,
    granted: usize,
    calls: Vec<Instant>,
    replacing: Vec<Option<String>>,
}

impl ScriptedSource {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>, last: Step) -> Self {
        Self(Arc::new(Mutex::new(Script {
            steps: steps.into_iter().collect(),
            last,
            granted: 0,
            calls: Vec::new(),
            replacing: Vec::new(),
        })))
    }

    /// Creates a source that always returns new tokens with this lifetime.
    pub(crate) fn granting(lifetime: Duration) -> Self {
        Self::new([], Step::Grant(lifetime))
    }

    /// Replaces the script: from now on, every call does this.
    pub(crate) fn turn_to(&self, step: Step) {
        let mut script = self.0.lock().unwrap();
        script.steps.clear();
        script.last = step;
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.lock().unwrap().calls.len()
    }

    /// Returns when the source was called.
    pub(crate) fn call_times(&self) -> Vec<Instant> {
        self.0.lock().unwrap().calls.clone()
    }

    /// Returns the text of the token that the last call was asked to replace.
    pub(crate) fn last_replacing(&self) -> Option<String> {
        self.0.lock().unwrap().replacing.last().cloned().flatten()
    }
}

#[async_trait]
impl TokenSource for ScriptedSource {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token, Error> {
        let (step, number) = {
            let mut script = self.0.lock().unwrap();
            script.calls.push(Instant::now());
            script.replacing.push(context.replacing().map(text));
            let step = script.steps.pop_front().unwrap_or_else(|| script.last.clone());
            if matches!(step, Step::Grant(_) | Step::Slow(..)) {
                script.granted += 1;
            }
            (step, script.granted)
        };
        let error = |kind| match kind {
            // As if the issuer had responded with a status of 5xx.
            ErrorKind::Unavailable => Error::new(kind, "scripted").with_issuer_responded(),
            kind => Error::new(kind, "scripted"),
        };
        match step {
            Step::Grant(lifetime) => Token::bearer(format!("token-{number}"), lifetime),
            Step::Same(number, lifetime) => Token::bearer(format!("token-{number}"), lifetime),
            Step::Slow(delay, lifetime) => {
                sleep(delay).await;
                Token::bearer(format!("token-{number}"), lifetime)
            }
            Step::Fail(kind) => Err(error(kind)),
            Step::FailFor(kind, wait) => Err(error(kind).with_retry_after(wait)),
            Step::SlowFail(delay, kind) => {
                sleep(delay).await;
                Err(error(kind))
            }
            Step::Hang => pending().await,
            Step::Panic => panic!("scripted"),
        }
    }
}

/// Returns a cache whose policy has no jitter, so that tests can assert exact times.
pub(crate) fn cache_of(source: &ScriptedSource, clock: impl Clock) -> TokenCache {
    let policy = RefreshPolicy::default().without_jitter();
    TokenCache::builder(source.clone()).policy(policy).clock(clock).build().expect("a policy")
}

/// Returns the context of a first fetch, which replaces no token.
pub(crate) fn first_fetch() -> FetchContext<'static> {
    FetchContext::new(Duration::from_secs(30))
}

/// Returns a token's text without the scheme.
pub(crate) fn text(token: &Token) -> String {
    let (_, value) = token.header();
    value.to_str().expect("text").trim_start_matches("Bearer ").to_owned()
}
