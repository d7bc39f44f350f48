//! What runs in the background: one task per refresh, with a time limit.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{runtime::Handle, time};
use tracing::{Instrument as _, Span, debug, field::Empty, info, info_span, warn};

use super::{
    cooldown::Permit,
    outcome::RefreshOutcome,
    shared::Shared,
    state::{Join, Refresh, RejectedBy},
    waiter::lost,
};
use crate::{
    error::{Error, ErrorKind, Result},
    metrics,
    token::Token,
};

/// Starts a refresh that no caller waits for, if one is due and this is a Tokio runtime.
pub(super) fn refresh_in_background(shared: &Arc<Shared>) {
    if let Some((runtime, refresh)) = shared.start_due() {
        spawn(&runtime, shared, refresh);
    }
}

/// Determines what a caller without a usable token gets, and starts a refresh if necessary.
pub(super) fn join(shared: &Arc<Shared>, rejected: Option<(&Token, &RejectedBy)>) -> Result<Join> {
    let runtime = check_runtime()?;
    let (join, refresh) = shared.join_or_start(rejected)?;
    if let Some(refresh) = refresh {
        spawn(&runtime, shared, refresh);
    }
    Ok(join)
}

/// Returns the caller's runtime if it can run a refresh and wait for one. Tokio reports missing
/// timers only by a panic.
pub(crate) fn check_runtime() -> Result<Handle> {
    let runtime = Handle::try_current().map_err(|error| Error::new(ErrorKind::Config, error))?;
    if panic::catch_unwind(|| time::sleep(Duration::ZERO)).is_err() {
        return Err(Error::new(
            ErrorKind::Config,
            "this Tokio runtime has timers disabled; build it with `enable_time()`",
        ));
    }
    Ok(runtime)
}

#[expect(clippy::disallowed_methods, reason = "the one task, which no caller owns")]
fn spawn(runtime: &Handle, shared: &Arc<Shared>, refresh: Refresh) {
    let span = info_span!(
        parent: None,
        "token_refresh",
        cache = shared.label(),
        reason = refresh.reason.label(),
        attempts = Empty,
        outcome = Empty
    );
    runtime.spawn(run(Arc::clone(shared), refresh).instrument(span));
}

/// Runs one refresh. It ends and informs its waiters whether the source fails, hangs or panics.
async fn run(shared: Arc<Shared>, refresh: Refresh) {
    let limit = shared.policy.refresh_timeout;
    let (started, mut attempts) = (shared.now(), Attempts::default());
    let fetch = async { time::timeout(limit, fetch_token(&shared, &refresh, &mut attempts)).await };
    let result = match AssertUnwindSafe(fetch).catch_unwind().await {
        Ok(Ok(result)) => result,
        Ok(Err(_elapsed)) => Err(attempts.out_of_time(limit)),
        Err(_panic) => Err(check_runtime()
            .err()
            .unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "the token source panicked"))),
    };
    let outcome = shared.finish(&refresh, result);
    let elapsed = shared.now().elapsed_since(started);
    report(&shared, &refresh, outcome.as_ref(), attempts.count, elapsed);
    let result = match outcome {
        Some(RefreshOutcome::Refreshed(_) | RefreshOutcome::Unchanged(_)) => Ok(()),
        Some(
            RefreshOutcome::RejectedAgain(error)
            | RefreshOutcome::Failed(error)
            | RefreshOutcome::CredentialsUnchanged(error),
        ) => Err(error),
        None => return,
    };
    refresh.result.send_replace(Some(result));
}

/// Reports the outcome of a refresh in logs and metrics.
fn report(
    shared: &Shared,
    refresh: &Refresh,
    outcome: Option<&RefreshOutcome>,
    attempts: u32,
    elapsed: Duration,
) {
    let label = match outcome {
        Some(RefreshOutcome::Refreshed(token)) => {
            metrics::record_usable_until(&shared.name, token.unusable_at());
            info!(token = %token.fingerprint(), lifetime = ?token.lifetime(), "token refreshed");
            "refreshed"
        }
        Some(RefreshOutcome::Unchanged(retry_in)) => {
            info!(?retry_in, "issuer returned no newer token");
            "unchanged"
        }
        Some(RefreshOutcome::RejectedAgain(error) | RefreshOutcome::Failed(error)) => {
            warn!(kind = ?error.kind(), cause = %error.cause(), retry_in = ?error.retry_after(), "token refresh failed");
            metrics::kind_label(error)
        }
        Some(RefreshOutcome::CredentialsUnchanged(_)) => {
            debug!("credentials unchanged, still backing off");
            "credentials_unchanged"
        }
        None => "abandoned",
    };
    let span = Span::current();
    span.record("attempts", attempts);
    span.record("outcome", label);
    // A check for new credentials alone is not a refresh.
    if attempts > 0 {
        metrics::record_refresh(&shared.name, refresh.reason.label(), label, elapsed);
    }
    let cooldown = match outcome {
        Some(
            RefreshOutcome::Refreshed(_)
            | RefreshOutcome::Unchanged(_)
            | RefreshOutcome::RejectedAgain(_),
        ) => Duration::ZERO,
        Some(RefreshOutcome::Failed(error)) => error.retry_after().unwrap_or_default(),
        Some(RefreshOutcome::CredentialsUnchanged(_)) | None => return,
    };
    metrics::record_cooldown(&shared.name, shared.now().after(cooldown));
}

/// The token requests of one refresh.
#[derive(Default)]
struct Attempts {
    count: u32,
    /// Why the last completed one failed.
    failure: Option<Error>,
}

impl Attempts {
    /// Returns the error of a refresh that reached its time limit.
    fn out_of_time(&self, limit: Duration) -> Error {
        let failure = self.failure.as_ref();
        let failure =
            failure.map(|error| format!("; the attempt before it failed: {}", error.cause()));
        let message = format!("no token within {limit:?}{}", failure.unwrap_or_default());
        Error::new(ErrorKind::Unavailable, message)
    }
}

/// Calls the source. Repeats the call only after a transient error and while a caller waits.
/// Returns `None` without calling it if only new credentials would justify a token request and
/// there are none.
async fn fetch_token(
    shared: &Shared,
    refresh: &Refresh,
    attempts: &mut Attempts,
) -> Result<Option<Token>> {
    let started = shared.now();
    let time_left = || {
        let elapsed = shared.now().elapsed_since(started);
        shared.policy.refresh_timeout.saturating_sub(elapsed)
    };
    if refresh.permit == Permit::NewCredentialsOnly && !shared.source.has_new_credentials().await {
        return Ok(None);
    }
    loop {
        let requested_at = shared.now();
        let context = shared.state.begin_request(refresh, time_left()).ok_or_else(lost)?;
        attempts.count += 1;
        let result = shared.source.fetch(context).await;
        let label = metrics::outcome_label(&result, "token");
        metrics::count_request(&shared.name, refresh.reason.label(), label);
        let error = match result {
            Ok(token) => return Ok(Some(token.with_validity(&shared.policy, requested_at))),
            Err(error) => error,
        };
        // One receiver belongs to the state.
        let has_waiters = refresh.result.receiver_count() > 1;
        let (count, jitter) = (attempts.count, fastrand::f64());
        match shared.policy.retry_pause(&error, count, time_left(), jitter) {
            Some(pause) if has_waiters => {
                debug!(kind = ?error.kind(), cause = %error.cause(), ?pause, "token request failed, retrying");
                attempts.failure = Some(error);
                time::sleep(pause).await;
            }
            _ => return Err(error),
        }
    }
}
