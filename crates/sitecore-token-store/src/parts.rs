//! The wrapped source and the store, as a shared source and its calls use them.

use std::{
    future::Future,
    io,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use secrecy::ExposeSecret as _;
use sitecore_auth::{Clock, Error, ErrorKind, Result, SharingKey, SystemClock, TokenSource};
use tokio::time::timeout;
use tracing::debug;

use crate::{
    entry::Entry,
    limit::within,
    seal::{Seal, random_id},
    store::{Lease, TokenStore},
};

/// How long a lease lasts. A process that dies with it delays the others for at most this long.
const LEASE_DURATION: Duration = Duration::from_secs(5);

/// How long releasing the lease may take, or a quarter of the store's `call_timeout` if that is
/// longer. After that, the lease is left to expire.
const MIN_RELEASE_TIME: Duration = Duration::from_millis(250);

/// A shorter secret could be brute-forced from an entry.
const MIN_SECRET_BYTES: usize = 32;

pub(crate) struct Parts {
    pub(crate) inner: Arc<dyn TokenSource>,
    store: Arc<dyn TokenStore>,
    /// Set by the program. Otherwise the inner source's key is used.
    pub(crate) sharing_key: Option<SharingKey>,
    clock: Arc<dyn Clock>,
    /// Distinguishes the failures of this source's caches from those of others.
    pub(crate) id: u128,
    state: Mutex<State>,
}

/// Kept from one fetch to the next.
#[derive(Default)]
pub(crate) struct State {
    /// The entry with another cache's failure, if the issuer refused or rate-limited the client
    /// there.
    pub(crate) refused_in: Option<String>,
    /// Until then, by the monotonic clock, the store is not expected to accept an entry.
    pub(crate) unwritable_until: Duration,
}

impl Parts {
    pub(crate) fn new(
        inner: impl TokenSource,
        store: impl TokenStore,
        sharing_key: Option<SharingKey>,
    ) -> Self {
        Self {
            inner: Arc::new(inner),
            store: Arc::new(store),
            sharing_key,
            clock: Arc::new(SystemClock),
            id: random_id(),
            state: Mutex::default(),
        }
    }

    pub(crate) fn set_clock(&mut self, clock: impl Clock) {
        self.clock = Arc::new(clock);
    }

    pub(crate) async fn sharing_key(&self) -> Result<Option<SharingKey>> {
        match &self.sharing_key {
            Some(sharing_key) => Ok(Some(sharing_key.clone())),
            None => self.inner.sharing_key().await,
        }
    }

    pub(crate) async fn seal(&self) -> Result<Seal> {
        let sharing_key = check(self.sharing_key().await?)?;
        Ok(Seal::derive(sharing_key.secret(), sharing_key.context()))
    }

    pub(crate) async fn try_lease(&self, seal: &Seal) -> io::Result<Option<Lease>> {
        self.bounded(self.store.try_lease(seal.name(), LEASE_DURATION)).await
    }

    /// Returns `false` if the lease has ended.
    pub(crate) async fn extend(&self, seal: &Seal, lease: &Lease) -> io::Result<bool> {
        self.bounded(self.store.extend(seal.name(), lease, LEASE_DURATION)).await
    }

    /// Loads the entry, or an empty one if there is none that can be opened.
    pub(crate) async fn load(&self, seal: &Seal) -> io::Result<Entry> {
        // Read before the store determines the remaining time: an entry may then seem older than
        // it is, but never younger.
        let now = self.now();
        let entry = self.bounded(self.store.load(seal.name())).await?;
        let entry = entry.and_then(|stored| {
            let text = seal.open(stored.entry())?;
            Entry::decode(&text, now, stored.remaining())
        });
        Ok(entry.unwrap_or_default())
    }

    pub(crate) async fn write(&self, seal: &Seal, entry: &mut Entry) -> io::Result<()> {
        let (text, keep) = entry.encode(self.now());
        self.bounded(self.store.save(seal.name(), &seal.seal(&text), keep)).await
    }

    pub(crate) fn is_unwritable(&self) -> bool {
        self.monotonic() < self.state().unwritable_until
    }

    pub(crate) async fn try_release(&self, seal: &Seal, lease: Lease) -> io::Result<()> {
        self.bounded(self.store.release(seal.name(), lease)).await
    }

    pub(crate) async fn release(&self, seal: &Seal, lease: Option<Lease>) {
        let Some(lease) = lease else { return };
        let limit = MIN_RELEASE_TIME.max(self.store.call_timeout() / 4);
        let released = timeout(limit, self.try_release(seal, lease)).await;
        let released = released.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Err(error) = released {
            debug!(%error, "could not release lease, it will expire");
        }
    }

    /// Limits a call of the store to its `call_timeout`.
    async fn bounded<T>(&self, call: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        // A store that panics counts as down.
        let call = AssertUnwindSafe(call).catch_unwind();
        match within(self.store.call_timeout(), call).await {
            Some(Ok(result)) => result,
            Some(Err(_panic)) => Err(io::Error::other("the token store panicked")),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn monotonic(&self) -> Duration {
        self.clock.now().monotonic()
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.now().wall()
    }
}

/// Returns the key, if there is one and its secret is long enough.
pub(crate) fn check(sharing_key: Option<SharingKey>) -> Result<SharingKey> {
    let config = |message: &str| Error::new(ErrorKind::Config, message);
    let sharing_key = sharing_key
        .ok_or_else(|| config("this source has no sharing key; use SharedSource::with_key"))?;
    if sharing_key.secret().expose_secret().len() < MIN_SECRET_BYTES {
        return Err(config(
            "the secret is shorter than 32 bytes and could be brute-forced from a stored entry; use SharedSource::with_key with a longer key",
        ));
    }
    Ok(sharing_key)
}
