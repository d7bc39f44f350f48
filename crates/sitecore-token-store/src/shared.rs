//! The source that shares: it adopts the store's token, or acquires the lease and requests one, or
//! waits for the lease holder.

use std::{
    convert::Infallible,
    fmt,
    future::{Future, pending},
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    FutureExt as _,
    future::{Either, select},
};
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
    decision::{Next, Now, Visit},
    entry::Entry,
    seal::{Seal, random_id},
    store::{Lease, TokenStore},
};

/// The time limit of a call is counted in parts, so that a process that was itself delayed does not
/// blame the store.
const PARTS: u32 = 10;

/// How long a lease lasts. A process that dies with it delays the others for at most this long.
const LEASE_DURATION: Duration = Duration::from_secs(5);

/// How often the holder extends its lease during a token request.
const EXTEND_INTERVAL: Duration = Duration::from_millis(1_500);

/// The shortest wait between two polls of the store. Each wait is random, and up to twice as long.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Spreads the token requests of a fleet whose store went down.
const FALLBACK_JITTER: Duration = Duration::from_millis(250);

/// How long the lease holder tries to save its token while the store fails. Its caller waits.
const SAVE_TIME: Duration = Duration::from_secs(1);

/// How long releasing the lease may take. Otherwise it expires.
const RELEASE_TIME: Duration = Duration::from_millis(250);

/// How long a process does without the lease after it could not save.
const UNWRITABLE_TIME: Duration = Duration::from_secs(10);

/// A shorter secret could be brute-forced from an entry.
const MIN_SECRET_BYTES: usize = 32;

/// Shares the tokens of another source with other processes, through a store.
///
/// If the store has a token that is newer than the one to replace, it is adopted with its age.
/// Otherwise one process acquires the lease, requests a token and saves it. The others wait for
/// that. If the lease holder does not finish in time, they make their own token requests.
///
/// If the issuer itself reports a failure, the processes share that too, so that during an outage
/// they make one attempt at a time. A failure that may concern one process only, such as a missing
/// network, is not shared.
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
    id: u128,
    state: Mutex<State>,
}

/// Kept from one fetch to the next.
#[derive(Default)]
struct State {
    /// The entry with another process's failure, if the issuer refused or rate-limited the client
    /// in that process.
    refused_in: Option<String>,
    /// Until then, by the monotonic clock, the store is not expected to accept an entry.
    unwritable_until: Duration,
}

/// One call of the source.
struct Call<'a> {
    context: FetchContext<'a>,
    /// By the monotonic clock.
    started: Duration,
    seal: Seal,
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
        #[cfg(feature = "metrics")]
        metrics::describe_counter!("sitecore_auth_store_total", "Uses of the token store.");
        Self {
            inner: Arc::new(inner),
            store: Arc::new(store),
            sharing_key,
            clock: Arc::new(SystemClock),
            id: random_id(),
            state: Mutex::default(),
        }
    }

    /// Sets the clock, for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Returns the name of the entry in the store. It changes with the secret.
    ///
    /// # Errors
    ///
    /// Those of the source's [`sharing_key`](TokenSource::sharing_key).
    ///
    /// # Cancel safety
    ///
    /// Changes nothing.
    pub async fn entry_name(&self) -> Result<String> {
        Ok(self.seal().await?.name().to_owned())
    }

    /// Makes all processes forget the stored token, a failure that they wait out, and the rejections
    /// that they have counted. Caches keep the token that they have.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the store cannot be written, and those of
    /// [`entry_name`](Self::entry_name).
    ///
    /// # Cancel safety
    ///
    /// The entry is either removed or unchanged.
    pub async fn forget(&self) -> Result<()> {
        let seal = self.seal().await?;
        self.write(&seal, Entry::default()).await.map_err(|error| unusable(&error))
    }

    /// Checks that the store can be read and written and grants leases. `fetch` works without a
    /// store, and would report the problem only in the log. What is stored stays.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) with the store's reason, and those of
    /// [`entry_name`](Self::entry_name).
    ///
    /// # Cancel safety
    ///
    /// A lease that is left behind ends after 5 s.
    pub async fn check(&self) -> Result<()> {
        let seal = self.seal().await?;
        let check = async {
            let lease = self.bounded(self.store.try_lease(seal.name(), LEASE_DURATION)).await?;
            let entry = self.load(&seal).await?;
            // Otherwise the lease holder is writing, and this would undo it.
            if lease.is_some() {
                self.write(&seal, entry).await?;
            }
            self.release(&seal, lease).await;
            Ok(())
        };
        check.await.map_err(|error: io::Error| unusable(&error))
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
        let entry = self.bounded(self.store.load(seal.name())).await?;
        let entry = entry.and_then(|stored| {
            let text = seal.open(stored.entry())?;
            Entry::decode(&text, now, stored.remaining())
        });
        Ok(entry.unwrap_or_default())
    }

    async fn write(&self, seal: &Seal, entry: Entry) -> io::Result<()> {
        let (text, keep) = entry.encode(self.now());
        self.bounded(self.store.save(seal.name(), &seal.seal(&text), keep)).await
    }

    /// Adopts what is in the store, or fetches a token and saves it.
    async fn adopt_or_fetch(&self, call: &Call<'_>) -> Result<Token> {
        let mut visit = Visit::new(call.context, self.id, self.is_unwritable(), fastrand::f64());
        let (mut entry, mut lease, mut failure) = (None, None, None);
        let mut next = Next::Look;
        loop {
            next = match next {
                Next::Look => {
                    let loaded = self.load(&call.seal).await;
                    let loaded =
                        loaded.map_err(|error| failure = Some(failed("load", error, call)));
                    entry = loaded.ok();
                    visit.look(entry.as_ref(), self.moment(call))
                }
                Next::Wait(limit) => {
                    self.release(&call.seal, lease.take()).await;
                    sleep(poll_interval().min(limit)).await;
                    Next::Look
                }
                Next::Spread => {
                    sleep(FALLBACK_JITTER.mul_f64(fastrand::f64())).await;
                    Next::Look
                }
                Next::Acquire => {
                    let acquired = self.store.try_lease(call.seal.name(), LEASE_DURATION);
                    let acquired = self.bounded(acquired).await;
                    let acquired =
                        acquired.map_err(|error| failure = Some(failed("lease", error, call)));
                    let is_ours = acquired.as_ref().ok().map(Option::is_some);
                    lease = acquired.unwrap_or_default();
                    visit.after_acquiring(is_ours, self.moment(call))
                }
                Next::Adopt(token) => {
                    self.release(&call.seal, lease).await;
                    return Ok(self.adopted(token, call));
                }
                Next::Fail(error) => {
                    self.release(&call.seal, lease).await;
                    return Err(self.adopted_failure(error, call));
                }
                Next::Request => {
                    return self.fetch_as_holder(entry.unwrap_or_default(), lease, call).await;
                }
                Next::RequestAlone { watch } => {
                    if watch {
                        debug!("lease holder unresponsive, requesting a token anyway");
                    } else if let Some(error) = failure {
                        warn!(%error, "token store unavailable, continuing without it");
                    }
                    self.release(&call.seal, lease).await;
                    return self.fetch_alone(watch, call).await;
                }
            }
        }
    }

    /// Fetches a token and saves it, or the issuer's failure. The lease is extended meanwhile.
    async fn fetch_as_holder(
        &self,
        mut entry: Entry,
        lease: Option<Lease>,
        call: &Call<'_>,
    ) -> Result<Token> {
        if call.context.uses_budget() {
            entry = entry.with_budget_spent(self.now());
        }
        // Shows that this process can save.
        if let Err(error) = self.write(&call.seal, entry).await {
            // Otherwise the others would wait for a token that cannot be saved.
            self.note_unwritable(&error, call);
            self.release(&call.seal, lease).await;
            return self.fetch_alone(false, call).await;
        }
        let requested_at = self.now();
        let result = {
            let fetch = pin!(self.fetch(call));
            let extend = pin!(self.keep_extending(&call.seal, lease.as_ref()));
            match select(fetch, extend).await {
                Either::Left((result, _)) => result,
                Either::Right((never, _)) => match never {},
            }
        };
        let saved = self.save_repeatedly(&result, requested_at, call).await;
        self.release(&call.seal, lease).await;
        match saved {
            Ok(Some(newer)) => Ok(self.adopted(newer, call)),
            Ok(None) => result,
            Err(error) => {
                self.note_unwritable(&error, call);
                result
            }
        }
    }

    async fn keep_extending(&self, seal: &Seal, lease: Option<&Lease>) -> Infallible {
        loop {
            sleep(EXTEND_INTERVAL).await;
            if let Some(lease) = lease {
                let extended = self.store.extend(seal.name(), lease, LEASE_DURATION);
                match self.bounded(extended).await {
                    Ok(true) => {}
                    Ok(false) => debug!("another process has acquired the lease"),
                    Err(error) => debug!(%error, "could not extend lease"),
                }
            }
        }
    }

    /// Fetches a token without the lease, and saves it if possible.
    async fn fetch_alone(&self, watch: bool, call: &Call<'_>) -> Result<Token> {
        let requested_at = self.now();
        let result = {
            let fetch = pin!(self.fetch(call));
            let stored = pin!(async {
                match watch {
                    true => self.until_stored(call).await,
                    false => pending().await,
                }
            });
            match select(fetch, stored).await {
                Either::Left((result, _)) => result,
                Either::Right((token, _)) => return Ok(self.adopted(token, call)),
            }
        };
        // A failure is saved by lease holders only.
        if result.is_ok()
            && !self.is_unwritable()
            && let Err(error) = self.save(&result, requested_at, call).await
        {
            debug!(%error, "could not save token to store");
        }
        result
    }

    /// Waits until the lease holder has saved a token.
    async fn until_stored(&self, call: &Call<'_>) -> Token {
        loop {
            sleep(poll_interval()).await;
            if let Ok(entry) = self.load(&call.seal).await
                && let Some(token) = entry.token(call.context.replacing(), self.now())
            {
                return token;
            }
        }
    }

    async fn fetch(&self, call: &Call<'_>) -> Result<Token> {
        count("requested", "", call.context);
        self.inner.fetch(call.context.after(self.waited(call))).await
    }

    /// Saves a result. Tries again if the store fails.
    async fn save_repeatedly(
        &self,
        result: &Result<Token>,
        requested_at: Duration,
        call: &Call<'_>,
    ) -> io::Result<Option<Token>> {
        let mut failure = None;
        let save = async {
            loop {
                match self.save(result, requested_at, call).await {
                    Ok(newer) => return newer,
                    Err(error) => failure = Some(failed("save", error, call)),
                }
                sleep(poll_interval()).await;
            }
        };
        let saved = timeout(SAVE_TIME, save).await;
        saved.map_err(|_| failure.unwrap_or_else(|| io::ErrorKind::TimedOut.into()))
    }

    /// Saves a result, unless other processes have no use for it. After a failure, returns the
    /// token that another process has saved in the meantime, if any.
    async fn save(
        &self,
        result: &Result<Token>,
        requested_at: Duration,
        call: &Call<'_>,
    ) -> io::Result<Option<Token>> {
        let is_useful = match result {
            // Not if the issuer returned the very token that is to be replaced.
            Ok(token) => call.context.replacing().is_none_or(|old| old.header() != token.header()),
            Err(error) => error.issuer_responded(),
        };
        // If the credentials changed during the request, it is unknown which ones it used.
        let is_same = self.seal().await.is_ok_and(|now| now.name() == call.seal.name());
        if !is_useful || !is_same {
            return Ok(None);
        }
        let entry = self.load(&call.seal).await?;
        let now = self.now();
        let entry = match result {
            Ok(token) => entry.with_token(token, requested_at, now),
            Err(error) => match entry.token(call.context.replacing(), now) {
                Some(newer) => return Ok(Some(newer)),
                None => Some(entry.with_failure(error, requested_at, now, self.id)),
            },
        };
        if let Some(entry) = entry {
            self.write(&call.seal, entry).await?;
        }
        Ok(None)
    }

    fn note_unwritable(&self, error: &io::Error, call: &Call<'_>) {
        warn!(%error, "could not save token to store");
        count("unavailable", "save", call.context);
        self.state().unwritable_until = self.monotonic() + UNWRITABLE_TIME;
    }

    fn is_unwritable(&self) -> bool {
        self.monotonic() < self.state().unwritable_until
    }

    async fn release(&self, seal: &Seal, lease: Option<Lease>) {
        let Some(lease) = lease else { return };
        let released = timeout(RELEASE_TIME, self.store.release(seal.name(), lease)).await;
        let error = match released {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        debug!(%error, "could not release lease, it will expire");
    }

    /// Returns a token from the store, marked as adopted. Its age is the one that it had when the
    /// source was called, before this wait.
    fn adopted(&self, token: Token, call: &Call<'_>) -> Token {
        count("adopted", "", call.context);
        debug!(token = %token.fingerprint(), "token adopted from store");
        let age = token.age().saturating_sub(self.waited(call));
        token.with_age(age).adopted()
    }

    fn adopted_failure(&self, error: Error, call: &Call<'_>) -> Error {
        count("failure_adopted", "", call.context);
        debug!(kind = ?error.kind(), "backing off after another process's failure");
        let is_refused = matches!(error.kind(), ErrorKind::Refused | ErrorKind::RateLimited);
        self.state().refused_in = is_refused.then(|| call.seal.name().to_owned());
        error
    }

    /// Limits a call of the store to the time that it says.
    async fn bounded<T>(&self, call: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let part = self.store.call_timeout() / PARTS;
        let mut call = pin!(call);
        for _ in 0..PARTS {
            if let Ok(result) = timeout(part, &mut call).await {
                return result;
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moment(&self, call: &Call<'_>) -> Now {
        Now { wall: self.now(), waited: self.waited(call) }
    }

    /// Returns how long ago the source was called.
    fn waited(&self, call: &Call<'_>) -> Duration {
        self.monotonic().saturating_sub(call.started)
    }

    fn monotonic(&self) -> Duration {
        self.clock.now().monotonic()
    }

    fn now(&self) -> Duration {
        self.clock.now().wall()
    }
}

fn poll_interval() -> Duration {
    POLL_INTERVAL.mul_f64(1.0 + fastrand::f64())
}

/// Logs and counts a failed call of the store.
fn failed(action: &'static str, error: io::Error, call: &Call<'_>) -> io::Error {
    count("unavailable", action, call.context);
    debug!(%error, action, "token store failed");
    error
}

fn unusable(error: &io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the token store cannot be used: {error}"))
}

/// Counts a use of the store. `cause` is the failed action, if one failed.
fn count(outcome: &'static str, cause: &'static str, context: FetchContext<'_>) {
    #[cfg(feature = "metrics")]
    metrics::counter!(
        "sitecore_auth_store_total",
        "cache" => context.cache().to_owned(), "outcome" => outcome, "cause" => cause
    )
    .increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = (outcome, cause, context);
}

#[async_trait]
impl TokenSource for SharedSource {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
        let started = self.monotonic();
        let seal = self.seal().await?;
        self.state().refused_in = None;
        self.adopt_or_fetch(&Call { context, started, seal }).await
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
