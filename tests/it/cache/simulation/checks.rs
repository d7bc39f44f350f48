//! The checks of the contract, following the documentation instead of the code.

use std::{mem, task::Poll, time::Duration};

use sitecore_auth::{Clock as _, Error, ErrorKind, Token};

use super::{
    model::{Caller, Simulation, runtime},
    operations::{Api, Issuer},
};
use crate::support::{settle, text};

impl Simulation {
    /// Sends a request. If there is a good token, an API that accepts settled tokens must accept it
    /// at once.
    pub(super) fn request(&mut self, api: Api) -> Result<(), String> {
        let good = self.last.clone().filter(|token| {
            self.is_surely_usable(token) && self.rejected.is_empty() && text(token).ends_with("-1")
        });
        let call = self.client.get(api.url());
        let (sender, mut response) = tokio::sync::oneshot::channel();
        self.start(Box::pin(async move {
            let response = call.send().await;
            let status = response.map(|response| response.status().as_u16());
            let _ = sender.send(status.unwrap_or(0));
            Err(Error::new(ErrorKind::Unavailable, "it has no token to return"))
        }))?;
        self.settle()?;
        let status = response.try_recv().ok();
        let is_accepted = status == Some(200);
        self.accepted += u64::from(is_accepted && api == Api::Late);
        match (api, good) {
            (Api::Tolerant | Api::Late, Some(token)) if !is_accepted => Err(format!(
                "{api:?} should have accepted {} but responded {status:?}",
                text(&token)
            )),
            _ => Ok(()),
        }
    }

    /// Sends requests to one API, one after another. While no time passes, its rejections may cause
    /// only one token request. A refresh because of age starts that over, and a caller that waits
    /// may need another token, for longer.
    pub(super) fn insist(&mut self, api: Api, count: usize) -> Result<(), String> {
        let counts = |simulation: &Self| {
            let source = simulation.source.lock();
            (source.replacements, source.calls as u64 - source.replacements)
        };
        // A caller without a usable token needs one first, which may replace a rejected one.
        let is_empty = u64::from(!self.cache.status().is_usable());
        let (before, waiting) = (counts(self), self.callers.len() as u64 + is_empty);
        for _ in 0..count {
            self.request(api)?;
        }
        let after = counts(self);
        let (caused, others) = (after.0 - before.0, after.1 - before.1);
        if caused <= 1 + others + waiting {
            return Ok(());
        }
        Err(format!("{count} requests to {api:?} caused {caused} token requests"))
    }

    /// Makes calls on runtimes that end before the issuer responds. While no time passes, only two
    /// of them may make a token request.
    pub(super) fn call_on_short_runtimes(&self, count: usize) -> Result<(), String> {
        let issuer = mem::replace(&mut self.source.lock().issuer, Issuer::Hang);
        let before = self.source.lock().calls;
        for _ in 0..count {
            self.source.lock().driving = self.current;
            runtime().block_on(async {
                let _ = self.cache.current();
                settle().await;
            });
        }
        let mut source = self.source.lock();
        source.issuer = issuer;
        match source.calls - before {
            0..=2 => Ok(()),
            calls => Err(format!("{count} calls on short runtimes made {calls} token requests")),
        }
    }

    /// Checks how many tokens were granted because of rejections. The cooldown limits the token
    /// requests that fail.
    pub(super) fn check_budget(&self) -> Result<(), String> {
        let passed = self.clock.now().monotonic() - self.started.monotonic() + self.suspended;
        let hours = passed.as_secs() / 3_600;
        // An acceptance gives one request back, and makes the next one free.
        let allowed = 6 + hours + 2 * self.accepted + self.requests_for_longer;
        // Late results are not counted before they arrive.
        let allowed = allowed + self.runtimes.len() as u64 - 1;
        // Each may be repeated once, for an identical token.
        let allowed = if self.had_identical_tokens { 2 * allowed } else { allowed };
        let replacements = self.source.lock().replacements;
        if replacements <= allowed {
            return Ok(());
        }
        Err(format!(
            "rejections caused {replacements} token requests in {hours} h; {allowed} are allowed"
        ))
    }

    /// Checks that a caller without a token does not fail at once, because the cooldown has ended.
    pub(super) fn check_may_refresh(&self, why: &str) -> Result<(), String> {
        match self.poll_token() {
            Poll::Ready(Err(error)) => Err(format!("{why} did not end the cooldown: {error}")),
            _ => Ok(()),
        }
    }

    /// Checks that the current token is usable and settled, and that no usable token was withheld,
    /// lost or replaced by one that expires earlier.
    pub(super) fn check_current(&mut self) -> Result<(), String> {
        let current = {
            let _context = self.runtimes[self.current].as_ref().expect("a runtime").enter();
            self.cache.current()
        };
        if let Some(token) = &current {
            self.check_usable(token)?;
            if !matches!(self.poll_token(), Poll::Ready(Ok(_))) {
                return Err("a caller did not get the usable token at once".to_owned());
            }
        }
        match (&self.last, &current) {
            (Some(before), _) if self.is_rejected(before) || !self.is_surely_usable(before) => {}
            (Some(before), None) => return Err(format!("{} was usable and is gone", text(before))),
            (Some(before), Some(current)) => self.check_replacement(before, current)?,
            (None, _) => {}
        }
        if current.is_none() {
            self.check_nothing_was_thrown_away()?;
        }
        self.last = current;
        self.callers.truncate(50);
        Ok(())
    }

    /// Checks that a usable token was replaced only by one that has settled and does not expire
    /// earlier.
    fn check_replacement(&self, before: &Token, current: &Token) -> Result<(), String> {
        let now = self.clock.now();
        let source = self.source.lock();
        let [before, after] = [before, current].map(|token| &source.tokens[&text(token)]);
        let ([before], [after]) = (&before[..], &after[..]) else { return Ok(()) };
        if after.requested_at == before.requested_at {
            return Ok(());
        }
        if after.time_left(now) < before.time_left(now) {
            return Err(format!("{} replaced a token that expires later", text(current)));
        }
        if after.age(now) < after.settling_time() {
            return Err(format!("{} was put to use before it had settled", text(current)));
        }
        Ok(())
    }

    /// Checks that the newest token is not usable, because the cache has none.
    fn check_nothing_was_thrown_away(&self) -> Result<(), String> {
        let now = self.clock.now();
        let source = self.source.lock();
        let name = &source.newest;
        let Some([granted]) = source.tokens.get(name).map(|granted| &granted[..]) else {
            return Ok(());
        };
        // A token that had expired may become usable when the wall clock is set back.
        let is_usable =
            granted.is_usable(now) && granted.requested_at.monotonic() >= self.wall_back_at;
        let is_rejected = self.rejected.contains(name) || source.rejected.contains(name);
        if is_usable && !is_rejected {
            return Err(format!("{name} is usable and was thrown away"));
        }
        Ok(())
    }

    /// Checks that a token that was returned has not expired by either clock. One that was returned
    /// again counts as usable for any of its lifetimes.
    pub(super) fn check_usable(&self, token: &Token) -> Result<(), String> {
        let now = self.clock.now();
        let source = self.source.lock();
        let usable = source.tokens[&text(token)].iter().any(|granted| granted.is_usable(now));
        if usable { Ok(()) } else { Err(format!("{} was returned after it expired", text(token))) }
    }

    /// Returns `true` if the token is usable and was granted only once, so its expiry is known.
    fn is_surely_usable(&self, token: &Token) -> bool {
        self.check_usable(token).is_ok() && self.source.lock().tokens[&text(token)].len() == 1
    }

    fn is_rejected(&self, token: &Token) -> bool {
        let name = text(token);
        self.rejected.contains(&name) || self.source.lock().rejected.contains(&name)
    }

    /// Polls a new call of `token` once.
    fn poll_token(&self) -> Poll<Result<Token, Error>> {
        let cache = self.cache.clone();
        let mut caller = Caller {
            call: Box::pin(async move { cache.token().await }),
            runtime: self.current,
            waited: Duration::ZERO,
        };
        self.poll(&mut caller)
    }
}
