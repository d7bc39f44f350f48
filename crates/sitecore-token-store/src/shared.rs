//! The source that shares: adopt the store's token, or get the lease and ask, or wait for who has it.

use std::{fmt, future::Future, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use sitecore_auth::{Clock, Error, ErrorKind, Identity, Result, SystemClock, Token, TokenSource};
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{Lease, TokenStore, entry::Entry, seal::Seal};

/// One call of the store; on a network that works it takes a hundredth of it.
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_millis(250);

/// Longer than one grant may take.
const LEASE: Duration = Duration::from_secs(15);

/// How long another process is waited for; the cache's refresh has time for a grant afterwards.
const PATIENCE: Duration = Duration::from_secs(18);

/// Between two looks at what the other process does; drawn anew each time, up to twice as long.
const LOOK: Duration = Duration::from_millis(100);

/// A fleet whose store went down does not ask in one instant.
const SPREAD: Duration = Duration::from_millis(500);

/// Who can read an entry can try secrets on it: shorter ones are found.
const LEAST_SECRET: usize = 32;

/// Shares the tokens of another source with other processes, by way of a store.
///
/// If the store has a token that is newer than the one to be replaced, it is adopted, with its age. Else one
/// process gets the lease, asks, and saves what it is given; the others wait for that, and ask alone after a
/// while. A failure is shared too, so that an outage of the issuer costs the fleet one try at a time.
///
/// Losing the lease costs one grant, and a store that is down is a missing token: neither is an outage.
pub struct SharedSource {
    inner: Arc<dyn TokenSource>,
    store: Arc<dyn TokenStore>,
    /// Given by the program, instead of what `inner` says.
    identity: Option<Identity>,
    clock: Arc<dyn Clock>,
    /// Tells this process's failures from others'.
    id: u64,
}

impl SharedSource {
    /// Puts a store in front of a source that can say what its tokens are tied to: a
    /// [`TokenClient`](sitecore_auth::TokenClient), a [`ProviderSource`](sitecore_auth::ProviderSource).
    ///
    /// Entries are sealed with a key that comes from the client secret: a secret that is rotated begins a new
    /// entry.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the source is of another kind, or its secret has fewer than 32 bytes: use
    /// [`with_key`](Self::with_key). Outside a Tokio runtime, and if the source must read a file to know, `fetch` says
    /// so instead.
    pub fn new(inner: impl TokenSource, store: impl TokenStore) -> Result<Self> {
        let shared = Self::of(inner, store, None);
        // A source that knows by itself answers at once; one that reads a file wants a runtime.
        if Handle::try_current().is_ok()
            && let Some(identity) = shared.inner.identity().now_or_never()
        {
            check(identity?)?;
        }
        Ok(shared)
    }

    /// Puts a store in front of any source. Processes with the same `name` and `key` share.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the key has fewer than 32 bytes.
    pub fn with_key(
        inner: impl TokenSource,
        store: impl TokenStore,
        name: impl Into<String>,
        key: impl Into<SecretString>,
    ) -> Result<Self> {
        let identity = check(Some(Identity::new(key, name)))?;
        Ok(Self::of(inner, store, Some(identity)))
    }

    fn of(inner: impl TokenSource, store: impl TokenStore, identity: Option<Identity>) -> Self {
        Self {
            inner: Arc::new(inner),
            store: Arc::new(store),
            identity,
            clock: Arc::new(SystemClock),
            id: fastrand::u64(..),
        }
    }

    /// Sets the clock, for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    async fn seal(&self) -> Result<Seal> {
        let identity = match &self.identity {
            Some(identity) => identity.clone(),
            None => check(self.inner.identity().await?)?,
        };
        Ok(Seal::derive(identity.secret(), identity.context()))
    }

    /// Reads the entry; an empty one if there is none that can be opened.
    async fn look(&self, seal: &Seal) -> io::Result<Entry> {
        // Before the store reckons what remains: an entry is older than it seems, if anything.
        let now = self.now();
        let entry = bounded(self.store.load(seal.name())).await?;
        let entry = entry.and_then(|stored| {
            let text = seal.open(stored.entry())?;
            Entry::read(&text, now, stored.remaining())
        });
        Ok(entry.unwrap_or_default())
    }

    /// Finds what the entry answers.
    fn adopt(&self, entry: &Entry, replacing: Option<&Token>) -> Option<Result<Token>> {
        let answer = entry.answer(replacing, self.now(), self.id)?;
        match &answer {
            Ok(token) => debug!(token = %token.fingerprint(), "a token was adopted from the store"),
            Err(error) => debug!(%error, "another process was given no token: not asking yet"),
        }
        Some(answer)
    }

    /// Asks the issuer, having the lease or the patience no longer, and lets the others know what it answered.
    async fn ask(
        &self,
        seal: &Seal,
        lease: Option<Lease>,
        replacing: Option<&Token>,
        before: Entry,
    ) -> Result<Token> {
        let asked = self.now();
        let answer = self.inner.fetch(replacing).await;
        let now = self.now();
        let entry = match &answer {
            // Granted again although it was to be replaced: of no use to anybody.
            Ok(token) if replacing.is_some_and(|old| old.header() == token.header()) => None,
            Ok(token) => Some(Entry::granted(token, asked)),
            Err(error) => Some(before.failed(error, now, self.id)),
        };
        if let Some(entry) = entry {
            let (text, keep) = entry.written(now);
            let sealed = seal.close(&text);
            if let Err(error) = bounded(self.store.save(seal.name(), &sealed, keep)).await {
                warn!(%error, "the answer could not be stored for others");
                // Nor will the lease be given back in time: nobody waits for that.
                return answer;
            }
        }
        if let Some(lease) = lease {
            self.release(seal, lease).await;
        }
        answer
    }

    /// Without the store, after a while that others do not draw.
    async fn ask_alone(&self, error: io::Error, replacing: Option<&Token>) -> Result<Token> {
        warn!(%error, "the token store is of no use: asking alone");
        sleep(SPREAD.mul_f64(fastrand::f64())).await;
        self.inner.fetch(replacing).await
    }

    async fn release(&self, seal: &Seal, lease: Lease) {
        if let Err(error) = bounded(self.store.release(seal.name(), lease)).await {
            debug!(%error, "the lease was not given back: it ends by itself");
        }
    }

    fn now(&self) -> Duration {
        self.clock.now().wall()
    }
}

#[async_trait]
impl TokenSource for SharedSource {
    async fn fetch(&self, replacing: Option<&Token>) -> Result<Token> {
        let seal = self.seal().await?;
        let begun = self.clock.now().monotonic();
        loop {
            let entry = match self.look(&seal).await {
                Ok(entry) => entry,
                Err(error) => return self.ask_alone(error, replacing).await,
            };
            if let Some(answer) = self.adopt(&entry, replacing) {
                return answer;
            }
            let lease = match bounded(self.store.try_lease(seal.name(), LEASE)).await {
                Ok(lease) => lease,
                Err(error) => return self.ask_alone(error, replacing).await,
            };
            let Some(lease) = lease else {
                if self.clock.now().monotonic().saturating_sub(begun) >= PATIENCE {
                    debug!("another process has the lease, and no token comes: asking beside it");
                    return self.ask(&seal, None, replacing, entry).await;
                }
                sleep(LOOK.mul_f64(1.0 + fastrand::f64())).await;
                continue;
            };
            // Who had it before may have saved something since.
            let entry = match self.look(&seal).await {
                Ok(entry) => entry,
                Err(error) => return self.ask_alone(error, replacing).await,
            };
            let Some(answer) = self.adopt(&entry, replacing) else {
                return self.ask(&seal, Some(lease), replacing, entry).await;
            };
            self.release(&seal, lease).await;
            return answer;
        }
    }

    async fn identity(&self) -> Result<Option<Identity>> {
        match &self.identity {
            Some(identity) => Ok(Some(identity.clone())),
            None => self.inner.identity().await,
        }
    }

    async fn has_new_credentials(&self) -> bool {
        self.inner.has_new_credentials().await
    }
}

impl fmt::Debug for SharedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSource")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

fn check(identity: Option<Identity>) -> Result<Identity> {
    let config = |message: &str| Error::new(ErrorKind::Config, message);
    let identity = identity.ok_or_else(|| {
        config("this source cannot say what its tokens are tied to: use SharedSource::with_key")
    })?;
    if identity.secret().expose_secret().len() < LEAST_SECRET {
        return Err(config(
            "the secret has fewer than 32 bytes, which who reads the store could find by trying: use SharedSource::with_key with a longer key",
        ));
    }
    Ok(identity)
}

/// Bounds a call of the store.
async fn bounded<T>(call: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(STORE_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
