//! The trait [`TokenStore`] and its types.

use std::{any::Any, fmt, io, sync::Arc, time::Duration};

use async_trait::async_trait;

/// Keeps small sealed entries by name, for several processes.
///
/// A store need not be reliable, fast or durable: a failed call costs one token request at most.
/// Each call is abandoned after [`call_timeout`](Self::call_timeout), and the release of a lease
/// possibly sooner. That only works at an `.await`, so put blocking code into
/// [`spawn_blocking`](tokio::task::spawn_blocking).
///
/// A name is 32 hexadecimal digits. An entry takes a few kilobytes.
///
/// The example `own_store` keeps entries in object storage with conditional writes.
///
/// # Cancel safety
///
/// The futures are dropped when a call is abandoned. A write must then be completed or have no
/// effect, and a lease that no caller received must expire.
#[async_trait]
pub trait TokenStore: Send + Sync + 'static {
    /// Returns an entry, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// The reason why the entry cannot be read.
    async fn load(&self, name: &str) -> io::Result<Option<Stored>>;

    /// Writes an entry atomically, and replaces the one that is there. The store may drop it after
    /// `keep`.
    ///
    /// # Errors
    ///
    /// The reason why the entry was not written.
    async fn save(&self, name: &str, entry: &[u8], keep: Duration) -> io::Result<()>;

    /// Tries to acquire the lease of an entry, or returns `None` if another caller has it. The
    /// lease ends after `duration`, when it is released, or when its process dies, if the store can
    /// notice that.
    ///
    /// # Errors
    ///
    /// The reason why the lease cannot be checked.
    async fn try_lease(&self, name: &str, duration: Duration) -> io::Result<Option<Lease>>;

    /// Extends a lease: it now ends `duration` after this call. Returns `false` if the lease has
    /// ended. The default does nothing, which is enough if a lease lasts until it is dropped.
    ///
    /// # Errors
    ///
    /// The reason why the lease was not extended.
    async fn extend(&self, name: &str, lease: &Lease, duration: Duration) -> io::Result<bool> {
        let _ = (name, lease, duration);
        Ok(true)
    }

    /// Releases a lease. The default drops it, which is enough if dropping it ends the lease.
    ///
    /// # Errors
    ///
    /// The reason why the lease was not released. It then expires.
    async fn release(&self, name: &str, lease: Lease) -> io::Result<()> {
        let _ = name;
        drop(lease);
        Ok(())
    }

    /// Returns how long a call may take before the store counts as failed. The default is 250 ms.
    fn call_timeout(&self) -> Duration {
        Duration::from_millis(250)
    }
}

/// Implements the trait for a pointer to a store.
macro_rules! forward {
    ($pointer:ident) => {
        #[async_trait]
        impl<S: TokenStore + ?Sized> TokenStore for $pointer<S> {
            async fn load(&self, name: &str) -> io::Result<Option<Stored>> {
                (**self).load(name).await
            }

            async fn save(&self, name: &str, entry: &[u8], keep: Duration) -> io::Result<()> {
                (**self).save(name, entry, keep).await
            }

            async fn try_lease(&self, name: &str, duration: Duration) -> io::Result<Option<Lease>> {
                (**self).try_lease(name, duration).await
            }

            async fn extend(
                &self,
                name: &str,
                lease: &Lease,
                duration: Duration,
            ) -> io::Result<bool> {
                (**self).extend(name, lease, duration).await
            }

            async fn release(&self, name: &str, lease: Lease) -> io::Result<()> {
                (**self).release(name, lease).await
            }

            fn call_timeout(&self) -> Duration {
                (**self).call_timeout()
            }
        }
    };
}

forward!(Arc);
forward!(Box);

/// An entry that a store returned.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Stored {
    entry: Vec<u8>,
    remaining: Option<Duration>,
}

impl Stored {
    /// Creates an entry from its bytes, as they were saved.
    #[must_use]
    pub fn new(entry: Vec<u8>) -> Self {
        Self { entry, remaining: None }
    }

    /// Sets how much longer the store keeps the entry, by a clock that all processes share. Their
    /// own clocks then need not agree.
    #[must_use]
    pub fn with_remaining(mut self, remaining: Duration) -> Self {
        self.remaining = Some(remaining);
        self
    }

    /// Returns the entry.
    #[must_use]
    pub fn entry(&self) -> &[u8] {
        &self.entry
    }

    /// Returns how much longer the store keeps the entry, if known.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.remaining
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("bytes", &self.entry.len())
            .field("remaining", &self.remaining)
            .finish()
    }
}

/// The exclusive right to request a token, for a limited time.
pub struct Lease(Box<dyn Any + Send + Sync>);

impl Lease {
    /// Creates a lease from what the store needs to release it, such as a locked file or an owner
    /// id.
    pub fn new(handle: impl Any + Send + Sync) -> Self {
        Self(Box::new(handle))
    }

    /// Returns the value passed to [`new`](Self::new), or `None` if it has another type.
    #[must_use]
    pub fn handle<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease")
    }
}
