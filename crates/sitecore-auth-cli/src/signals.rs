//! Signals that end a proxy, and those that are passed on to a program.

use crate::failure::Result;

/// Begins to listen for the signals that end a proxy: SIGTERM, SIGINT and SIGHUP, or Ctrl-C.
#[cfg(unix)]
pub(crate) fn end() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut signals = Vec::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        let mut signal = signal(kind)?;
        signals.push(Box::pin(async move {
            let _ = signal.recv().await;
        }));
    }
    Ok(async move { drop(futures_util::future::select_all(signals).await) })
}

#[cfg(not(unix))]
pub(crate) fn end() -> Result<impl Future<Output = ()>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}

/// The signals that a program gets if this process does.
#[cfg(unix)]
pub(crate) struct Forwarded(Vec<(rustix::process::Signal, tokio::signal::unix::Signal)>);

#[cfg(unix)]
impl Forwarded {
    pub(crate) fn new() -> Result<Self> {
        use std::io::{IsTerminal as _, stdin};

        use rustix::process::Signal;
        use tokio::signal::unix::{SignalKind, signal};

        // A terminal sends these to the program too.
        let from_terminal = [Signal::INT, Signal::QUIT];
        let mut signals = Vec::new();
        for (number, kind) in [
            (Signal::TERM, SignalKind::terminate()),
            (Signal::HUP, SignalKind::hangup()),
            (Signal::USR1, SignalKind::user_defined1()),
            (Signal::USR2, SignalKind::user_defined2()),
            (Signal::INT, SignalKind::interrupt()),
            (Signal::QUIT, SignalKind::quit()),
        ] {
            let received = signal(kind)?;
            if !(stdin().is_terminal() && from_terminal.contains(&number)) {
                signals.push((number, received));
            }
        }
        Ok(Self(signals))
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> rustix::process::Signal {
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

/// Passes a signal on to a program.
#[cfg(unix)]
pub(crate) fn forward(signal: rustix::process::Signal, id: Option<u32>) {
    let id = id.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(id) = id {
        // It may have ended just now.
        let _ = rustix::process::kill_process(id, signal);
    }
}

/// A console sends Ctrl-C to the program too.
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
