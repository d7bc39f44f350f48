//! The tokens of a cache: the current one, a newer one that is settling, and the last rejected one,
//! with the APIs that rejected or accepted each.

use std::time::Duration;

use super::{
    decision::{Need, RejectedBy},
    rejections::RejectionLimits,
};
use crate::{clock::Moment, freshness::Freshness, policy::RefreshPolicy, token::Token};

/// How long after the arrival of a token an API may still not know its key. The longest settling
/// time is as long.
const KEY_DELAY: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Debug, Default)]
pub(super) struct Tokens {
    /// The token that callers get.
    current: Option<TokenRecord>,
    /// A newer token, and when it will replace the current one. It does so earlier if the current
    /// one stops being good.
    settling: Option<(TokenRecord, Moment)>,
    /// The last rejected token that was replaced or discarded. It does not replace a usable token.
    /// Only an API that has accepted it gets it again, if that API does not know the newer tokens
    /// yet.
    retired: Option<Box<TokenRecord>>,
}

/// A token, and who has rejected or accepted it.
#[derive(Clone, Debug)]
pub(super) struct TokenRecord {
    pub(super) token: Token,
    pub(super) rejected_by: Vec<RejectedBy>,
    accepted_by: Vec<RejectedBy>,
    received_at: Moment,
}

impl TokenRecord {
    fn is_usable(&self, now: Moment) -> bool {
        self.token.freshness(now) != Freshness::Expired
    }
}

impl Tokens {
    pub(super) fn current(&self) -> Option<&TokenRecord> {
        self.current.as_ref()
    }

    /// Returns the current token unless it has expired.
    pub(super) fn usable(&self, now: Moment) -> Option<&TokenRecord> {
        self.current.as_ref().filter(|current| current.is_usable(now))
    }

    pub(super) fn settling(&self) -> Option<(&Token, Moment)> {
        self.settling.as_ref().map(|(record, until)| (&record.token, *until))
    }

    /// Returns the token that meets the need, if there is one.
    pub(super) fn find(&self, need: Need<'_>, now: Moment) -> Option<Token> {
        let met = |record: &&TokenRecord| need.is_met_by(&record.token, now);
        let record = match need {
            Need::Look | Need::Refresh | Need::Token => self.current.as_ref().filter(met),
            Need::TokenFor(_) => self.records().find(met),
            Need::Other { by, .. } => self.good_for(by, now, met),
            // If the API has rejected all of them, it gets the newest one, which may only have been
            // too new.
            Need::TokenOf(api) => {
                self.good_for(api, now, met).or_else(|| self.records().filter(met).last())
            }
        };
        record.map(|record| record.token.clone())
    }

    /// Returns a token that this API has not rejected. Another API may have rejected a token that
    /// this one accepts, and this one may not know the key of the newer token yet.
    fn good_for(
        &self,
        api: &RejectedBy,
        now: Moment,
        met: impl Fn(&&TokenRecord) -> bool,
    ) -> Option<&TokenRecord> {
        let is_good = |it: &&TokenRecord| met(it) && !it.rejected_by.contains(api);
        let accepts = |it: &TokenRecord| it.accepted_by.contains(api);
        let is_new = |it: &TokenRecord| now.age_since(it.received_at) < KEY_DELAY;
        // If the API rejects a token that is older, its key has changed, so no earlier token helps.
        let may_be_unknown = self.records().all(|it| !accepts(it) && is_new(it));
        let retired = self.retired.as_deref().filter(|it| {
            let by_program = it.rejected_by.contains(&RejectedBy::Caller);
            may_be_unknown && !by_program && accepts(it) && is_good(it)
        });
        self.records().filter(is_good).chain(retired).next()
    }

    /// Returns when this token was received, if it is the current or the settling one.
    pub(super) fn received_at(&self, token: &Token) -> Option<Moment> {
        let record = self.records().find(|record| record.token.is_same(token));
        record.map(|record| record.received_at)
    }

    /// Returns the settling token, or else the current one.
    pub(super) fn newest(&self) -> Option<&Token> {
        self.records().last().map(|record| &record.token)
    }

    /// Records who rejected a token, if the cache still has that token.
    pub(super) fn record_rejection(&mut self, token: &Token, by: &RejectedBy) {
        let mut records = self.all_mut().filter(|record| !record.rejected_by.contains(by));
        if let Some(record) = records.find(|record| record.token.is_same(token)) {
            record.rejected_by.push(by.clone());
        }
    }

    /// Records that an API accepted a token, and so withdraws its earlier rejection.
    pub(super) fn record_acceptance(&mut self, token: &Token, api: &RejectedBy) {
        for record in self.all_mut().filter(|record| record.token.is_same(token)) {
            record.rejected_by.retain(|by| by != api);
            if !record.accepted_by.contains(api) {
                record.accepted_by.push(api.clone());
            }
        }
    }

    /// Returns `true` if this token was rejected, as far as the cache remembers.
    pub(super) fn is_rejected(&self, token: &Token) -> bool {
        let rejected = self.records().filter(|record| !record.rejected_by.is_empty());
        rejected.chain(self.retired.as_deref()).any(|rejected| rejected.token.is_same(token))
    }

    /// Returns `true` if the cache has a token that expires later and that was not rejected.
    pub(super) fn outlast(&self, token: &Token, now: Moment) -> bool {
        let mut good = self.records().filter(|record| record.rejected_by.is_empty());
        good.any(|record| token.expires_before(&record.token, now))
    }

    /// Adds a new token. It settles first if the current one is still good.
    pub(super) fn add(
        &mut self,
        token: Token,
        rejections: &RejectionLimits,
        now: Moment,
        policy: &RefreshPolicy,
    ) {
        let settled_at = token.settled_at(policy);
        let record = self.record_of(token, now);
        if self.is_good(rejections, now) && !now.has_reached(settled_at) {
            self.settling = Some((record, settled_at));
        } else {
            self.replace(record);
        }
    }

    /// Puts a settling token to use if it has settled, or if the current one is no longer good.
    pub(super) fn put_to_use(&mut self, rejections: &RejectionLimits, now: Moment) {
        let is_good = self.is_good(rejections, now);
        let settled = self.settling.take_if(|(_, until)| !is_good || now.has_reached(*until));
        let Some((record, _)) = settled else { return };
        let is_better = match self.usable(now) {
            // By now, the settling token may have expired, the program may have rejected it, or the
            // API that rejected the current one may have accepted it again.
            Some(current) => {
                let is_shorter = record.token.expires_before(&current.token, now);
                let is_rejected_by_program =
                    is_good && record.rejected_by.contains(&RejectedBy::Caller);
                let is_preferable = !is_shorter || !current.rejected_by.is_empty();
                record.is_usable(now) && is_preferable && !is_rejected_by_program
            }
            None => true,
        };
        if is_better {
            self.replace(record);
        } else {
            self.retire(record);
        }
    }

    pub(super) fn replace(&mut self, record: TokenRecord) {
        self.settling = None;
        if let Some(previous) = self.current.replace(record) {
            self.retire(previous);
        }
    }

    /// Remembers a token that is no longer used, if it was rejected.
    fn retire(&mut self, record: TokenRecord) {
        if !record.rejected_by.is_empty() {
            self.retired = Some(Box::new(record));
        }
    }

    /// Returns the record of a token that has arrived. A token can arrive again; its rejections and
    /// acceptances are kept.
    pub(super) fn record_of(&self, token: Token, now: Moment) -> TokenRecord {
        let mut known = self.records().chain(self.retired.as_deref());
        let known = known.find(|record| record.token.is_same(&token));
        let (rejected_by, accepted_by) = match known {
            Some(known) => (known.rejected_by.clone(), known.accepted_by.clone()),
            None => (Vec::new(), Vec::new()),
        };
        TokenRecord { token, rejected_by, accepted_by, received_at: now }
    }

    /// Returns `true` if the current token is usable and has no credible rejection.
    fn is_good(&self, rejections: &RejectionLimits, now: Moment) -> bool {
        self.usable(now).is_some_and(|current| !rejections.are_credible(&current.rejected_by))
    }

    fn records(&self) -> impl Iterator<Item = &TokenRecord> {
        self.current.iter().chain(self.settling.iter().map(|(record, _)| record))
    }

    /// Returns the records, and that of the retired token.
    fn all_mut(&mut self) -> impl Iterator<Item = &mut TokenRecord> {
        let settling = self.settling.iter_mut().map(|(record, _)| record);
        self.current.iter_mut().chain(settling).chain(self.retired.as_deref_mut())
    }
}
