//! What goes into a decision of the cache, and what comes out.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Moment,
    error::{Error, ErrorKind},
    freshness::Freshness,
    policy::RefreshPolicy,
    token::Token,
};

/// If the end of a time limit is noticed later than this, the process was suspended or frozen.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// Who rejected a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RejectedBy {
    Api(Arc<str>),
    /// The program, by calling `replace`.
    Caller,
}

/// What a caller needs.
#[derive(Clone, Copy)]
pub(super) enum Need<'a> {
    /// The current token. Nothing is started.
    Look,
    /// The current token. A refresh that is due is started, but the caller does not wait for it.
    Refresh,
    /// A usable token.
    Token,
    /// The token to send to this API. Nothing is started.
    TokenOf(&'a RejectedBy),
    /// A token that can be used for at least this long.
    TokenFor(Duration),
    /// A token other than the one that was rejected.
    Other { rejected: &'a Token, by: &'a RejectedBy },
}

/// What a caller gets.
#[derive(Debug)]
pub(super) enum Reply<W = u64> {
    Ready(Token),
    /// Wait for this refresh or check.
    Wait(W),
    Fail(Error),
    /// There is no usable token, and the caller does not wait for one.
    Nothing,
}

/// What the caller has to start.
#[derive(Debug)]
pub(super) enum Job {
    Refresh(Refresh),
    /// Ask the source whether it has new credentials.
    Check(u64),
}

/// A refresh.
#[derive(Clone, Debug)]
pub(super) struct Refresh {
    pub(super) number: u64,
    /// When it started. Its time limit counts from then.
    pub(super) started: Moment,
    pub(super) reason: Reason,
    pub(super) replacing: Option<Token>,
    /// The API or caller that rejected the token to be replaced, if any.
    pub(super) rejected_by: Option<RejectedBy>,
    pub(super) was_awaited: bool,
}

/// What the source is told about one token request.
pub(super) struct Request {
    /// The token to be replaced was rejected.
    pub(super) replaces_rejected: bool,
    /// The budget for rejected tokens pays for it.
    pub(super) uses_budget: bool,
}

/// Why a refresh is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Empty,
    Stale,
    Expired,
    /// The current token is usable, but was rejected.
    Rejected,
    /// The program asked for another token, or for one that lasts longer.
    Requested,
}

/// What happens to a token that has arrived.
#[derive(Debug)]
pub(super) enum Arrival {
    Taken,
    /// It is identical to the rejected token, because both were granted within the same second. The
    /// token request is repeated.
    Identical,
    /// It had already expired.
    Expired(Error),
}

/// How a refresh ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Refreshed(Token),
    /// The current token stays, because the new one is not better. The next refresh starts
    /// after this time.
    Unchanged(Duration),
    /// The issuer returned a rejected token again. Other callers keep the current one, or get this
    /// one if none is usable.
    RejectedAgain(Error),
    /// A cooldown has started.
    Failed(Error),
    /// The process stood still. This says nothing about the issuer.
    StoodStill,
    /// The refresh was lost or given up, its token request was not made because the shared budget
    /// is spent, or the check has ended. Its waiters look again.
    LookAgain,
}

/// What callers see without locking the state.
pub(super) struct View {
    /// The current token.
    pub(super) token: Token,
    /// Whether an API has rejected it.
    pub(super) is_rejected: bool,
    /// When to look at the state again. Until then, the token is usable and nothing is due.
    pub(super) look_at: Moment,
}

/// What a decision depends on, besides the state.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) now: Moment,
    pub(super) policy: &'a RefreshPolicy,
    /// Drawn from `0.0..1.0`.
    pub(super) random: f64,
}

impl Refresh {
    /// Returns `true` if it was started only because a usable token was rejected.
    pub(super) fn is_due_to_rejection(&self) -> bool {
        self.rejected_by.is_some() && matches!(self.reason, Reason::Rejected | Reason::Requested)
    }

    /// Returns how much of its time limit is left.
    pub(super) fn time_left(&self, input: Input<'_>) -> Duration {
        input.policy.refresh_timeout.saturating_sub(input.now.elapsed_since(self.started))
    }

    /// Returns `true` if it should have ended by now.
    pub(super) fn is_overdue(&self, input: Input<'_>) -> bool {
        self.time_left(input).is_zero() || self.stood_still(input)
    }

    /// Returns `true` if its time limit passed so long ago that the process must have been
    /// suspended or frozen.
    pub(super) fn stood_still(&self, input: Input<'_>) -> bool {
        let limit = input.policy.refresh_timeout.saturating_add(STOOD_STILL);
        input.now.age_since(self.started) > limit
    }
}

impl Job {
    pub(super) fn number(&self) -> u64 {
        match self {
            Self::Refresh(refresh) => refresh.number,
            Self::Check(number) => *number,
        }
    }
}

impl Reason {
    /// Returns the reason as a label or field.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::Requested => "requested",
        }
    }
}

impl Need<'_> {
    /// Returns `true` if this token meets the need.
    pub(super) fn is_met_by(&self, token: &Token, now: Moment) -> bool {
        match self {
            Self::TokenFor(time) => {
                token.unusable_at() == Moment::NEVER
                    || now.until(token.unusable_at()) >= (*time).max(Duration::from_nanos(1))
            }
            Self::Other { rejected, .. } if rejected.is_same(token) => false,
            _ => token.freshness(now) != Freshness::Expired,
        }
    }

    pub(super) fn can_wait(&self) -> bool {
        !matches!(self, Self::Look | Self::Refresh | Self::TokenOf(_))
    }
}

/// Returns the error of a refresh that reached its time limit.
pub(super) fn timed_out(policy: &RefreshPolicy) -> Error {
    let message = format!("no token within {:?}", policy.refresh_timeout);
    Error::new(ErrorKind::Unavailable, message)
}

/// Returns the error of a refresh that brought an expired token. It is transient: a cache in front
/// of the issuer may return a token until it expires, and then a new one.
pub(super) fn expired() -> Error {
    Error::new(
        ErrorKind::Malformed,
        "the token had already expired when it arrived; check for a cache in front of the issuer",
    )
    .transient()
}

/// Returns the error of a caller that needs a token for longer than a new one can be used.
pub(super) fn too_short() -> Error {
    let message = "the issuer returned no token that can be used for the requested time; request a shorter one";
    Error::new(ErrorKind::Unavailable, message)
}

/// Returns the error of a caller whose refreshes were all lost, or of a refresh that was given up.
pub(super) fn lost() -> Error {
    let message = "several refreshes were lost; check whether the runtime is shutting down";
    Error::new(ErrorKind::Unavailable, message)
}
