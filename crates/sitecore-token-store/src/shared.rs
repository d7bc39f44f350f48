//! The source that shares: it adopts the store's token, or acquires the lease and requests one, or
//! waits for the lease holder.

use std::{
    fmt,
    future::Future,
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use sitecore_auth::{
    Clock, Error, ErrorKind, FetchContext, Result, SharingKey, SystemClock, Token, TokenSource,
};
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    entry::Entry,
    seal::Seal,
    store::{Lease, TokenStore},
};

/// Limits one call of the store. On a healthy network a call takes a hundredth of this.
const STORE_TIMEOUT: Duration = Duration::from_millis(250);

/// The limit is counted in parts, so that a process that was itself delayed does not blame the
/// store.
const PARTS: u32 = 10;

/// Longer than one token request may take.
const LEASE_DURATION: Duration = Duration::from_secs(15);

/// How long to wait for the lease holder. The refresh then still has time for a token request.
const HOLDER_TIMEOUT: Duration = Duration::from_secs(18);

/// After [`HOLDER_TIMEOUT`], the fallback lease lets one process at a time make a token request.
/// The others wait for it until this time has passed.
const FALLBACK_TIMEOUT: Duration = Duration::from_secs(24);

/// The shortest wait between two polls of the store. Each wait is random, and up to twice as long.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Spreads the token requests of a fleet whose store went down.
const FALLBACK_JITTER: Duration = Duration::from_millis(500);

/// A shorter secret could be brute-forced from an entry.
const MIN_SECRET_BYTES: usize = 32;

/// Shares the tokens of another source with other processes, through a store.
///
/// If the store has a token that is newer than the one to replace, it is adopted with its age.
/// Otherwise one process acquires the lease, requests a token and saves it. The others wait for
/// that, and after a while make their own token requests. Failures are shared too, so that during
/// an outage of the issuer the fleet makes one attempt at a time.
///
/// Losing the lease costs one token request, and a store that is down counts as empty. Neither
/// causes an outage.
pub struct SharedSource {
    inner: Arc<dyn TokenSource>,
    store: Arc<dyn TokenStore>,
    /// Set by the program. Otherwise the inner source's key is used.
    sharing_key: Option<SharingKey>,
    clock: Arc<dyn Clock>,
    /// Distinguishes this process's failures from those of others.
    id: u64,
    state: Mutex<State>,
}

/// Kept from one fetch to the next.
#[derive(Default)]
struct State {
    /// Since when other processes have had the lease, by the monotonic clock. Kept because a fetch
    /// can be abandoned while it waits.
    waiting_since: Option<Duration>,
    /// The entry with another process's failure, if the issuer refused or rate-limited the client
    /// in that process.
    refused_in: Option<String>,
}

struct NamedLease {
    name: String,
    lease: Lease,
}

/// Which process requests the token.
enum Turn {
    Ours(Option<NamedLease>),
    Theirs,
}

impl SharedSource {
    /// Creates a shared source from one that has a sharing key, such as a
    /// [`TokenClient`](sitecore_auth::TokenClient) or a
    /// [`ProviderSource`](sitecore_auth::ProviderSource).
    ///
    /// Entries are sealed with a key derived from the client secret, so a rotated secret starts a
    /// new entry.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the source has no sharing key, or if its secret is shorter
    /// than 32 bytes; use [`with_key`](Self::with_key) then. If this cannot be checked yet, because
    /// the source must read a file or there is no Tokio runtime, `fetch` returns the error instead.
    pub fn new(inner: impl TokenSource, store: impl TokenStore) -> Result<Self> {
        let shared = Self::from_parts(inner, store, None);
        // A source that reads a file needs a runtime, and its key is not ready at once.
        if Handle::try_current().is_ok()
            && let Some(sharing_key) = shared.inner.sharing_key().now_or_never()
        {
            check(sharing_key?)?;
        }
        Ok(shared)
    }

    /// Creates a shared source from any source. Processes with the same `name` and `key` share
    /// their tokens.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the key is shorter than 32 bytes.
    pub fn with_key(
        inner: impl TokenSource,
        store: impl TokenStore,
        name: impl Into<String>,
        key: impl Into<SecretString>,
    ) -> Result<Self> {
        let sharing_key = SharingKey::new(key, name);
        if sharing_key.secret().expose_secret().len() < MIN_SECRET_BYTES {
            let message = "the key is shorter than 32 bytes and could be brute-forced from a stored entry; use a longer key";
            return Err(Error::new(ErrorKind::Config, message));
        }
        Ok(Self::from_parts(inner, store, Some(sharing_key)))
    }

    fn from_parts(
        inner: impl TokenSource,
        store: impl TokenStore,
        sharing_key: Option<SharingKey>,
    ) -> Self {
        Self {
            inner: Arc::new(inner),
            store: Arc::new(store),
            sharing_key,
            clock: Arc::new(SystemClock),
            id: fastrand::u64(..),
            state: Mutex::default(),
        }
    }

    /// Sets the clock, for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    async fn seal(&self) -> Result<Seal> {
        let sharing_key = match &self.sharing_key {
            Some(sharing_key) => sharing_key.clone(),
            None => check(self.inner.sharing_key().await?)?,
        };
        Ok(Seal::derive(sharing_key.secret(), sharing_key.context()))
    }

    /// Loads the entry, or an empty one if there is none that can be opened.
    async fn load(&self, seal: &Seal) -> io::Result<Entry> {
        // Read before the store determines the remaining time: an entry may then seem older than
        // it is, but never younger.
        let now = self.now();
        let entry = bounded(self.store.load(seal.name())).await?;
        let entry = entry.and_then(|stored| {
            let text = seal.open(stored.entry())?;
            Entry::decode(&text, now, stored.remaining())
        });
        Ok(entry.unwrap_or_default())
    }

    /// Returns the entry's token or failure, if it is to be used. A token's age is measured now,
    /// not from `started`.
    fn adopt(
        &self,
        seal: &Seal,
        entry: &Entry,
        started: Duration,
        replacing: Option<&Token>,
    ) -> Option<Result<Token>> {
        let result = entry.adopt(replacing, self.now(), self.id)?;
        let result = result.map(|token| adopted(token, self.elapsed(started)));
        match &result {
            Ok(token) => {
                count("adopted");
                debug!(token = %token.fingerprint(), "token adopted from store");
            }
            Err(error) => {
                count("failure_adopted");
                debug!(kind = ?error.kind(), "backing off after another process's failure");
                let is_refused =
                    matches!(error.kind(), ErrorKind::Refused | ErrorKind::RateLimited);
                self.state().refused_in = is_refused.then(|| seal.name().to_owned());
            }
        }
        Some(result)
    }

    /// Adopts what is in the store, or fetches a token and saves it.
    async fn adopt_or_fetch(&self, started: Duration, context: FetchContext<'_>) -> Result<Token> {
        let seal = self.seal().await?;
        self.state().refused_in = None;
        loop {
            let entry = match self.load(&seal).await {
                Ok(entry) => entry,
                Err(error) => return self.fetch_without_store(error, started, context).await,
            };
            if let Some(result) = self.adopt(&seal, &entry, started, context.replacing()) {
                return result;
            }
            let lease = match self.acquire(&seal).await {
                Ok(Turn::Ours(lease)) => lease,
                Ok(Turn::Theirs) => {
                    sleep(POLL_INTERVAL.mul_f64(1.0 + fastrand::f64())).await;
                    continue;
                }
                Err(error) => return self.fetch_without_store(error, started, context).await,
            };
            // The previous lease holder may have saved a token in the meantime.
            let entry = match self.load(&seal).await {
                Ok(entry) => entry,
                Err(error) => return self.fetch_without_store(error, started, context).await,
            };
            let Some(result) = self.adopt(&seal, &entry, started, context.replacing()) else {
                return self.fetch_and_save(&seal, lease, started, context).await;
            };
            self.release(lease).await;
            return result;
        }
    }

    /// Tries to acquire the lease. After [`HOLDER_TIMEOUT`] it tries the fallback lease too, and
    /// after [`FALLBACK_TIMEOUT`] it continues without one.
    async fn acquire(&self, seal: &Seal) -> io::Result<Turn> {
        let try_lease = async |name: String| {
            let lease = bounded(self.store.try_lease(&name, LEASE_DURATION)).await?;
            io::Result::Ok(lease.map(|lease| NamedLease { name, lease }))
        };
        let mut lease = try_lease(seal.name().to_owned()).await?;
        let waited = if lease.is_some() { Duration::ZERO } else { self.waited() };
        if waited >= HOLDER_TIMEOUT {
            debug!("lease holder unresponsive, requesting a token anyway");
            lease = try_lease(format!("{}-fallback", seal.name())).await?;
        }
        let is_ours = lease.is_some() || waited >= FALLBACK_TIMEOUT;
        Ok(if is_ours { Turn::Ours(lease) } else { Turn::Theirs })
    }

    /// Returns how long other processes have had the lease.
    fn waited(&self) -> Duration {
        let now = self.clock.now().monotonic();
        let mut state = self.state();
        let since = state.waiting_since.unwrap_or(now);
        // A wait that was abandoned long ago does not count.
        let since = if now.saturating_sub(since) > 2 * FALLBACK_TIMEOUT { now } else { since };
        state.waiting_since = Some(since);
        now.saturating_sub(since)
    }

    /// Calls the source, and saves the result for other processes.
    async fn fetch_and_save(
        &self,
        seal: &Seal,
        lease: Option<NamedLease>,
        started: Duration,
        context: FetchContext<'_>,
    ) -> Result<Token> {
        count("requested");
        let (waited, requested_at) = (self.elapsed(started), self.now());
        let result = self.inner.fetch(after(waited, context)).await;
        match self.save(seal, requested_at, context.replacing(), &result).await {
            Ok(newer) => {
                self.release(lease).await;
                newer.map_or(result, |token| Ok(adopted(token, self.elapsed(started))))
            }
            Err(error) => {
                warn!(%error, "could not save token to store");
                // Releasing the lease would fail too, and the caller would have to wait for it.
                result
            }
        }
    }

    /// Saves a result, unless other processes have no use for it. After a failure, returns the
    /// token that another process has saved in the meantime, if any.
    async fn save(
        &self,
        seal: &Seal,
        requested_at: Duration,
        replacing: Option<&Token>,
        result: &Result<Token>,
    ) -> io::Result<Option<Token>> {
        let is_useful = match result {
            // Not if the issuer returned the very token that is to be replaced.
            Ok(token) => replacing.is_none_or(|old| old.header() != token.header()),
            // The settings and deadlines of other processes are their own.
            Err(error) => !matches!(error.kind(), ErrorKind::Config | ErrorKind::Timeout),
        };
        // If the credentials changed during the request, it is unknown which ones it used.
        let is_same = self.seal().await.is_ok_and(|now| now.name() == seal.name());
        if !is_useful || !is_same {
            return Ok(None);
        }
        let entry = self.load(seal).await?;
        let now = self.now();
        let entry = match result {
            Ok(token) => entry.with_token(token, requested_at, now),
            Err(error) => match entry.adopt(replacing, now, self.id) {
                Some(Ok(newer)) => return Ok(Some(newer)),
                _ => Some(entry.with_failure(error, now, self.id)),
            },
        };
        if let Some(entry) = entry {
            let (text, keep) = entry.encode(now);
            bounded(self.store.save(seal.name(), &seal.seal(&text), keep)).await?;
        }
        Ok(None)
    }

    /// Calls the source after a random delay, so that a fleet does not do so all at once.
    async fn fetch_without_store(
        &self,
        error: io::Error,
        started: Duration,
        context: FetchContext<'_>,
    ) -> Result<Token> {
        count("unavailable");
        warn!(%error, "token store unavailable, continuing without it");
        sleep(FALLBACK_JITTER.mul_f64(fastrand::f64())).await;
        let waited = self.elapsed(started);
        self.inner.fetch(after(waited, context)).await
    }

    async fn release(&self, lease: Option<NamedLease>) {
        if let Some(NamedLease { name, lease }) = lease
            && let Err(error) = bounded(self.store.release(&name, lease)).await
        {
            debug!(%error, "could not release lease, it will expire");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed(&self, started: Duration) -> Duration {
        self.clock.now().monotonic().saturating_sub(started)
    }

    fn now(&self) -> Duration {
        self.clock.now().wall()
    }
}

/// Returns a token from the store, marked as adopted. Its age is the one that it had when the
/// source was called, before this wait.
fn adopted(token: Token, waited: Duration) -> Token {
    let age = token.age().saturating_sub(waited);
    token.with_age(age).adopted()
}

/// Returns the context for a source that is called after this wait.
fn after(waited: Duration, context: FetchContext<'_>) -> FetchContext<'_> {
    context.with_time_left(context.time_left().saturating_sub(waited))
}

/// Counts a use of the store.
fn count(outcome: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("sitecore_auth_store_total", "outcome" => outcome).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = outcome;
}

#[async_trait]
impl TokenSource for SharedSource {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
        let started = self.clock.now().monotonic();
        let result = self.adopt_or_fetch(started, context).await;
        self.state().waiting_since = None;
        result
    }

    async fn sharing_key(&self) -> Result<Option<SharingKey>> {
        match &self.sharing_key {
            Some(sharing_key) => Ok(Some(sharing_key.clone())),
            None => self.inner.sharing_key().await,
        }
    }

    async fn has_new_credentials(&self) -> bool {
        let refused_in = self.state().refused_in.clone();
        match refused_in {
            // The issuer refused another process, so the inner source does not know about it.
            Some(name) => self.seal().await.is_ok_and(|seal| seal.name() != name),
            None => self.inner.has_new_credentials().await,
        }
    }
}

impl fmt::Debug for SharedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSource")
            .field("sharing_key", &self.sharing_key)
            .finish_non_exhaustive()
    }
}

fn check(sharing_key: Option<SharingKey>) -> Result<SharingKey> {
    let config = |message: &str| Error::new(ErrorKind::Config, message);
    let sharing_key = sharing_key
        .ok_or_else(|| config("this source has no sharing key; use SharedSource::with_key"))?;
    if sharing_key.secret().expose_secret().len() < MIN_SECRET_BYTES {
        return Err(config(
            "the client secret is shorter than 32 bytes and could be brute-forced from a stored entry; use SharedSource::with_key with a longer key",
        ));
    }
    Ok(sharing_key)
}

/// Limits a call of the store to [`STORE_TIMEOUT`].
async fn bounded<T>(call: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut call = pin!(call);
    for _ in 0..PARTS {
        if let Ok(result) = timeout(STORE_TIMEOUT / PARTS, &mut call).await {
            return result;
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
