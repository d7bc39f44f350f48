//! The source that shares: it adopts the store's token, or acquires the lease and requests one, or
//! waits for the lease holder.

use std::{fmt, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use secrecy::SecretString;
use sitecore_auth::{
    Clock, Error, ErrorKind, FetchContext, Result, SharingKey, Token, TokenSource,
};
use tokio::{runtime::Handle, time::sleep};

use crate::{
    call::Call,
    entry::Entry,
    parts::{Parts, check},
    store::TokenStore,
};

/// How many times to try for the lease in order to give a token request back to the budget. After
/// that, it is not given back.
const GIVE_BACK_ATTEMPTS: u32 = 5;

const GIVE_BACK_PAUSE: Duration = Duration::from_secs(2);

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
pub struct SharedSource(Arc<Parts>);

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
        let parts = Parts::new(inner, store, None);
        // A source that reads a file needs a runtime, and its key is not ready at once.
        if Handle::try_current().is_ok()
            && let Some(sharing_key) = parts.sharing_key().now_or_never()
        {
            check(sharing_key?)?;
        }
        Ok(Self::from_parts(parts))
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
        let sharing_key = check(Some(SharingKey::new(key, name)))?;
        Ok(Self::from_parts(Parts::new(inner, store, Some(sharing_key))))
    }

    fn from_parts(parts: Parts) -> Self {
        #[cfg(feature = "metrics")]
        metrics::describe_counter!("sitecore_auth_store_total", "Uses of the token store.");
        Self(Arc::new(parts))
    }

    /// Sets the clock, for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        if let Some(parts) = Arc::get_mut(&mut self.0) {
            parts.set_clock(clock);
        }
        self
    }

    /// Returns the name of the entry in the store. It changes with the secret.
    ///
    /// # Errors
    ///
    /// Those of the source's [`sharing_key`](TokenSource::sharing_key), and
    /// [`Config`](ErrorKind::Config) as for [`new`](Self::new).
    ///
    /// # Cancel safety
    ///
    /// Changes nothing.
    pub async fn entry_name(&self) -> Result<String> {
        Ok(self.0.seal().await?.name().to_owned())
    }

    /// Empties the entry: removes the stored token and any failure that processes are waiting out,
    /// and refills the shared budget for rejected tokens. Each cache keeps the token that it has.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the store cannot be written, and those of
    /// [`entry_name`](Self::entry_name).
    ///
    /// # Cancel safety
    ///
    /// The entry is either emptied or unchanged.
    pub async fn forget(&self) -> Result<()> {
        let seal = self.0.seal().await?;
        self.0.write(&seal, &mut Entry::default()).await.map_err(|error| unusable(&error))
    }

    /// Checks that the store can be read and written and grants leases. `fetch` works without a
    /// store, so it reports a problem only in the log. The stored entry keeps its contents. If
    /// another process has the lease, the entry is only read.
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
        let seal = self.0.seal().await?;
        let check = async {
            let Some(lease) = self.0.try_lease(&seal).await? else {
                // Another process has the lease and is about to write the entry. Writing it here
                // could undo that.
                return self.0.load(&seal).await.map(drop);
            };
            let use_lease = async {
                let mut entry = self.0.load(&seal).await?;
                self.0.write(&seal, &mut entry).await?;
                self.0.extend(&seal, &lease).await
            };
            let used = use_lease.await;
            let released = self.0.try_release(&seal, lease).await;
            used.and(released)
        };
        check.await.map_err(|error: io::Error| unusable(&error))
    }
}

fn unusable(error: &io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the token store cannot be used: {error}"))
}

#[async_trait]
impl TokenSource for SharedSource {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
        let started = self.0.monotonic();
        let seal = self.0.seal().await?;
        self.0.state().refused_in = None;
        Call::new(&self.0, context, started, seal).adopt_or_fetch().await
    }

    async fn sharing_key(&self) -> Result<Option<SharingKey>> {
        self.0.sharing_key().await
    }

    fn give_back_budget(&self) {
        self.0.inner.give_back_budget();
        if let Ok(runtime) = Handle::try_current() {
            #[expect(clippy::disallowed_methods, reason = "no caller waits for it")]
            drop(runtime.spawn(give_back(Arc::clone(&self.0))));
        }
    }

    async fn has_new_credentials(&self) -> bool {
        // If the issuer refused another process, the inner source does not know about it.
        let refused_in = self.0.state().refused_in.clone();
        let has_new_name = match refused_in {
            Some(name) => self.0.seal().await.is_ok_and(|seal| seal.name() != name),
            None => false,
        };
        has_new_name || self.0.inner.has_new_credentials().await
    }
}

/// Gives a token request back to the budget of all processes. Needs the lease, because another
/// process may be about to save a token.
async fn give_back(parts: Arc<Parts>) {
    let Ok(seal) = parts.seal().await else { return };
    for _ in 0..GIVE_BACK_ATTEMPTS {
        if let Ok(Some(lease)) = parts.try_lease(&seal).await {
            if let Ok(entry) = parts.load(&seal).await {
                let _ = parts.write(&seal, &mut entry.with_budget_given_back()).await;
            }
            parts.release(&seal, Some(lease)).await;
            return;
        }
        sleep(GIVE_BACK_PAUSE).await;
    }
}

impl fmt::Debug for SharedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSource")
            .field("sharing_key", &self.0.sharing_key)
            .finish_non_exhaustive()
    }
}
