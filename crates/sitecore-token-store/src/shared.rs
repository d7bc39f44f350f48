//! The source that shares: adopt the store's token, or get the lease and ask, or wait for who has it.

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

use crate::{Lease, TokenStore, entry::Entry, seal::Seal};

/// One call of the store; on a network that works it takes a hundredth of it. It is counted in parts: a process that is
/// itself held up does not take that for the store's slowness.
const STORE_TIMEOUT: Duration = Duration::from_millis(250);
const PARTS: u32 = 10;

/// Longer than one grant may take.
const LEASE: Duration = Duration::from_secs(15);

/// How long another process is waited for; the cache's refresh has time for a grant afterwards.
const PATIENCE: Duration = Duration::from_secs(18);

/// Then one asks beside it at a time; who waits for that one too, waits until this is over.
const LAST_PATIENCE: Duration = Duration::from_secs(24);

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
    identity: Option<SharingKey>,
    clock: Arc<dyn Clock>,
    /// Tells this process's failures from others'.
    id: u64,
    remembered: Mutex<Remembered>,
}

/// From one fetch for the next.
#[derive(Default)]
struct Remembered {
    /// Since when others have had the lease, by the monotonic clock: a fetch can be given up while it waits.
    waiting_since: Option<Duration>,
    /// The entry in which there was the refusal of another process.
    refused_in: Option<String>,
}

/// A lease, and its name.
struct Held(String, Lease);

/// Whose turn it is to ask the issuer.
enum Turn {
    Ours(Option<Held>),
    Others,
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
            && let Some(identity) = shared.inner.sharing_key().now_or_never()
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
        let identity = SharingKey::new(key, name);
        if identity.secret().expose_secret().len() < LEAST_SECRET {
            let message = "the key has fewer than 32 bytes, which who reads the store could find by trying: give a longer one";
            return Err(Error::new(ErrorKind::Config, message));
        }
        Ok(Self::of(inner, store, Some(identity)))
    }

    fn of(inner: impl TokenSource, store: impl TokenStore, identity: Option<SharingKey>) -> Self {
        Self {
            inner: Arc::new(inner),
            store: Arc::new(store),
            identity,
            clock: Arc::new(SystemClock),
            id: fastrand::u64(..),
            remembered: Mutex::default(),
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
            None => check(self.inner.sharing_key().await?)?,
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

    /// Finds what the entry answers. Its age is reckoned now, and not from when this began.
    fn adopt(
        &self,
        seal: &Seal,
        entry: &Entry,
        begun: Duration,
        replacing: Option<&Token>,
    ) -> Option<Result<Token>> {
        let answer = entry.answer(replacing, self.now(), self.id)?;
        let answer = answer.map(|token| token.asked_after(self.since(begun)));
        match &answer {
            Ok(token) => {
                count("adopted");
                debug!(token = %token.fingerprint(), "token adopted from store");
            }
            Err(error) => {
                count("failure_adopted");
                debug!(kind = ?error.kind(), "backing off after another process's failure");
                let refused = error.kind() == ErrorKind::Refused;
                self.remembered().refused_in = refused.then(|| seal.name().to_owned());
            }
        }
        Some(answer)
    }

    /// Takes what is in the store, or asks for what is to be there. `begun` is when that began.
    async fn obtain(&self, begun: Duration, context: FetchContext<'_>) -> Result<Token> {
        let seal = self.seal().await?;
        self.remembered().refused_in = None;
        loop {
            let entry = match self.look(&seal).await {
                Ok(entry) => entry,
                Err(error) => return self.ask_alone(error, begun, context).await,
            };
            if let Some(answer) = self.adopt(&seal, &entry, begun, context.replacing()) {
                return answer;
            }
            let held = match self.take_turn(&seal).await {
                Ok(Turn::Ours(held)) => held,
                Ok(Turn::Others) => {
                    sleep(LOOK.mul_f64(1.0 + fastrand::f64())).await;
                    continue;
                }
                Err(error) => return self.ask_alone(error, begun, context).await,
            };
            // Who had it before may have saved something since.
            let entry = match self.look(&seal).await {
                Ok(entry) => entry,
                Err(error) => return self.ask_alone(error, begun, context).await,
            };
            let Some(answer) = self.adopt(&seal, &entry, begun, context.replacing()) else {
                return self.ask(&seal, held, begun, context).await;
            };
            self.release(held).await;
            return answer;
        }
    }

    /// Tries for the lease; after a while, for the one of those who ask beside its holder; at last does without.
    async fn take_turn(&self, seal: &Seal) -> io::Result<Turn> {
        let lease = async |name: String| {
            let lease = bounded(self.store.try_lease(&name, LEASE)).await?;
            io::Result::Ok(lease.map(|lease| Held(name, lease)))
        };
        let mut held = lease(seal.name().to_owned()).await?;
        let waited = if held.is_some() { Duration::ZERO } else { self.waited() };
        if waited >= PATIENCE {
            debug!("lease holder unresponsive, requesting a token anyway");
            held = lease(format!("{}-beside", seal.name())).await?;
        }
        Ok(if held.is_some() || waited >= LAST_PATIENCE { Turn::Ours(held) } else { Turn::Others })
    }

    /// How long others have had the lease.
    fn waited(&self) -> Duration {
        let now = self.clock.now().monotonic();
        let mut remembered = self.remembered();
        let since = remembered.waiting_since.unwrap_or(now);
        // What was given up long ago has nothing to do with this.
        let since = if now.saturating_sub(since) > 2 * LAST_PATIENCE { now } else { since };
        remembered.waiting_since = Some(since);
        now.saturating_sub(since)
    }

    /// Asks the issuer, and lets the others know what it answered.
    async fn ask(
        &self,
        seal: &Seal,
        held: Option<Held>,
        begun: Duration,
        context: FetchContext<'_>,
    ) -> Result<Token> {
        count("requested");
        let (waited, asked) = (self.since(begun), self.now());
        let answer = self.inner.fetch(after(waited, context)).await;
        let answer = answer.map(|token| token.asked_after(waited));
        match self.share(seal, asked, context.replacing(), &answer).await {
            Ok(others) => {
                self.release(held).await;
                others.map_or(answer, |token| Ok(token.asked_after(self.since(begun))))
            }
            Err(error) => {
                warn!(%error, "could not save token to store");
                // Nor can the lease be given back: nobody waits for that.
                answer
            }
        }
    }

    /// Puts an answer into the store, unless it is of no use to others. If it is none, and others have been granted a
    /// token meanwhile, that is returned.
    async fn share(
        &self,
        seal: &Seal,
        asked: Duration,
        replacing: Option<&Token>,
        answer: &Result<Token>,
    ) -> io::Result<Option<Token>> {
        let is_of_use = match answer {
            // Granted again although it was to be replaced.
            Ok(token) => replacing.is_none_or(|old| old.header() != token.header()),
            // The others have settings, and clocks, of their own.
            Err(error) => !matches!(error.kind(), ErrorKind::Config | ErrorKind::Timeout),
        };
        // If the credentials changed on the way, nobody knows by which it was granted.
        let is_same = self.seal().await.is_ok_and(|now| now.name() == seal.name());
        if !is_of_use || !is_same {
            return Ok(None);
        }
        let entry = self.look(seal).await?;
        let now = self.now();
        let entry = match answer {
            Ok(token) => entry.granted(token, asked, now),
            Err(error) => match entry.answer(replacing, now, self.id) {
                Some(Ok(others)) => return Ok(Some(others)),
                _ => Some(entry.failed(error, now, self.id)),
            },
        };
        if let Some(entry) = entry {
            let (text, keep) = entry.written(now);
            bounded(self.store.save(seal.name(), &seal.close(&text), keep)).await?;
        }
        Ok(None)
    }

    /// Without the store, after a while that others do not draw.
    async fn ask_alone(
        &self,
        error: io::Error,
        begun: Duration,
        context: FetchContext<'_>,
    ) -> Result<Token> {
        count("unavailable");
        warn!(%error, "token store unavailable, continuing without it");
        sleep(SPREAD.mul_f64(fastrand::f64())).await;
        let waited = self.since(begun);
        let answer = self.inner.fetch(after(waited, context)).await;
        answer.map(|token| token.asked_after(waited))
    }

    async fn release(&self, held: Option<Held>) {
        if let Some(Held(name, lease)) = held
            && let Err(error) = bounded(self.store.release(&name, lease)).await
        {
            debug!(%error, "could not release lease, it will expire");
        }
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since(&self, begun: Duration) -> Duration {
        self.clock.now().monotonic().saturating_sub(begun)
    }

    fn now(&self) -> Duration {
        self.clock.now().wall()
    }
}

/// Returns the context for a source that is called after this wait.
fn after(waited: Duration, context: FetchContext<'_>) -> FetchContext<'_> {
    context.with_time_left(context.time_left().saturating_sub(waited))
}

/// Counts what the store was good for, by the `metrics` facade.
fn count(outcome: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("sitecore_auth_store_total", "outcome" => outcome).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = outcome;
}

#[async_trait]
impl TokenSource for SharedSource {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
        let begun = self.clock.now().monotonic();
        let answer = self.obtain(begun, context).await;
        self.remembered().waiting_since = None;
        answer
    }

    async fn sharing_key(&self) -> Result<Option<SharingKey>> {
        match &self.identity {
            Some(identity) => Ok(Some(identity.clone())),
            None => self.inner.sharing_key().await,
        }
    }

    async fn has_new_credentials(&self) -> bool {
        let refused_in = self.remembered().refused_in.clone();
        match refused_in {
            // The source does not know that its credentials were refused: another process was told.
            Some(name) => self.seal().await.is_ok_and(|seal| seal.name() != name),
            None => self.inner.has_new_credentials().await,
        }
    }
}

impl fmt::Debug for SharedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSource").field("identity", &self.identity).finish_non_exhaustive()
    }
}

fn check(identity: Option<SharingKey>) -> Result<SharingKey> {
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
    let mut call = pin!(call);
    for _ in 0..PARTS {
        if let Ok(done) = timeout(STORE_TIMEOUT / PARTS, &mut call).await {
            return done;
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
