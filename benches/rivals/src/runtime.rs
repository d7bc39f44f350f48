//! Tokio runtimes, and threads that stay on one core.

use tokio::runtime::{Builder, Runtime};

pub(crate) fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

pub(crate) fn multi_thread(workers: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(workers).enable_all().build().expect("a runtime")
}

/// Pins this thread to a core. Whether two unpinned threads share a core is up to the system, and
/// matters more than what is measured.
pub(crate) fn pin_to_core(core: usize) {
    #[cfg(target_os = "linux")]
    {
        let mut cores = rustix::thread::CpuSet::new();
        cores.set(core);
        rustix::thread::sched_setaffinity(None, &cores).expect("two cores");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = core;
}
