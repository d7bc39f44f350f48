//! The time after a failed refresh during which no new refresh starts, and the error that callers
//! in need get.

use std::time::Duration;

use crate::{
    clock::Moment,
    error::{Error, ErrorKind, Result},
};

/// How often a source is asked for new credentials while the issuer refuses the client. A check
/// reads a file.
const CREDENTIALS_POLL: Duration = Duration::from_secs(1);

/// A cooldown. It ends by itself.
pub(super) struct Cooldown {
    /// When our own backoff ends.
    ends_at: Moment,
    /// When the wait that the server specified ends. Monotonic clock only, so that setting the wall
    /// clock does not shorten it.
    server_until: Duration,
    error: Error,
    poll_from: Moment,
}

/// Which refresh may start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    Any,
    /// The issuer refused the client, and it is time to look for new credentials.
    NewCredentialsOnly,
}

impl Cooldown {
    /// Starts a cooldown that lasts for our own backoff and for the wait that the server specified.
    pub(super) fn start(error: Error, now: Moment, own: Duration, server: Duration) -> Self {
        Self {
            ends_at: now.after(own),
            server_until: now.monotonic().saturating_add(server),
            error,
            poll_from: now.after(CREDENTIALS_POLL),
        }
    }

    /// Returns the failure that caused the cooldown.
    pub(super) fn cause(&self) -> Error {
        self.error.clone()
    }

    pub(super) fn remaining(&self, now: Moment) -> Duration {
        now.until(self.ends_at).max(self.server_until.saturating_sub(now.monotonic()))
    }

    /// Returns the failure that caused the cooldown, with the time until it ends.
    pub(super) fn error(&self, now: Moment) -> Error {
        self.cause().with_retry_after(self.remaining(now))
    }

    pub(super) fn permit(&self, now: Moment) -> Result<Permit> {
        if self.remaining(now).is_zero() {
            Ok(Permit::Any)
        } else if self.error.kind() == ErrorKind::Refused && now.has_reached(self.poll_from) {
            Ok(Permit::NewCredentialsOnly)
        } else {
            Err(self.error(now))
        }
    }

    /// Records that there are no new credentials.
    pub(super) fn credentials_unchanged(&mut self, now: Moment) -> Error {
        self.poll_from = now.after(CREDENTIALS_POLL);
        self.error(now)
    }
}
