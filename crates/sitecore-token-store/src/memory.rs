//! A store in memory, for tests.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    seal::random_id,
    store::{Lease, Stored, TokenStore},
};

/// Keeps entries in memory. Clones share them.
///
/// Meant for tests of a fleet: entries and leases expire by Tokio's clock, which a test can pause.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    entries: HashMap<String, (Stored, Instant)>,
    /// The owner of each lease, and when the lease ends.
    leases: HashMap<String, (u128, Instant)>,
}

impl MemoryStore {
    /// Creates an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    /// Returns the end of this owner's lease, if it has not passed.
    fn lease_of(&mut self, name: &str, lease: &Lease) -> Option<&mut Instant> {
        let (owner, end) = self.leases.get_mut(name)?;
        (lease.handle() == Some(owner) && *end > Instant::now()).then_some(end)
    }
}

#[async_trait]
impl TokenStore for MemoryStore {
    async fn load(&self, name: &str) -> io::Result<Option<Stored>> {
        let contents = self.contents();
        let entry = contents.entries.get(name).filter(|(_, end)| *end > Instant::now());
        Ok(entry
            .map(|(stored, end)| stored.clone().with_remaining(end.duration_since(Instant::now()))))
    }

    async fn save(&self, name: &str, entry: &[u8], keep: Duration) -> io::Result<()> {
        let entry = (Stored::new(entry.to_owned()), Instant::now() + keep);
        self.contents().entries.insert(name.to_owned(), entry);
        Ok(())
    }

    async fn try_lease(&self, name: &str, duration: Duration) -> io::Result<Option<Lease>> {
        let mut contents = self.contents();
        let now = Instant::now();
        if contents.leases.get(name).is_some_and(|(_, end)| *end > now) {
            return Ok(None);
        }
        let owner = random_id();
        contents.leases.insert(name.to_owned(), (owner, now + duration));
        Ok(Some(Lease::new(owner)))
    }

    async fn extend(&self, name: &str, lease: &Lease, duration: Duration) -> io::Result<bool> {
        let mut contents = self.contents();
        let end = contents.lease_of(name, lease);
        Ok(end.map(|end| *end = Instant::now() + duration).is_some())
    }

    async fn release(&self, name: &str, lease: Lease) -> io::Result<()> {
        let mut contents = self.contents();
        if contents.lease_of(name, &lease).is_some() {
            contents.leases.remove(name);
        }
        Ok(())
    }
}
