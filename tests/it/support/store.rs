//! A scripted store in memory, and fleets that share it.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sitecore_auth::{FetchContext, Result, SharingKey, Token, TokenCache, TokenSource};
use sitecore_token_store::{Lease, SharedSource, Stored, TokenStore};
use tokio::time::Instant;

use super::{PausedClock, ScriptedSource};

/// The client secret of a fleet.
pub(crate) const FLEET_SECRET: &str = "a-secret-of-thirty-two-bytes-and-more";

/// A scripted source with a sharing key, made from this secret.
#[derive(Clone)]
pub(crate) struct Tied(pub(crate) ScriptedSource, pub(crate) &'static str);

#[async_trait]
impl TokenSource for Tied {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
        self.0.fetch(context).await
    }

    async fn sharing_key(&self) -> Result<Option<SharingKey>> {
        Ok(Some(SharingKey::new(self.1, "context")))
    }

    async fn has_new_credentials(&self) -> bool {
        self.1 != FLEET_SECRET
    }
}

type Entries = HashMap<String, Vec<u8>>;

/// What happens just before a lease is acquired.
pub(crate) enum ByLease {
    /// Another process saves these entries.
    Saved(Entries),
    /// The store goes down.
    Down,
}

/// A scripted store in memory.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    pub(crate) entries: Arc<Mutex<Entries>>,
    /// The owner of each lease, and when the lease ends.
    pub(crate) leases: Arc<Mutex<HashMap<String, (u64, Instant)>>>,
    pub(crate) is_down: Arc<AtomicBool>,
    pub(crate) hangs: Arc<AtomicBool>,
    /// It accepts no entry.
    pub(crate) is_full: Arc<AtomicBool>,
    /// Another process has the lease, and extends it.
    pub(crate) is_leased: Arc<AtomicBool>,
    pub(crate) calls: Arc<AtomicUsize>,
    /// Happens at the next attempt to acquire a lease.
    pub(crate) by_lease: Arc<Mutex<Option<ByLease>>>,
}

impl Memory {
    async fn respond(&self) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        match self.is_down.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::ConnectionRefused.into()),
            false => Ok(()),
        }
    }

    /// Returns `true` if no process has a lease.
    pub(crate) fn is_free(&self) -> bool {
        self.leases.lock().unwrap().values().all(|(_, end)| *end <= Instant::now())
    }

    fn owns(&self, name: &str, lease: &Lease) -> bool {
        let leases = self.leases.lock().unwrap();
        let owner = leases.get(name).filter(|(_, end)| *end > Instant::now());
        owner.map(|(owner, _)| owner) == lease.handle()
    }
}

#[async_trait]
impl TokenStore for Memory {
    async fn load(&self, name: &str) -> io::Result<Option<Stored>> {
        self.respond().await?;
        let entry = self.entries.lock().unwrap().get(name).cloned();
        Ok(entry.map(Stored::new))
    }

    async fn save(&self, name: &str, entry: &[u8], _keep: Duration) -> io::Result<()> {
        self.respond().await?;
        if self.is_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.entries.lock().unwrap().insert(name.to_owned(), entry.to_owned());
        Ok(())
    }

    async fn try_lease(&self, name: &str, duration: Duration) -> io::Result<Option<Lease>> {
        self.respond().await?;
        match self.by_lease.lock().unwrap().take() {
            Some(ByLease::Saved(entries)) => *self.entries.lock().unwrap() = entries,
            Some(ByLease::Down) => self.is_down.store(true, Ordering::SeqCst),
            None => {}
        }
        let mut leases = self.leases.lock().unwrap();
        let is_taken = leases.get(name).is_some_and(|(_, end)| *end > Instant::now());
        if is_taken || self.is_leased.load(Ordering::SeqCst) {
            return Ok(None);
        }
        // Each call has another number.
        let owner = self.calls.load(Ordering::SeqCst) as u64;
        leases.insert(name.to_owned(), (owner, Instant::now() + duration));
        Ok(Some(Lease::new(owner)))
    }

    async fn extend(&self, name: &str, lease: &Lease, duration: Duration) -> io::Result<bool> {
        self.respond().await?;
        let is_ours = self.owns(name, lease);
        if is_ours {
            self.leases.lock().unwrap().get_mut(name).unwrap().1 = Instant::now() + duration;
        }
        Ok(is_ours)
    }

    async fn release(&self, name: &str, lease: Lease) -> io::Result<()> {
        self.respond().await?;
        if self.owns(name, &lease) {
            self.leases.lock().unwrap().remove(name);
        }
        Ok(())
    }
}

pub(crate) fn shared(source: &ScriptedSource, store: impl TokenStore) -> SharedSource {
    SharedSource::new(Tied(source.clone(), FLEET_SECRET), store).unwrap()
}

pub(crate) fn caches(
    number: usize,
    source: &ScriptedSource,
    store: &Memory,
    clock: &PausedClock,
) -> Vec<TokenCache> {
    let caches = (0..number).map(|_| {
        let shared = shared(source, store.clone()).with_clock(clock.clone());
        TokenCache::builder(shared).clock(clock.clone()).build().unwrap()
    });
    caches.collect()
}
