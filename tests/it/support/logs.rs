//! Captured `tracing` output.

use std::{cell::RefCell, io, rc::Rc, sync::Once};

use tracing_subscriber::{
    filter::dynamic_filter_fn,
    fmt::{self, MakeWriter, format::FmtSpan},
    prelude::*,
};

thread_local! {
    static BUFFER: RefCell<Option<Buffer>> = const { RefCell::new(None) };
}

type Buffer = Rc<RefCell<Vec<u8>>>;

/// Captures this thread's log output until it is dropped.
pub(crate) struct Logs(Buffer);

impl Logs {
    /// Starts to capture the output of every crate at every level.
    ///
    /// All threads share one subscriber. `tracing` caches for each call site whether the first
    /// thread that reached it was interested, so a thread without one would silence it for all.
    pub(crate) fn capture() -> Self {
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| {
            // A thread that is ending no longer has a buffer.
            let is_capturing = dynamic_filter_fn(|_, _| {
                BUFFER.try_with(|buffer| buffer.borrow().is_some()).unwrap_or(false)
            });
            let output = fmt::layer()
                .with_ansi(false)
                .with_span_events(FmtSpan::FULL)
                .with_writer(ThisThread);
            tracing_subscriber::registry().with(output.with_filter(is_capturing)).init();
        });
        let buffer = Buffer::default();
        BUFFER.set(Some(Rc::clone(&buffer)));
        Self(buffer)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.borrow()).into_owned()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        BUFFER.set(None);
    }
}

struct ThisThread;

impl MakeWriter<'_> for ThisThread {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl io::Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BUFFER.with_borrow(|buffer| {
            if let Some(buffer) = buffer {
                buffer.borrow_mut().extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
