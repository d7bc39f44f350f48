//! What people see on a terminal: notes, progress, a bar.

use std::{
    future::Future,
    io::{self, IsTerminal as _},
    pin::pin,
    time::Duration,
};

use tokio::time::timeout;

use crate::{
    args::Common,
    failure::{Failure, Kind, Result},
};

/// What takes longer is announced on a terminal.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prints a note on stderr, unless the command is to be quiet.
pub(crate) fn note(common: &Common, text: &str) {
    if !common.quiet {
        anstream::eprintln!("sitecore-auth: {text}");
    }
}

/// Waits for a result, for as long as the command may take. Says on a terminal what it waits for.
pub(crate) async fn wait_for<T>(
    common: &Common,
    what: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let limit = common.timeout;
    let mut work = pin!(work);
    let late = || {
        let message = format!("no result within {}: {what}", humantime::format_duration(limit));
        Failure::new(Kind::Unavailable, message).hint("allow more time with --timeout")
    };
    if let Ok(result) = timeout(PATIENCE.min(limit), &mut work).await {
        return result;
    }
    if io::stderr().is_terminal() {
        note(common, &format!("{what} …"));
    }
    timeout(limit.saturating_sub(PATIENCE), work).await.unwrap_or_else(|_| Err(late()))
}

/// Returns a bar of this many characters, filled to this part.
pub(crate) fn bar(part: f64, width: usize) -> String {
    let filled = (part.clamp(0.0, 1.0) * width as f64).round() as usize;
    format!("{}{}", "█".repeat(filled), "░".repeat(width - filled))
}

/// Returns a duration in words, such as `23 h 59 min`.
pub(crate) fn words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}
