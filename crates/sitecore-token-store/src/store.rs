//! What a store must be able to do.

use std::{any::Any, fmt, io, time::Duration};

use async_trait::async_trait;

/// Keeps small sealed entries by name, for several processes.
///
/// A store need not be reliable, fast or durable: whatever it fails to do costs a grant and nothing else. Each
/// call is given up after a quarter of a second.
#[async_trait]
pub trait TokenStore: Send + Sync + 'static {
    /// Reads an entry; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Why the store cannot say.
    async fn load(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Writes an entry, whole or not at all, in the place of the one that is there. It may be dropped after
    /// `keep`.
    ///
    /// # Errors
    ///
    /// Why it was not written.
    async fn save(&self, name: &str, entry: &[u8], keep: Duration) -> io::Result<()>;

    /// Tries to get the lease of an entry, which says who asks the issuer; `None` if somebody else has it. It
    /// ends after `life`, or as soon as it is given back, or its process dies, if the store can notice that.
    ///
    /// # Errors
    ///
    /// Why the store cannot say.
    async fn try_lease(&self, name: &str, life: Duration) -> io::Result<Option<Lease>>;

    /// Gives a lease back.
    async fn release(&self, name: &str, lease: Lease) {
        let _ = name;
        drop(lease);
    }
}

/// The right to ask the issuer, for a while.
pub struct Lease(Box<dyn Any + Send>);

impl Lease {
    /// Makes a lease of what the store holds it by: a locked file, a token of its own.
    pub fn new(held_by: impl Any + Send) -> Self {
        Self(Box::new(held_by))
    }

    /// Returns what the store holds it by.
    #[must_use]
    pub fn held_by<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease")
    }
}
