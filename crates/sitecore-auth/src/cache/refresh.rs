//! What runs beside the callers: one task per refresh, bounded in time, and how callers wait for it.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{runtime::Handle, time};
use tracing::{Instrument as _, Span, debug, field::Empty, info, info_span, warn};

use super::{
    Shared,
    answer::Ended,
    state::{Joined, RefusedBy, Start},
};
use crate::{Error, ErrorKind, Result, Token, telemetry};

/// Starts a refresh that nobody waits for, if it is the time for one and this is a runtime.
pub(super) fn start_beside(shared: &Arc<Shared>) {
    if let Some((runtime, start)) = shared.start_due() {
        spawn(&runtime, shared, start);
    }
}

/// Finds what a caller without a (good) token gets, and starts a refresh if that is what it takes.
pub(super) fn join(shared: &Arc<Shared>, refused: Option<(&Token, &RefusedBy)>) -> Result<Joined> {
    let runtime = check_runtime()?;
    let (joined, start) = shared.join_or_start(refused)?;
    if let Some(start) = start {
        spawn(&runtime, shared, start);
    }
    Ok(joined)
}

/// Returns the runtime that the caller is in, if it can run a refresh and wait for one. That it has no timers, Tokio
/// tells by a panic alone.
pub(crate) fn check_runtime() -> Result<Handle> {
    let runtime = Handle::try_current().map_err(|error| Error::new(ErrorKind::Config, error))?;
    if panic::catch_unwind(|| time::sleep(Duration::ZERO)).is_err() {
        return Err(Error::new(
            ErrorKind::Config,
            "this Tokio runtime has no timers: call `enable_time` when it is built",
        ));
    }
    Ok(runtime)
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one task: a refresh belongs to no caller"
)]
fn spawn(runtime: &Handle, shared: &Arc<Shared>, start: Start) {
    let span = info_span!(
        parent: None,
        "token_refresh",
        cache = shared.label(),
        reason = start.reason.name(),
        grants = Empty,
        outcome = Empty
    );
    runtime.spawn(run(Arc::clone(shared), start).instrument(span));
}

/// One refresh. Whatever the source does (fail, hang, panic), it ends, and whoever waits is told.
async fn run(shared: Arc<Shared>, start: Start) {
    let bound = shared.policy.refresh_timeout;
    let (begun, mut tried) = (shared.now(), Tried::default());
    let refresh = async { time::timeout(bound, grants(&shared, &start, &mut tried)).await };
    let brought = AssertUnwindSafe(refresh).catch_unwind().await;
    let brought = match brought {
        Ok(Ok(brought)) => brought,
        Ok(Err(_elapsed)) => Err(tried.out_of_time(bound)),
        Err(_panic) => Err(check_runtime()
            .err()
            .unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "the token source panicked"))),
    };
    let ended = shared.complete(&start, brought);
    let took = shared.now().elapsed_since(begun);
    report(&shared, &start, ended.as_ref(), tried.grants, took);
    let outcome = match ended {
        Some(Ended::Renewed(_) | Ended::NoNewer(_)) => Ok(()),
        Some(Ended::RefusedAgain(error) | Ended::Failed(error) | Ended::StillClosed(error)) => {
            Err(error)
        }
        None => return,
    };
    start.outcome.send_replace(Some(outcome));
}

/// Lets those who watch know what came of a refresh.
fn report(shared: &Shared, start: &Start, ended: Option<&Ended>, grants: u32, took: Duration) {
    let outcome = match ended {
        Some(Ended::Renewed(token)) => {
            telemetry::usable_until(&shared.name, token.unusable_from());
            info!(token = %token.fingerprint(), lifetime = ?token.lifetime(), "a new token");
            "renewed"
        }
        Some(Ended::NoNewer(again_in)) => {
            info!(?again_in, "the issuer has no newer token");
            "no_newer"
        }
        Some(Ended::RefusedAgain(error) | Ended::Failed(error)) => {
            warn!(kind = ?error.kind(), cause = %error.cause(), again_in = ?error.retry_after(), "no new token");
            telemetry::kind(error)
        }
        Some(Ended::StillClosed(_)) => {
            debug!("there are no new credentials: not asking yet");
            "still_closed"
        }
        None => "given_up",
    };
    let span = Span::current();
    span.record("grants", grants);
    span.record("outcome", outcome);
    // Where nothing was asked for, there is nothing to count.
    if grants > 0 {
        telemetry::refreshed(&shared.name, start.reason.name(), outcome, took);
    }
    let closed_for = match ended {
        Some(Ended::Renewed(_) | Ended::NoNewer(_) | Ended::RefusedAgain(_)) => Duration::ZERO,
        Some(Ended::Failed(error)) => error.retry_after().unwrap_or_default(),
        Some(Ended::StillClosed(_)) | None => return,
    };
    telemetry::gate_closed(&shared.name, shared.now().after(closed_for));
}

/// The grants of one refresh.
#[derive(Default)]
struct Tried {
    grants: u32,
    /// Why the last one that has ended brought nothing.
    failure: Option<Error>,
}

impl Tried {
    /// Returns the error of a refresh that was cut off.
    fn out_of_time(&self, bound: Duration) -> Error {
        let before = self.failure.as_ref();
        let before = before.map(|error| format!("; the grant before failed: {}", error.cause()));
        let message = format!("no token within {bound:?}{}", before.unwrap_or_default());
        Error::new(ErrorKind::Unavailable, message)
    }
}

/// Asks the source, more than once only while somebody waits and the error may pass. Nothing is asked for
/// if there is no reason but new credentials, and there are none.
async fn grants(shared: &Shared, start: &Start, tried: &mut Tried) -> Result<Option<Token>> {
    if start.only_if_new_credentials && !shared.source.has_new_credentials().await {
        return Ok(None);
    }
    let begun = shared.now();
    loop {
        let asked = shared.now();
        if !shared.state.begin_grant(start.generation) {
            return Err(super::lost());
        }
        tried.grants += 1;
        let answer = shared.source.fetch(start.replacing.as_ref()).await;
        let outcome = telemetry::outcome(&answer, "token");
        telemetry::granted(&shared.name, start.reason.name(), outcome);
        let error = match answer {
            Ok(token) => return Ok(Some(token.stamped(&shared.policy, asked))),
            Err(error) => error,
        };
        let elapsed = shared.now().elapsed_since(begun);
        let left = shared.policy.refresh_timeout.saturating_sub(elapsed);
        // One receiver is the state's own.
        let awaited = start.outcome.receiver_count() > 1;
        match shared.policy.pause(&error, tried.grants, left, fastrand::f64()) {
            Some(pause) if awaited => {
                debug!(kind = ?error.kind(), cause = %error.cause(), ?pause, "a grant failed and is tried again");
                tried.failure = Some(error);
                time::sleep(pause).await;
            }
            _ => return Err(error),
        }
    }
}
