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

/// What this thread logs while the value lives.
pub(crate) struct Logs(Buffer);

impl Logs {
    /// Captures everything, of every crate.
    ///
    /// One subscriber for all threads: `tracing` keeps what the first thread to pass a place thinks of it,
    /// and were that one without a subscriber, the place would stay silent for this one.
    pub(crate) fn capture() -> Self {
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| {
            // A thread that ends has no buffer any more.
            let wanted = dynamic_filter_fn(|_, _| {
                BUFFER.try_with(|buffer| buffer.borrow().is_some()).unwrap_or(false)
            });
            let layer = fmt::layer()
                .with_ansi(false)
                .with_span_events(FmtSpan::FULL)
                .with_writer(ThisThread);
            tracing_subscriber::registry().with(layer.with_filter(wanted)).init();
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
