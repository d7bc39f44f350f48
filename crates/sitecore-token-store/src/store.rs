//! What a store must be able to do.

use std::{any::Any, fmt, io, time::Duration};

use async_trait::async_trait;

/// Keeps small sealed entries by name, for several processes.
///
/// A store need not be reliable, fast or durable: whatever it fails to do costs a grant and nothing else. Each
/// call is given up after a quarter of a second, if it yields: what blocks belongs into
/// [`spawn_blocking`](tokio::task::spawn_blocking).
///
/// A name is 32 hexadecimal digits, or these and `-beside`; an entry has some kilobytes.
///
/// ```
/// use std::{collections::HashMap, io, sync::Mutex, time::Duration};
///
/// use sitecore_token_store::{Lease, Stored, TokenStore};
///
/// /// For the caches of one process.
/// #[derive(Default)]
/// struct Memory(Mutex<HashMap<String, Vec<u8>>>);
///
/// #[async_trait::async_trait]
/// impl TokenStore for Memory {
///     async fn load(&self, name: &str) -> io::Result<Option<Stored>> {
///         let entries = self.0.lock().map_err(|_| io::ErrorKind::Other)?;
///         Ok(entries.get(name).cloned().map(Stored::new))
///     }
///
///     async fn save(&self, name: &str, entry: &[u8], _keep: Duration) -> io::Result<()> {
///         let mut entries = self.0.lock().map_err(|_| io::ErrorKind::Other)?;
///         entries.insert(name.to_owned(), entry.to_owned());
///         Ok(())
///     }
///
///     async fn try_lease(&self, _name: &str, _life: Duration) -> io::Result<Option<Lease>> {
///         // Everybody has it: correct, and of no use.
///         Ok(Some(Lease::new(())))
///     }
/// }
/// ```
///
/// # Cancel safety
///
/// The futures are dropped when they are given up: what they have begun must end whole, or not have begun. A lease
/// that nobody received must end by itself.
#[async_trait]
pub trait TokenStore: Send + Sync + 'static {
    /// Reads an entry; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Why the store cannot say.
    async fn load(&self, name: &str) -> io::Result<Option<Stored>>;

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

    /// Gives a lease back. By default it is dropped: enough where that ends it.
    ///
    /// # Errors
    ///
    /// Why it was not given back: it ends by itself.
    async fn release(&self, name: &str, lease: Lease) -> io::Result<()> {
        let _ = name;
        drop(lease);
        Ok(())
    }
}

/// What a store has under a name.
#[derive(Clone)]
pub struct Stored {
    entry: Vec<u8>,
    remaining: Option<Duration>,
}

impl Stored {
    /// Makes it of an entry as it was saved.
    #[must_use]
    pub fn new(entry: Vec<u8>) -> Self {
        Self { entry, remaining: None }
    }

    /// Says for how much longer the store keeps the entry, by a clock that all processes share: theirs need not
    /// agree then.
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

    /// Returns for how much longer the store keeps it, if it has said so.
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
