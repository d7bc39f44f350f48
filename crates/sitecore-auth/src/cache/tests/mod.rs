//! Tables for the decisions of the cache. There is no runtime, and time is a number.

mod budget;
mod checks;
mod choice;
mod cooldowns;
mod exploration;
mod needs;
mod rejected;
mod settling;

use std::time::Duration;

use super::{
    decision::RejectedBy,
    decision::{Arrival, Input, Job, Need, Outcome, Refresh, Reply},
    state::CacheState,
};
use crate::{
    clock::Moment,
    error::{Error, ErrorKind, Result},
    policy::RefreshPolicy,
    token::Token,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The state of a cache, the time, and the jobs in flight.
#[derive(Clone)]
struct Table {
    state: CacheState,
    policy: RefreshPolicy,
    now: Moment,
    granted: u32,
    refresh: Option<Refresh>,
    check: Option<u64>,
}

/// What a caller gets, in a form that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    /// The text of a token.
    Token(String),
    Waits,
    /// An error that says when to try again.
    Fails(ErrorKind, Duration),
    Nothing,
}

impl Table {
    fn new() -> Self {
        Self {
            state: CacheState::default(),
            policy: RefreshPolicy::default().without_jitter(),
            now: Moment::new(100 * DAY, 20_000 * DAY),
            granted: 0,
            refresh: None,
            check: None,
        }
    }

    /// Returns a table with a token of this lifetime.
    fn with_token(lifetime: Duration) -> Self {
        let mut table = Self::new();
        assert_eq!(table.next(Need::Token), Got::Waits);
        table.grant(lifetime);
        table
    }

    /// Returns a table whose 24-hour token is 20 hours old.
    fn stale() -> Self {
        let mut table = Self::with_token(DAY);
        table.advance(20 * HOUR);
        table
    }

    fn input(&self) -> (Moment, RefreshPolicy) {
        (self.now, self.policy.clone())
    }

    fn with_input<T>(&mut self, change: impl FnOnce(&mut CacheState, Input<'_>) -> T) -> T {
        let (now, policy) = self.input();
        change(&mut self.state, Input { now, policy: &policy, random: 0.5 })
    }

    fn next(&mut self, need: Need<'_>) -> Got {
        let (reply, job) = self.with_input(|state, input| state.next(need, input));
        match job {
            Some(Job::Refresh(refresh)) => self.refresh = Some(refresh),
            Some(Job::Check(number)) => self.check = Some(number),
            None => {}
        }
        match reply {
            Reply::Ready(token) => Got::Token(text(&token)),
            Reply::Wait(_) => Got::Waits,
            Reply::Fail(error) => Got::Fails(error.kind(), error.retry_after().unwrap_or_default()),
            Reply::Nothing => Got::Nothing,
        }
    }

    /// Lets an API reject the current token. Returns what the caller gets.
    fn reject(&mut self, api: &'static str) -> Got {
        let token = self.state.tokens.current().expect("a token").token.clone();
        self.reject_token(&token, &by(api))
    }

    fn reject_token(&mut self, rejected: &Token, by: &RejectedBy) -> Got {
        self.next(Need::Other { rejected, by })
    }

    fn accept(&mut self, api: &'static str, token: &Token) {
        let now = self.now;
        self.state.record_acceptance(token, &by(api), now);
    }

    /// Ends the refresh that was started last.
    fn finish(&mut self, result: Result<Token>) -> Outcome {
        let refresh = self.refresh.take().expect("a refresh");
        self.finish_refresh(&refresh, result)
    }

    fn finish_refresh(&mut self, refresh: &Refresh, result: Result<Token>) -> Outcome {
        let _ = self.state.begin_request(refresh, self.now);
        let result = result.map(|token| token.with_validity(&self.policy, refresh.started));
        self.with_input(|state, input| state.finish(refresh, result, input))
    }

    /// Ends the refresh with a new token of this lifetime.
    fn grant(&mut self, lifetime: Duration) -> Token {
        self.granted += 1;
        let token = token(&format!("token-{}", self.granted), lifetime);
        match self.finish(Ok(token)) {
            Outcome::Refreshed(token) => token,
            other => panic!("not a newer token: {other:?}"),
        }
    }

    /// Ends the runtime of the refresh that was started last.
    fn lose(&mut self, refresh: &Refresh, is_awaited: bool) {
        self.with_input(|state, input| state.lose(refresh.number, is_awaited, input));
    }

    fn fail(&mut self, kind: ErrorKind) -> Outcome {
        self.finish(Err(Error::new(kind, "table")))
    }

    fn fail_for(&mut self, wait: Duration) -> Outcome {
        self.finish(Err(Error::new(ErrorKind::RateLimited, "table").with_retry_after(wait)))
    }

    fn finish_check(&mut self, result: Option<bool>) {
        let number = self.check.take().expect("a check");
        let now = self.now;
        self.state.finish_check(number, result, now);
    }

    fn advance(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    /// Advances the wall clock only.
    fn suspend(&mut self, time: Duration) {
        self.now = Moment::new(self.now.monotonic(), self.now.wall() + time);
    }

    fn current(&self) -> String {
        text(&self.state.tokens.current().expect("a token").token)
    }
}

fn token(name: &str, lifetime: Duration) -> Token {
    Token::bearer(name, lifetime).expect("a token")
}

impl Outcome {
    fn is_look_again(&self) -> bool {
        matches!(self, Self::LookAgain)
    }
}

fn by(api: &'static str) -> RejectedBy {
    RejectedBy::Api(api.into())
}

fn text(token: &Token) -> String {
    let value = token.header().1.to_str().expect("text");
    value.trim_start_matches("Bearer ").to_owned()
}

fn is_token(name: &str) -> Got {
    Got::Token(name.to_owned())
}

#[test]
fn no_two_caches_have_the_same_number() {
    // The middleware and the store tell caches apart by it, even after one was dropped.
    let number = || {
        let source = crate::source_fn(|_| async { Token::bearer("token", DAY) });
        crate::TokenCache::new(source).number()
    };
    assert_ne!(number(), number());
}
