//! Signals that end a proxy, and those that are passed on to a program.

use crate::failure::Result;

/// The signals that end a proxy: SIGTERM, SIGINT and SIGHUP.
#[cfg(unix)]
pub(crate) struct End(Forwarded);

#[cfg(unix)]
impl End {
    pub(crate) fn new() -> Result<Self> {
        use rustix::process::Signal;

        Ok(Self(Forwarded::of(&[Signal::TERM, Signal::INT, Signal::HUP])?))
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        let _ = self.0.next().await;
    }
}

/// The signals that are passed on to the program.
#[cfg(unix)]
pub(crate) struct Forwarded(Vec<(rustix::process::Signal, tokio::signal::unix::Signal)>);

#[cfg(unix)]
impl Forwarded {
    pub(crate) fn new() -> Result<Self> {
        use rustix::process::Signal;

        Self::of(&[
            Signal::TERM,
            Signal::HUP,
            Signal::USR1,
            Signal::USR2,
            Signal::INT,
            Signal::QUIT,
        ])
    }

    fn of(numbers: &[rustix::process::Signal]) -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        let ignored = ignored();
        let mut signals = Vec::new();
        for &number in numbers {
            // For example, `nohup` has this process ignore SIGHUP.
            if ignored >> (number.as_raw() - 1) & 1 == 0 {
                signals.push((number, signal(SignalKind::from_raw(number.as_raw()))?));
            }
        }
        Ok(Self(signals))
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> rustix::process::Signal {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.0.iter_mut().map(|(number, signal)| {
            let number = *number;
            Box::pin(async move {
                let _ = signal.recv().await;
                number
            })
        });
        futures_util::future::select_all(waits).await.0
    }
}

/// Returns the set of signals that this process ignores, if the system provides that. Bit 0 is
/// signal 1.
#[cfg(unix)]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

/// Returns `true` if this process is in the foreground of a terminal. A Ctrl-C typed there reaches
/// the program too.
#[cfg(unix)]
fn is_in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
    rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Passes a signal on to a program.
#[cfg(unix)]
pub(crate) fn forward(signal: rustix::process::Signal, id: Option<u32>) {
    use rustix::process::Signal;

    if [Signal::INT, Signal::QUIT].contains(&signal) && is_in_foreground() {
        return;
    }
    let id = id.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(id) = id {
        // It may have ended just now.
        let _ = rustix::process::kill_process(id, signal);
    }
}

/// Ctrl-C, which ends a proxy.
#[cfg(not(unix))]
pub(crate) struct End;

#[cfg(not(unix))]
impl End {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// Ignores Ctrl-C, because a console sends it to the program too.
#[cfg(not(unix))]
pub(crate) struct Forwarded;

#[cfg(not(unix))]
impl Forwarded {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn next(&mut self) {
        loop {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[cfg(not(unix))]
pub(crate) fn forward((): (), _: Option<u32>) {}
