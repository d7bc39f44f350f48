//! Limits the token requests that rejected tokens cause: by a schedule per API and one budget for
//! all.

use std::{
    collections::{HashMap, HashSet},
    mem,
    time::Duration,
};

use super::decision::{Input, Refresh, RejectedBy};
use crate::{
    clock::Moment,
    error::{Error, ErrorKind, Result},
    token::Token,
};

/// How many token requests rejections may cause in a burst. APIs that reject every token must not
/// use up the quota, however many there are.
const BUDGET: u32 = 6;

/// How long the budget takes to regain one token request.
const BUDGET_REGAIN: Duration = Duration::from_secs(3600);

/// Limits when a rejected token may be replaced. Also knows whose rejections are credible.
#[derive(Clone, Debug, Default)]
pub(super) struct RejectionLimits {
    series: HashMap<RejectedBy, Series>,
    budget: Budget,
    /// The APIs that have rejected a replacement too. They may accept some requests and reject
    /// others, whatever the token.
    unreliable: HashSet<RejectedBy>,
    /// The APIs that have accepted a token of this cache since they last caused a token request.
    accepting: HashSet<RejectedBy>,
}

/// The replacements in a row that one API's rejections have caused.
#[derive(Clone, Debug)]
struct Series {
    count: u32,
    /// Before this, a token that the API rejects is not replaced.
    retry_at: Moment,
    /// If the API has accepted the replacement, its next rejection after this time counts as its
    /// first.
    forget_at: Moment,
    /// `None` if the replacement ended with its runtime.
    replacement: Option<Token>,
    /// The budget paid for the replacement, and gets that back if the API accepts it.
    is_paid: bool,
    is_accepted: bool,
    /// The issuer returned the rejected token again.
    returned_again: bool,
}

/// Token requests that rejections may still cause.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    full_at: Moment,
}

impl RejectionLimits {
    /// Returns an error if a token that `by` rejected may not be replaced yet.
    pub(super) fn check(&self, by: &RejectedBy, now: Moment) -> Result<()> {
        let (message, retry_at) = match self.series(by, now) {
            Some(series) if !now.has_reached(series.retry_at) => {
                (series.message(), series.retry_at)
            }
            _ if self.is_free(by, now) => return Ok(()),
            _ => (
                "APIs have rejected too many tokens; waiting before the next replacement",
                self.budget.regained_at(),
            ),
        };
        let wait = now.until(retry_at);
        if wait.is_zero() { Ok(()) } else { Err(unavailable(message, wait)) }
    }

    /// Returns an error if the issuer returned a rejected token again, and no newer one since.
    pub(super) fn returned_again(&self, now: Moment) -> Option<Error> {
        let series = self.series.values().find(|series| series.returned_again)?;
        Some(unavailable(series.message(), now.until(series.retry_at)))
    }

    /// Counts the replacement of a token that `by` rejected. `None` stands for one that ended with
    /// its runtime. It counts too, because its token request may have been sent. The budget pays
    /// for it, unless the refresh was due anyway, the token was adopted, or this API gets it for
    /// free.
    pub(super) fn count(
        &mut self,
        refresh: &Refresh,
        by: &RejectedBy,
        replacement: Option<&Token>,
        returned_again: bool,
        input: Input<'_>,
    ) {
        let Input { now, policy, .. } = input;
        let is_adopted = replacement.is_some_and(Token::is_adopted);
        let is_paid = !is_adopted && self.uses_budget(refresh, now);
        if is_paid {
            self.budget.spend(now);
        }
        // Until this API accepts a token again, it counts as one that rejects everything.
        self.accepting.remove(by);
        let count = self.series(by, now).map_or(0, |series| series.count) + 1;
        let lifetime = replacement.or(refresh.replacing.as_ref()).and_then(Token::lifetime);
        let delay = |count| policy.rejection_delay(lifetime, count);
        let retry_at = now.after(delay(count));
        for series in self.series.values_mut() {
            series.returned_again = false;
        }
        let series = Series {
            count,
            retry_at,
            forget_at: retry_at.after(delay(u32::MAX)),
            replacement: replacement.cloned(),
            is_paid,
            is_accepted: false,
            returned_again,
        };
        self.series.insert(by.clone(), series);
        if count > 1 {
            self.unreliable.insert(by.clone());
        }
    }

    /// Returns `true` if the budget pays for a token request of this refresh.
    pub(super) fn uses_budget(&self, refresh: &Refresh, now: Moment) -> bool {
        let rejected_by = refresh.rejected_by.as_ref().filter(|_| refresh.is_due_to_rejection());
        rejected_by.is_some_and(|by| !self.is_free(by, now))
    }

    /// Counts a token request that is repeated because the token was identical to the rejected one.
    pub(super) fn count_repetition(&mut self, now: Moment) {
        self.budget.spend(now);
    }

    /// Records that the processes that share tokens have spent their budget, and get a token request
    /// back after this time.
    pub(super) fn exhaust_budget(&mut self, wait: Duration, now: Moment) {
        self.budget.exhaust(now.after(wait));
    }

    /// Records that an API accepted a token. If this API's rejection caused the request for that
    /// token, the budget gets that request back. Returns `true` in this case.
    pub(super) fn accept(&mut self, api: &RejectedBy, token: &Token) -> bool {
        self.accepting.insert(api.clone());
        if let Some(series) = self.series.get_mut(api)
            && series.replacement.as_ref().is_some_and(|replacement| replacement.is_same(token))
        {
            series.is_accepted = true;
            if mem::take(&mut series.is_paid) {
                self.budget.give_back();
                return true;
            }
        }
        false
    }

    /// Starts every schedule over, after a refresh because of age.
    pub(super) fn start_over(&mut self) {
        // An API that has not rejected anything since the last time is reliable again.
        self.unreliable.retain(|by| self.series.contains_key(by));
        self.series.clear();
    }

    /// Returns `true` if these rejections count against the token for other APIs too. While any API
    /// accepts tokens, two kinds of API say nothing about this token: those that accept none, and
    /// those that have rejected a replacement too.
    pub(super) fn are_credible(&self, rejected_by: &[RejectedBy]) -> bool {
        rejected_by.iter().any(|by| {
            let accepts = self.accepting.contains(by) && !self.unreliable.contains(by);
            *by == RejectedBy::Caller || accepts || self.accepting.is_empty()
        })
    }

    /// Returns `true` if the budget does not pay for the next replacement, because it is the first
    /// for an API that has accepted a token.
    fn is_free(&self, by: &RejectedBy, now: Moment) -> bool {
        self.accepting.contains(by) && self.series(by, now).is_none()
    }

    fn series(&self, by: &RejectedBy, now: Moment) -> Option<&Series> {
        let is_forgotten =
            |series: &&Series| series.is_accepted && now.has_reached(series.forget_at);
        self.series.get(by).filter(|series| !is_forgotten(series))
    }
}

impl Series {
    fn message(&self) -> &'static str {
        match &self.replacement {
            _ if self.returned_again => "the issuer returned the rejected token again",
            Some(_) => "the API rejected the last replacement too; waiting before the next one",
            None => "the last replacement ended with its runtime; waiting before the next one",
        }
    }
}

impl Budget {
    /// Returns when the budget allows the next token request.
    pub(super) fn regained_at(&self) -> Moment {
        self.full_at.before(BUDGET_REGAIN * (BUDGET - 1))
    }

    pub(super) fn spend(&mut self, now: Moment) {
        let full_at = if now.has_reached(self.full_at) { now } else { self.full_at };
        self.full_at = full_at.after(BUDGET_REGAIN).or(now.after(BUDGET_REGAIN * BUDGET));
    }

    /// Allows no token request before this time.
    fn exhaust(&mut self, until: Moment) {
        self.full_at = until.after(BUDGET_REGAIN * (BUDGET - 1));
    }

    pub(super) fn give_back(&mut self) {
        self.full_at = self.full_at.before(BUDGET_REGAIN);
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { full_at: Moment::PAST }
    }
}

fn unavailable(message: &'static str, retry_in: Duration) -> Error {
    Error::new(ErrorKind::Unavailable, message).with_retry_after(retry_in)
}
