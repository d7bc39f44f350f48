//! A source that does what the test says.

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

/// How a source answers one call.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A new token of this life.
    Grant(Duration),
    /// The token of this number again, with this life.
    Same(usize, Duration),
    /// A new token after a while.
    Slow(Duration, Duration),
    /// An error of this kind.
    Fail(ErrorKind),
    /// An error that names a wait.
    FailFor(ErrorKind, Duration),
    /// An error after a while.
    SlowFail(Duration, ErrorKind),
    /// No answer.
    Hang,
    /// A panic.
    Panic,
}

/// Answers by its script, then by its last word for ever.
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

    /// Grants tokens of this life.
    pub(crate) fn granting(life: Duration) -> Self {
        Self::new([], Step::Grant(life))
    }

    /// Forgets the script and does this from now on.
    pub(crate) fn turn_to(&self, step: Step) {
        let mut script = self.0.lock().unwrap();
        script.steps.clear();
        script.last = step;
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.lock().unwrap().calls.len()
    }

    /// When the source was asked.
    pub(crate) fn asked(&self) -> Vec<Instant> {
        self.0.lock().unwrap().calls.clone()
    }

    /// The header of the token that the last call was to replace.
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
        let error = |kind| Error::new(kind, "scripted");
        match step {
            Step::Grant(life) => Token::bearer(format!("token-{number}"), life),
            Step::Same(number, life) => Token::bearer(format!("token-{number}"), life),
            Step::Slow(delay, life) => {
                sleep(delay).await;
                Token::bearer(format!("token-{number}"), life)
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

/// A cache with a policy without chance: no jitter anywhere, so that instants can be asserted.
pub(crate) fn cache_of(source: &ScriptedSource, clock: impl Clock) -> TokenCache {
    let policy = RefreshPolicy::default().without_jitter();
    TokenCache::builder(source.clone()).policy(policy).clock(clock).build().expect("a policy")
}

/// The context of a first fetch.
pub(crate) fn first_fetch() -> FetchContext<'static> {
    FetchContext::new(Duration::from_secs(30))
}

/// A token's text, without the scheme.
pub(crate) fn text(token: &Token) -> String {
    let (_, value) = token.header();
    value.to_str().expect("text").trim_start_matches("Bearer ").to_owned()
}
