//! What runs beside the callers: one task per refresh, bounded in time, and how callers wait for it.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{runtime::Handle, time};
use tracing::{Instrument as _, Span, debug, field::Empty, info, info_span, warn};

use super::{
    Shared,
    answer::Ended,
    state::{Api, Joined, Start},
};
use crate::{Error, ErrorKind, Result, Token, telemetry};

/// Starts a refresh that nobody waits for, if it is the time for one and this is a runtime.
pub(super) fn start_beside(shared: &Arc<Shared>) {
    if let Some((runtime, start)) = shared.start_due() {
        spawn(&runtime, shared, start);
    }
}

/// Finds what a caller without a (good) token gets, and starts a refresh if that is what it takes.
pub(super) fn join(shared: &Arc<Shared>, rejected: Option<&Token>, api: &Api) -> Result<Joined> {
    let runtime = check_runtime()?;
    let (joined, start) = shared.join(rejected, api)?;
    if let Some(start) = start {
        spawn(&runtime, shared, start);
    }
    Ok(joined)
}

/// Returns the runtime that the caller is in, if it can run a refresh and wait for one.
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
    let cache = Some(&*shared.name).filter(|name| !name.is_empty());
    let span = info_span!(
        parent: None,
        "token_refresh",
        cache,
        reason = start.reason.name(),
        grants = Empty,
        outcome = Empty
    );
    runtime.spawn(run(Arc::clone(shared), start).instrument(span));
}

/// One refresh. Whatever the source does (fail, hang, panic), it ends, and whoever waits is told.
async fn run(shared: Arc<Shared>, start: Start) {
    let bound = shared.policy.refresh_timeout;
    let (begun, tried) = (shared.now(), AtomicU32::new(0));
    let refresh = async { time::timeout(bound, grants(&shared, &start, &tried)).await };
    let brought = match AssertUnwindSafe(refresh).catch_unwind().await {
        Ok(Ok(brought)) => brought,
        Ok(Err(_elapsed)) => Err(Error::new(
            ErrorKind::Unavailable,
            format!("no token within {bound:?}"),
        )),
        Err(_panic) => Err(Error::new(
            ErrorKind::Unavailable,
            "the token source panicked",
        )),
    };
    let ended = shared.complete(&start, brought);
    let outcome = match &ended {
        Some(Ended::Renewed(_)) => "renewed",
        Some(Ended::NoNewer(_)) => "no_newer",
        Some(Ended::Failed(error)) => telemetry::kind(error),
        None => "given_up",
    };
    let span = Span::current();
    span.record("grants", tried.into_inner());
    span.record("outcome", outcome);
    let took = shared.now().elapsed_since(begun);
    telemetry::refreshed(&shared.name, start.reason.name(), outcome, took);
    let outcome = match ended {
        Some(Ended::Renewed(token)) => {
            telemetry::usable_until(&shared.name, token.unusable_from());
            info!(token = %token.fingerprint(), lifetime = ?token.lifetime(), "a new token");
            Ok(())
        }
        Some(Ended::NoNewer(again_in)) => {
            info!(?again_in, "the issuer has no newer token");
            Ok(())
        }
        Some(Ended::Failed(error)) => {
            telemetry::gate_closed(&shared.name, shared.now(), error.retry_after());
            warn!(kind = ?error.kind(), cause = %error.cause(), again_in = ?error.retry_after(), "no new token");
            Err(error)
        }
        None => return,
    };
    start.outcome.send_replace(Some(outcome));
}

/// Asks the source, more than once only while somebody waits and the error may pass. Nothing is asked for
/// if there is no reason but new credentials, and there are none.
async fn grants(shared: &Shared, start: &Start, tried: &AtomicU32) -> Result<Option<Token>> {
    if start.only_if_new_credentials && !shared.source.has_new_credentials().await {
        return Ok(None);
    }
    let begun = shared.now();
    loop {
        let asked = shared.now();
        if !shared.state.begin_grant(start.generation) {
            return Err(super::lost());
        }
        let grants = tried.fetch_add(1, Relaxed) + 1;
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
        match shared.policy.pause(&error, grants, left, fastrand::f64()) {
            Some(pause) if awaited => {
                debug!(kind = ?error.kind(), cause = %error.cause(), ?pause, "a grant failed and is tried again");
                time::sleep(pause).await;
            }
            _ => return Err(error),
        }
    }
}
