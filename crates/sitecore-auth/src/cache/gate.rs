//! After a failure: the instant before which nobody asks again, and what those are told who need a token.

use std::time::Duration;

use crate::{Error, ErrorKind, Result, clock::Now};

/// How often a source is asked for new credentials while a refusal keeps the gate closed: a file is read.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A closed gate. It opens by itself.
pub(super) struct Gate {
    /// The backoff of our own.
    opens: Now,
    /// The wait that the server named, by the monotonic clock alone: a wall clock that jumps does not
    /// shorten it.
    named_until: Duration,
    error: Error,
    look_from: Now,
}

/// How a refresh may pass.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    Free,
    /// The gate is closed by a refusal, and it is time to look.
    IfNewCredentials,
}

impl Gate {
    /// Closes for a time of our own choice, and for the one that the server named.
    pub(super) fn close(error: Error, now: Now, own: Duration, named: Duration) -> Self {
        Self {
            opens: now.after(own),
            named_until: now.monotonic().saturating_add(named),
            error,
            look_from: now.after(LOOK_AGAIN),
        }
    }

    /// Returns the failure that closed the gate.
    pub(super) fn cause(&self) -> Error {
        self.error.clone()
    }

    pub(super) fn left(&self, now: Now) -> Duration {
        now.until(self.opens).max(self.named_until.saturating_sub(now.monotonic()))
    }

    /// Returns the failure that closed the gate, with the time until it opens.
    pub(super) fn error(&self, now: Now) -> Error {
        self.cause().with_retry_after(self.left(now))
    }

    pub(super) fn pass(&self, now: Now) -> Result<Passage> {
        if self.left(now).is_zero() {
            Ok(Passage::Free)
        } else if self.error.kind() == ErrorKind::Refused && now.has_reached(self.look_from) {
            Ok(Passage::IfNewCredentials)
        } else {
            Err(self.error(now))
        }
    }

    /// Notes that there were no new credentials.
    pub(super) fn looked(&mut self, now: Now) -> Error {
        self.look_from = now.after(LOOK_AGAIN);
        self.error(now)
    }
}
