//! Walks through every sequence of events up to some depth, and checks the contract after each
//! step. The events are calls, rejections and acceptances by two APIs, every outcome of a token
//! request and of a check, and clock jumps.
//!
//! `EXPLORATION_DEPTH` sets the depth. States that are reached twice are explored once.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::*;
use crate::freshness::Freshness;

/// The depth in the normal suite. It takes a few seconds.
const DEPTH: usize = 5;

const LIFETIME: Duration = DAY;

/// What can happen next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A caller needs a token.
    Token,
    Look,
    Refresh,
    TokenFor,
    /// This API rejects the token that it is sent.
    Rejected(&'static str),
    Accepted(&'static str),
    Granted,
    GrantedBriefly,
    SameAgain,
    Adopted,
    Failed(ErrorKind),
    RateLimited,
    TaskLost,
    TimedOut,
    Checked(Option<bool>),
    RetryNow,
    Advance(Duration),
    Suspend(Duration),
    WallBack,
}

fn events() -> [Event; 27] {
    [
        Event::Token,
        Event::Look,
        Event::Refresh,
        Event::TokenFor,
        Event::Rejected("x"),
        Event::Rejected("y"),
        Event::Accepted("x"),
        Event::Accepted("y"),
        Event::Granted,
        Event::GrantedBriefly,
        Event::SameAgain,
        Event::Adopted,
        Event::Failed(ErrorKind::Unavailable),
        Event::Failed(ErrorKind::Refused),
        Event::RateLimited,
        Event::TaskLost,
        Event::TimedOut,
        Event::Checked(Some(true)),
        Event::Checked(Some(false)),
        Event::Checked(None),
        Event::RetryNow,
        Event::Advance(SECOND),
        Event::Advance(MINUTE),
        Event::Advance(HOUR),
        Event::Advance(20 * HOUR),
        Event::Suspend(25 * HOUR),
        Event::WallBack,
    ]
}

/// A table, and what the contract needs to know about its past.
#[derive(Clone)]
struct World {
    table: Table,
    /// No token request may start before this, because the issuer specified a wait. By the
    /// monotonic clock.
    server_until: Duration,
    /// When the last check started.
    last_check: Option<Moment>,
    /// Token requests that rejections caused, and that were not given back.
    paid: Vec<(&'static str, String)>,
    start: Moment,
    /// The APIs that have accepted a token, and those whose rejections caused a token request since
    /// the last refresh because of age.
    accepting: Vec<&'static str>,
    rejecting: Vec<&'static str>,
    /// The API whose rejection caused the refresh in flight, if the budget pays for it.
    charged_api: Option<&'static str>,
}

impl World {
    fn new() -> Self {
        let table = Table::new();
        let start = table.now;
        Self {
            table,
            server_until: Duration::ZERO,
            last_check: None,
            paid: Vec::new(),
            start,
            accepting: Vec::new(),
            rejecting: Vec::new(),
            charged_api: None,
        }
    }

    /// Returns the worlds that the exploration starts from.
    fn starts() -> Vec<Self> {
        let after = |events: &[Event]| {
            let mut world = Self::new();
            for event in events {
                let result = world.step(*event).expect("a possible event");
                result.unwrap_or_else(|message| panic!("{message} at {event:?}"));
            }
            world
        };
        let token = [Event::Token, Event::Granted, Event::Accepted("y")];
        let stale = [&token[..], &[Event::Advance(20 * HOUR)]].concat();
        // One API rejects everything, until one token request is left in the budget.
        let wait = Event::Advance(10 * MINUTE);
        let spent = [Event::Rejected("x"), Event::Granted, wait].repeat(5);
        let spent = [&token[..], &[Event::Advance(HOUR)], &spent].concat();
        vec![Self::new(), after(&token), after(&stale), after(&spent)]
    }

    /// Applies an event. Returns `None` if it cannot happen now.
    fn step(&mut self, event: Event) -> Option<Result<(), String>> {
        let before = self.table.state.tokens.clone();
        let good = |table: &Table| table.state.tokens.usable(table.now).cloned();
        let was_good = good(&self.table);
        let result = match event {
            Event::Token => self.call(Need::Token),
            Event::Look => self.call(Need::Look),
            Event::Refresh => self.call(Need::Refresh),
            Event::TokenFor => self.call(Need::TokenFor(10 * HOUR)),
            Event::Rejected(api) => {
                let by = by(api);
                let sent = before.find(Need::TokenOf(&by), self.table.now)?;
                let had = self.table.refresh.as_ref().map(|refresh| refresh.number);
                let result = self.call(Need::Other { rejected: &sent, by: &by });
                let started =
                    self.table.refresh.as_ref().filter(|refresh| Some(refresh.number) != had);
                if started.is_some_and(Refresh::is_due_to_rejection) {
                    self.count_rejection(api);
                }
                result
            }
            Event::Accepted(api) => {
                let sent = before.find(Need::TokenOf(&by(api)), self.table.now)?;
                self.table.accept(api, &sent);
                self.accepting.push(api);
                self.paid.retain(|paid| *paid != (api, text(&sent)));
                Ok(())
            }
            Event::Granted => self.finish(|world| Ok(world.new_token(LIFETIME))),
            Event::GrantedBriefly => self.finish(|world| Ok(world.new_token(10 * SECOND))),
            Event::SameAgain => {
                let same = text(&before.newest()?.clone());
                self.finish(|_| Ok(token(&same, LIFETIME)))
            }
            Event::Adopted => {
                self.finish(|world| Ok(world.new_token(LIFETIME).with_age(HOUR).adopted()))
            }
            Event::Failed(kind) => self.finish(|_| Err(Error::new(kind, "explored"))),
            Event::RateLimited => self.finish(|_| {
                Err(Error::new(ErrorKind::RateLimited, "explored").with_retry_after(10 * MINUTE))
            }),
            Event::TaskLost => {
                let refresh = self.table.refresh.take()?;
                let is_awaited = refresh.was_awaited && !refresh.is_due_to_rejection();
                if !is_awaited && refresh.is_due_to_rejection() {
                    let paid = self.charged_api.take();
                    self.paid.extend(paid.map(|api| (api, "lost".to_owned())));
                }
                self.table.lose(&refresh, is_awaited);
                Ok(())
            }
            Event::TimedOut => {
                let number = self.table.refresh.as_ref()?.number;
                self.table.advance(30 * SECOND);
                self.table.with_input(|state, input| state.time_out(number, input));
                Ok(())
            }
            Event::Checked(result) => {
                self.table.check?;
                self.table.finish_check(result);
                if result == Some(true) {
                    self.server_until = Duration::ZERO;
                }
                Ok(())
            }
            Event::RetryNow => {
                self.table.state.end_cooldown();
                self.server_until = Duration::ZERO;
                Ok(())
            }
            Event::Advance(time) => {
                self.table.advance(time);
                Ok(())
            }
            Event::Suspend(time) => {
                self.table.suspend(time);
                Ok(())
            }
            Event::WallBack => {
                let now = self.table.now;
                self.table.now = Moment::new(now.monotonic(), now.wall() - HOUR);
                Ok(())
            }
        };
        // 1 and 8. A usable token is not lost, and is replaced only by one that does not expire
        // earlier, unless it was rejected. Only time ends it.
        let is_time = matches!(
            event,
            Event::Advance(_) | Event::Suspend(_) | Event::WallBack | Event::TimedOut
        );
        let now_good = good(&self.table);
        let lost = was_good.filter(|_| !is_time).map(|was| match &now_good {
            None => Err("a usable token is gone".to_owned()),
            Some(now) if now.token.is_same(&was.token) => Ok(()),
            Some(now) => {
                let is_shorter = now.token.expires_before(&was.token, self.table.now);
                let is_rejected =
                    !was.rejected_by.is_empty() || self.table.state.tokens.is_rejected(&was.token);
                if is_shorter && !is_rejected {
                    Err("a good token was replaced by a shorter one".to_owned())
                } else {
                    Ok(())
                }
            }
        });
        let lost = lost.unwrap_or(Ok(()));
        Some(result.and(lost).and_then(|()| self.check()))
    }

    /// Makes a call, and checks what the caller gets.
    fn call(&mut self, need: Need<'_>) -> Result<(), String> {
        let now = self.table.now;
        let was_in_flight = self.table.with_input(|state, input| state.is_refreshing(input));
        let (refresh, check) = (self.table.refresh.take(), self.table.check.take());
        let got = self.table.next(need);
        let usable = self.table.state.tokens.usable(now).is_some();
        let (starts, checks) = (self.table.refresh.is_some(), self.table.check.is_some());
        // The task of a refresh that was given up may still end.
        self.table.refresh = self.table.refresh.take().or(refresh);
        self.table.check = self.table.check.take().or(check);
        let ensure = |condition: bool, message: &str| {
            if condition { Ok(()) } else { Err(format!("{message}: {got:?}")) }
        };
        match need {
            Need::Token => ensure(
                matches!(got, Got::Token(_)) == usable,
                "2. a caller waits only without a token",
            )?,
            Need::Other { .. } => ensure(got != Got::Nothing, "a caller in need gets nothing")?,
            _ => {}
        }
        ensure(!starts || !was_in_flight, "3. two refreshes are in flight")?;
        ensure(
            !starts || now.monotonic() >= self.server_until,
            "5. a refresh started before the server's wait had ended",
        )?;
        if checks {
            let since = self.last_check.map_or(DAY, |last| now.age_since(last));
            ensure(since >= SECOND, "6. more than one check a second")?;
            self.last_check = Some(now);
        }
        // 10. What is due is started.
        let current = self.table.state.tokens.current();
        let is_due = matches!(need, Need::Refresh)
            && current.is_none_or(|it| it.token.freshness(now) != Freshness::Fresh);
        let (next_attempt_in, is_refreshing) = self
            .table
            .with_input(|state, input| (state.next_attempt_in(input), state.is_refreshing(input)));
        let is_settling = self.table.state.tokens.settling().is_some();
        if is_due && !starts && !checks && !is_refreshing && !is_settling {
            let message = "10. a refresh is due and was not started";
            ensure(next_attempt_in > Some(Duration::ZERO), message)?;
        }
        Ok(())
    }

    /// Checks the budget before a token request that a rejection causes.
    fn count_rejection(&mut self, api: &'static str) {
        let is_free = self.accepting.contains(&api) && !self.rejecting.contains(&api);
        self.rejecting.push(api);
        self.charged_api = (!is_free).then_some(api);
        let hours = self.table.now.age_since(self.start).as_secs() / 3_600;
        assert!(
            is_free || self.paid.len() as u64 <= 5 + hours,
            "the budget is exceeded: {:?} in {hours} h",
            self.paid
        );
    }

    fn new_token(&mut self, lifetime: Duration) -> Token {
        self.table.granted += 1;
        token(&format!("token-{}", self.table.granted), lifetime)
    }

    fn finish(&mut self, result: impl FnOnce(&mut Self) -> Result<Token>) -> Result<(), String> {
        let Some(refresh) = self.table.refresh.take() else { return Err(String::new()) };
        let result = result(self);
        let now = self.table.now;
        let before = self.table.state.tokens.clone();
        let dated = |token: Token| token.with_validity(&self.table.policy, refresh.started);
        let result = result.map(dated);
        let is_token = result.is_ok();
        let is_usable =
            result.as_ref().is_ok_and(|token| token.freshness(now) != Freshness::Expired);
        let text = result.as_ref().map_or_else(|_| String::new(), text);
        if let Err(wait) = result.as_ref().map_err(|error| error.retry_after().unwrap_or_default())
            && !wait.is_zero()
            && self.table.with_input(|state, input| state.time_left(refresh.number, input))
                > 2 * SECOND
        {
            self.server_until = now.monotonic() + wait;
        }
        let is_adopted = result.as_ref().is_ok_and(Token::is_adopted);
        let outcome = self.table.finish_refresh(&refresh, result);
        if is_token && refresh.is_due_to_rejection() {
            let paid = self.charged_api.take().filter(|_| !is_adopted);
            self.paid.extend(paid.map(|api| (api, text.clone())));
        } else if matches!(outcome, Outcome::Refreshed(_)) {
            self.rejecting.clear();
        }
        match outcome {
            Outcome::Refreshed(new) => {
                // 9. It settles if the previous token is good.
                let current = before.usable(now).filter(|current| current.rejected_by.is_empty());
                let settles =
                    current.is_some() && !now.has_reached(new.settled_at(&self.table.policy));
                if settles && self.table.current() == text {
                    return Err("9. a token was put to use before it settled".to_owned());
                }
                self.server_until = Duration::ZERO;
                Ok(())
            }
            Outcome::Unchanged(_) | Outcome::RejectedAgain(_) => {
                self.server_until = Duration::ZERO;
                Ok(())
            }
            Outcome::Failed(error) if error.retry_after().is_none() => {
                Err("5. a failure without a cooldown".to_owned())
            }
            Outcome::Failed(_) | Outcome::StoodStill => Ok(()),
            Outcome::LookAgain if is_usable => {
                Err("4. a token that arrived was thrown away".to_owned())
            }
            Outcome::LookAgain => Ok(()),
        }
    }

    /// Checks what must hold at any time.
    fn check(&self) -> Result<(), String> {
        let now = self.table.now;
        // 1. A token that is read without the lock is usable.
        if let Some(view) = self.table.state.view(&self.table.policy)
            && !now.has_reached(view.look_at)
            && view.token.freshness(now) == Freshness::Expired
        {
            return Err("1. an expired token is published".to_owned());
        }
        // 7. Nothing stops refreshing permanently. After 26 h every token has expired, and a caller
        //    starts a refresh or a check.
        let mut later = self.table.clone();
        (later.refresh, later.check) = (None, None);
        later.advance(26 * HOUR);
        if later.next(Need::Token) != Got::Waits
            || (later.refresh.is_none() && later.check.is_none())
        {
            return Err("7. refreshing has stopped".to_owned());
        }
        Ok(())
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        format!("{:?}", self.table.state).hash(&mut hasher);
        (self.table.now, self.server_until, self.last_check).hash(&mut hasher);
        let refresh = self.table.refresh.as_ref().map(|refresh| refresh.number);
        (refresh, self.table.check).hash(&mut hasher);
        hasher.finish()
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the size of the exploration")]
fn the_contract_holds_for_every_sequence_of_events() {
    let depth = std::env::var("EXPLORATION_DEPTH")
        .map_or(DEPTH, |depth| depth.parse().expect("EXPLORATION_DEPTH is a number"));
    let mut seen = HashSet::new();
    let mut worlds: Vec<_> = World::starts().into_iter().map(|world| (world, Vec::new())).collect();
    let mut steps = 0_u64;
    for _ in 0..depth {
        let mut next = Vec::new();
        for (world, path) in worlds {
            for event in events() {
                let mut world = world.clone();
                let Some(result) = world.step(event) else { continue };
                let path: Vec<_> = path.iter().copied().chain([event]).collect();
                match result {
                    Ok(()) => {}
                    // An empty message: the event needs a refresh, and there is none.
                    Err(message) if message.is_empty() => continue,
                    Err(message) => panic!("{message}, after {path:?}"),
                }
                steps += 1;
                if seen.insert(world.key()) {
                    next.push((world, path));
                }
            }
        }
        worlds = next;
    }
    println!("{steps} steps to depth {depth}, {} states", seen.len());
}
