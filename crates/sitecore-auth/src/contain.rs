//! Contains the panics of code that is not ours: sources, their errors, clocks and metrics
//! recorders.

use std::{
    any::Any,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs the code. Returns `None` if it panics.
pub(crate) fn contain<T>(code: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(code)).map_err(discard).ok()
}

/// Drops the payload of a panic. If that panics too, the second payload is leaked.
pub(crate) fn discard(panic: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        mem::forget(again);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    /// Panics when it is dropped, and the payload of that panic does the same.
    struct Relentless;

    impl Drop for Relentless {
        fn drop(&mut self) {
            panic_any(Self);
        }
    }

    #[test]
    fn a_panic_whose_payload_panics_when_it_is_dropped_is_contained() {
        assert_eq!(contain(|| 1), Some(1));
        assert_eq!(contain(|| panic_any(Relentless)), None::<()>);
    }
}
