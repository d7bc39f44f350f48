//! A scripted store in memory, and fleets that share it.

use std::{
    collections::{HashMap, HashSet},
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
    pub(crate) leased: Arc<Mutex<HashSet<String>>>,
    pub(crate) is_down: Arc<AtomicBool>,
    pub(crate) hangs: Arc<AtomicBool>,
    /// An unresponsive process has the lease.
    pub(crate) is_stuck: Arc<AtomicBool>,
    pub(crate) calls: Arc<AtomicUsize>,
    /// Happens at the next attempt to acquire a lease.
    pub(crate) by_lease: Arc<Mutex<Option<ByLease>>>,
}

struct LeaseGuard(Arc<Mutex<HashSet<String>>>, String);

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        self.0.lock().unwrap().remove(&self.1);
    }
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
        self.entries.lock().unwrap().insert(name.to_owned(), entry.to_owned());
        Ok(())
    }

    async fn try_lease(&self, name: &str, _duration: Duration) -> io::Result<Option<Lease>> {
        self.respond().await?;
        match self.by_lease.lock().unwrap().take() {
            Some(ByLease::Saved(entries)) => *self.entries.lock().unwrap() = entries,
            Some(ByLease::Down) => self.is_down.store(true, Ordering::SeqCst),
            None => {}
        }
        if self.is_stuck.load(Ordering::SeqCst) && !name.ends_with("-fallback") {
            return Ok(None);
        }
        let is_free = self.leased.lock().unwrap().insert(name.to_owned());
        Ok(is_free.then(|| Lease::new(LeaseGuard(Arc::clone(&self.leased), name.to_owned()))))
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
