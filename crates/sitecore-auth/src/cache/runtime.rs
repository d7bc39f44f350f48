//! The runtime on which a cache can start its tasks.

use std::{cell::Cell, time::Duration};

use tokio::{
    runtime::{Handle, Id},
    time,
};

use crate::{
    contain::contain,
    error::{Error, ErrorKind, Result},
};

/// Returns the current Tokio runtime, or an error if there is none or its timers are disabled.
pub(crate) fn runtime_with_timers() -> Result<Handle> {
    thread_local! {
        /// The runtime that was checked last, and the result.
        static CHECKED: Cell<Option<(Id, bool)>> = const { Cell::new(None) };
    }
    let runtime = Handle::try_current().map_err(|error| Error::new(ErrorKind::Config, error))?;
    let id = runtime.id();
    let checked = CHECKED.get().filter(|(checked, _)| *checked == id);
    // Tokio reports missing timers only by a panic.
    let has_timers =
        checked.map_or_else(|| contain(|| time::sleep(Duration::ZERO)).is_some(), |(_, has)| has);
    CHECKED.set(Some((id, has_timers)));
    if has_timers {
        return Ok(runtime);
    }
    let message = "this Tokio runtime has timers disabled; build it with `enable_time()`";
    Err(Error::new(ErrorKind::Config, message))
}
