//! The tasks of a cache: one per refresh and one per check for new credentials. Each has a time
//! limit.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    runtime::Handle,
    time::{self, timeout},
};
use tracing::{Instrument as _, Span, debug, field, field::Empty, info, info_span};

use super::{
    cooldown::CHECK_TIMEOUT,
    decision::{Arrival, Job, Outcome, Refresh, lost, timed_out},
    shared::Shared,
};
use crate::{
    contain::{contain, discard},
    error::{Error, ErrorKind, Result},
    metrics,
    source::FetchContext,
    token::Token,
};

/// The pause before a token request is repeated because of timing. After it, a new token is no
/// longer identical to the previous one, and a cache in front of the issuer no longer returns one
/// that is about to expire.
const NEXT_SECOND: Duration = Duration::from_secs(1);

/// Ends the job when its task ends, even if the task is dropped with its runtime.
struct Task {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.shared.close(self.number);
    }
}

#[expect(clippy::disallowed_methods, reason = "the tasks that no caller owns")]
pub(super) fn spawn(runtime: &Handle, shared: &Arc<Shared>, job: Job) {
    let task = |number| Task { shared: Arc::clone(shared), number };
    match job {
        Job::Check(number) => drop(runtime.spawn(check(task(number)))),
        Job::Refresh(refresh) => {
            let span = contain(|| refresh_span(shared, &refresh)).unwrap_or_else(Span::none);
            drop(runtime.spawn(run(task(refresh.number), refresh).instrument(span)));
        }
    }
}

fn refresh_span(shared: &Shared, refresh: &Refresh) -> Span {
    info_span!(
        parent: None,
        "token_refresh",
        cache = shared.label(),
        reason = refresh.reason.label(),
        attempts = Empty,
        outcome = Empty
    )
}

/// Asks the source whether it has new credentials. Then starts the refresh that is due, unless a
/// caller waits for the check.
async fn check(task: Task) {
    let shared = &task.shared;
    let now = shared.now();
    if !shared.lock().state.begin_check(task.number, now) {
        // The check was given up, because its runtime did not run in time.
        return;
    }
    let check = async { timeout(CHECK_TIMEOUT, shared.source.has_new_credentials()).await };
    let result = match AssertUnwindSafe(check).catch_unwind().await {
        Ok(result) => result.ok(),
        Err(panic) => {
            discard(panic);
            None
        }
    };
    let cache = shared.label();
    contain(|| match result {
        Some(true) => info!(cache, "credentials changed, ending the cooldown"),
        Some(false) => debug!(cache, "credentials unchanged, still backing off"),
        None => debug!(cache, "check for new credentials failed, still backing off"),
    });
    shared.finish_check(task.number, result);
    // A caller that waits starts the refresh itself.
    if !shared.is_awaited(task.number) {
        shared.refresh_in_background();
    }
}

/// Runs one refresh. It always ends and informs its waiters, even if the source fails, hangs or
/// panics.
async fn run(task: Task, refresh: Refresh) {
    let shared = &task.shared;
    let mut attempts = Attempts::default();
    let limit = refresh.time_left(shared.input());
    let fetch = async { timeout(limit, fetch_token(shared, &refresh, &mut attempts)).await };
    let result = match AssertUnwindSafe(fetch).catch_unwind().await {
        Ok(Ok(result)) => result,
        Ok(Err(_elapsed)) => Err(attempts.timed_out(shared)),
        Err(panic) => {
            discard(panic);
            Err(Error::new(ErrorKind::Unavailable, "the token source panicked"))
        }
    };
    let outcome = shared.finish(&refresh, result);
    contain(|| report(shared, &refresh, &outcome, attempts.count));
}

/// Reports the outcome of a refresh in logs and metrics.
fn report(shared: &Shared, refresh: &Refresh, outcome: &Outcome, attempts: u32) {
    let label = match outcome {
        Outcome::Refreshed(token) => {
            metrics::record_usable_until(&shared.name, token.unusable_at());
            // The store has already logged an adopted one.
            if !token.is_adopted() {
                let lifetime = token.lifetime().map(field::debug);
                info!(token = %token.fingerprint(), lifetime, "token refreshed");
            }
            "refreshed"
        }
        Outcome::Unchanged(retry_in) => {
            info!(?retry_in, "issuer returned no newer token");
            "unchanged"
        }
        Outcome::RejectedAgain(error) => {
            shared.log_failure(error);
            metrics::kind_label(error)
        }
        Outcome::Failed(error) => metrics::kind_label(error),
        Outcome::StoodStill => {
            info!("token refresh lost, because the process stood still");
            "stood_still"
        }
        Outcome::LookAgain => "abandoned",
    };
    let span = Span::current();
    span.record("attempts", attempts);
    span.record("outcome", label);
    let elapsed = shared.now().elapsed_since(refresh.started);
    metrics::record_refresh(&shared.name, refresh.reason.label(), label, elapsed);
}

/// The token requests of one refresh.
#[derive(Default)]
struct Attempts {
    count: u32,
    /// Those that never reached the issuer, which does not count them.
    unreached: u32,
    /// Why the last completed one failed.
    failure: Option<Error>,
}

impl Attempts {
    /// Returns the error of a refresh that reached its time limit.
    fn timed_out(&self, shared: &Shared) -> Error {
        let error = timed_out(&shared.policy);
        let Some(failure) = &self.failure else { return error };
        let message =
            format!("{}; the attempt before it failed: {}", error.cause(), failure.cause());
        Error::new(ErrorKind::Unavailable, message)
    }
}

/// Calls the source. While a caller waits, repeats the call after a transient error, and once if
/// the token had expired. Also repeats it once if the token was identical to the rejected one.
async fn fetch_token(shared: &Shared, refresh: &Refresh, attempts: &mut Attempts) -> Result<Token> {
    let mut is_repeated = false;
    loop {
        let input = shared.input();
        let too_late = refresh.time_left(input) < shared.policy.min_attempt_time();
        if too_late || refresh.stood_still(input) {
            return Err(attempts.timed_out(shared));
        }
        let request = shared.lock().state.begin_request(refresh, input.now);
        let request = request.ok_or_else(lost)?;
        let elapsed = input.now.elapsed_since(refresh.started);
        let context = FetchContext::new(shared.policy.refresh_timeout).after(elapsed).with_cache(
            &shared.name,
            shared.number,
            request.uses_budget,
        );
        let context = match &refresh.replacing {
            Some(token) => context.with_replacing(token, request.replaces_rejected),
            None => context,
        };
        attempts.count += 1;
        let result = shared.source.fetch(context).await;
        metrics::count_request(&shared.name, refresh.reason.label(), &result);
        let error = match result {
            Ok(token) => {
                let token = token.with_validity(&shared.policy, input.now);
                let arrival = shared.inspect(refresh, &token, input.now);
                let is_identical = matches!(arrival, Arrival::Identical);
                match arrival {
                    Arrival::Taken => return Ok(token),
                    _ if !is_repeated && (is_identical || shared.is_awaited(refresh.number)) => {
                        is_repeated = true;
                        if is_identical {
                            let now = shared.now();
                            shared.lock().state.rejections.count_repetition(now);
                        }
                        debug!(
                            "issuer returned an identical or expired token, retrying token request"
                        );
                        time::sleep(NEXT_SECOND).await;
                        continue;
                    }
                    Arrival::Identical => return Ok(token),
                    Arrival::Expired(error) => error,
                }
            }
            Err(error) => error,
        };
        let is_unreached = error.never_reached_issuer();
        attempts.unreached += u32::from(is_unreached);
        let reached = attempts.count - attempts.unreached;
        let same_kind = if is_unreached { attempts.unreached } else { reached };
        let time_left = refresh.time_left(shared.input());
        match shared.policy.retry_pause(&error, same_kind, time_left, fastrand::f64()) {
            Some(pause) if shared.is_awaited(refresh.number) => {
                debug!(kind = ?error.kind(), cause = %error.cause(), ?pause, "token request failed, retrying");
                attempts.failure = Some(error);
                time::sleep(pause).await;
            }
            _ => return Err(error),
        }
    }
}
