//! A time limit that a busy machine does not use up.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::timeout;

/// The limit is counted in parts, so that a process that was itself delayed does not blame the
/// store.
const PARTS: u32 = 10;

/// Returns the result of the work, or `None` if it takes longer than this.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    for _ in 0..PARTS {
        if let Ok(result) = timeout(limit / PARTS, &mut work).await {
            return Some(result);
        }
    }
    None
}
