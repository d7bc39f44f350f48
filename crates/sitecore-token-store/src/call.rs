//! One call of a shared source: it adopts what the store has, or makes the token request.

use std::{convert::Infallible, future::pending, io, pin::pin, time::Duration};

use futures_util::future::{Either, select};
use sitecore_auth::{Error, ErrorKind, FetchContext, Result, Token};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::{
    decision::{Next, Now, Visit},
    entry::{Entry, UNWRITABLE_TIME},
    parts::Parts,
    seal::Seal,
    store::Lease,
};

/// How often the holder extends its lease during a token request.
const EXTEND_INTERVAL: Duration = Duration::from_millis(1_500);

/// The shortest wait between two polls of the store. Each wait is random, and up to twice as long.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Spreads the token requests of a fleet whose store went down.
const FALLBACK_JITTER: Duration = Duration::from_millis(250);

/// How long a note to the others may take.
const NOTE_TIME: Duration = Duration::from_millis(250);

/// How long the lease holder tries again to save its token after the store has failed. Its caller
/// waits.
const SAVE_TIME: Duration = Duration::from_secs(1);

pub(crate) struct Call<'a> {
    parts: &'a Parts,
    context: FetchContext<'a>,
    /// By the monotonic clock.
    started: Duration,
    seal: Seal,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        parts: &'a Parts,
        context: FetchContext<'a>,
        started: Duration,
        seal: Seal,
    ) -> Self {
        Self { parts, context, started, seal }
    }

    /// Adopts what is in the store, or fetches a token and saves it.
    pub(crate) async fn adopt_or_fetch(&self) -> Result<Token> {
        let mut visit =
            Visit::new(self.context, self.id(), self.parts.is_unwritable(), fastrand::f64());
        let (mut entry, mut lease, mut failure) = (None, None, None);
        let mut next = Next::Look;
        loop {
            next = match next {
                Next::Look => {
                    entry = match self.parts.load(&self.seal).await {
                        Ok(entry) => Some(entry),
                        Err(error) => {
                            failure = Some(self.failed("load", error));
                            None
                        }
                    };
                    visit.look(entry.as_ref(), self.moment())
                }
                Next::Wait(limit) => {
                    self.parts.release(&self.seal, lease.take()).await;
                    sleep(poll_interval().min(limit)).await;
                    Next::Look
                }
                Next::Spread => {
                    sleep(FALLBACK_JITTER.mul_f64(fastrand::f64())).await;
                    Next::Look
                }
                Next::Acquire => {
                    let is_ours = match self.parts.try_lease(&self.seal).await {
                        Ok(acquired) => {
                            lease = acquired;
                            Some(lease.is_some())
                        }
                        Err(error) => {
                            failure = Some(self.failed("lease", error));
                            None
                        }
                    };
                    visit.after_acquiring(is_ours, self.moment())
                }
                Next::Adopt(token) => {
                    self.parts.release(&self.seal, lease).await;
                    return Ok(self.adopted(token));
                }
                Next::Fail(error) => {
                    self.parts.release(&self.seal, lease).await;
                    return Err(self.adopted_failure(error));
                }
                Next::Request => {
                    return match lease {
                        Some(lease) => self.fetch_as_holder(entry.unwrap_or_default(), lease).await,
                        None => self.fetch_alone(false).await,
                    };
                }
                Next::RequestAlone { watch } => {
                    if watch {
                        debug!("lease holder unresponsive, requesting a token anyway");
                    } else if let Some(error) = failure {
                        warn!(%error, "token store unavailable, continuing without it");
                    }
                    self.parts.release(&self.seal, lease).await;
                    return self.fetch_alone(watch).await;
                }
            }
        }
    }

    /// Fetches a token, and saves it or the failure that the issuer reported. Meanwhile, the lease
    /// is extended.
    async fn fetch_as_holder(&self, mut entry: Entry, lease: Lease) -> Result<Token> {
        // Shows that this process can save.
        if let Err(error) = self.write_twice(&mut entry).await {
            // Otherwise the others would wait for a token that cannot be saved.
            self.note_unwritable(&error);
            self.parts.release(&self.seal, Some(lease)).await;
            return self.fetch_alone(false).await;
        }
        let requested_at = self.parts.now();
        let result = {
            let fetch = pin!(self.request());
            let extend = pin!(self.keep_extending(&lease));
            match select(fetch, extend).await {
                Either::Left((result, _)) => result,
                Either::Right((never, _)) => match never {},
            }
        };
        let saving = self.save_repeatedly(&result, requested_at);
        let saved = self.in_time(Duration::MAX, saving).await.unwrap_or_else(|| {
            // This says nothing about the store.
            debug!("could not save token to store in time");
            Ok(None)
        });
        if saved.is_err() {
            // The note says that the others should not wait for a token. It keeps what is stored,
            // such as a token that they can still use.
            let note = async {
                let entry = self.parts.load(&self.seal).await?;
                let mut entry = entry.with_unwritable(self.parts.now());
                self.parts.write(&self.seal, &mut entry).await
            };
            self.in_time(NOTE_TIME, note).await;
        }
        self.in_time(Duration::MAX, self.parts.release(&self.seal, Some(lease))).await;
        match saved {
            Ok(Some(newer)) => Ok(self.adopted(newer)),
            Ok(None) => result,
            Err(error) => {
                self.note_unwritable(&error);
                result
            }
        }
    }

    /// Writes the entry, and once more if the store fails. Does not pause, because others wait for
    /// the lease.
    async fn write_twice(&self, entry: &mut Entry) -> io::Result<()> {
        if let Err(error) = self.parts.write(&self.seal, entry).await {
            self.failed("save", error);
            return self.parts.write(&self.seal, entry).await;
        }
        Ok(())
    }

    async fn keep_extending(&self, lease: &Lease) -> Infallible {
        loop {
            sleep(EXTEND_INTERVAL).await;
            match self.parts.extend(&self.seal, lease).await {
                Ok(true) => {}
                Ok(false) => debug!("lease has ended"),
                Err(error) => debug!(%error, "could not extend lease"),
            }
        }
    }

    /// Fetches a token without the lease, and saves it if possible.
    async fn fetch_alone(&self, watch: bool) -> Result<Token> {
        let requested_at = self.parts.now();
        let result = {
            let fetch = pin!(self.request());
            let stored = pin!(async {
                match watch {
                    true => self.until_stored().await,
                    false => pending().await,
                }
            });
            match select(fetch, stored).await {
                Either::Left((result, _)) => result,
                Either::Right((token, _)) => return Ok(self.adopted(token)),
            }
        };
        // A failure is saved by lease holders only.
        if result.is_ok() && !self.parts.is_unwritable() {
            match self.in_time(SAVE_TIME, self.save(&result, requested_at)).await {
                Some(Err(error)) => debug!(%error, "could not save token to store"),
                Some(Ok(_)) => {}
                None => debug!("could not save token to store in time"),
            }
        }
        result
    }

    /// Waits until the lease holder has saved a token.
    async fn until_stored(&self) -> Token {
        loop {
            sleep(poll_interval()).await;
            if let Ok(entry) = self.parts.load(&self.seal).await
                && let Some(token) = entry.token(self.context.replacing(), self.parts.now())
            {
                return token;
            }
        }
    }

    async fn request(&self) -> Result<Token> {
        self.count("requested", "");
        self.parts.inner.fetch(self.context.after(self.waited())).await
    }

    /// Limits one step after the token request to half of the time that the refresh has left,
    /// because its caller must get the token even if the store hangs.
    async fn in_time<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let left = self.context.after(self.waited()).time_left();
        timeout(limit.min(left / 2), work).await.ok()
    }

    /// Saves a result. Tries again for a while if the store fails.
    async fn save_repeatedly(
        &self,
        result: &Result<Token>,
        requested_at: Duration,
    ) -> io::Result<Option<Token>> {
        let mut failure = match self.save(result, requested_at).await {
            Ok(newer) => return Ok(newer),
            Err(error) => self.failed("save", error),
        };
        let repeat = async {
            loop {
                sleep(poll_interval()).await;
                match self.save(result, requested_at).await {
                    Ok(newer) => return newer,
                    Err(error) => failure = self.failed("save", error),
                }
            }
        };
        timeout(SAVE_TIME, repeat).await.map_err(|_| failure)
    }

    /// Saves a result, unless other processes have no use for it. After a failure, returns the
    /// token that another process has saved in the meantime, if any.
    async fn save(
        &self,
        result: &Result<Token>,
        requested_at: Duration,
    ) -> io::Result<Option<Token>> {
        let is_useful = match result {
            // Not if the issuer returned the very token that is to be replaced.
            Ok(token) => self.context.replacing().is_none_or(|old| old.header() != token.header()),
            Err(error) => error.issuer_responded(),
        };
        // If the credentials changed during the request, it is unknown which ones it used.
        let is_same = self.parts.seal().await.is_ok_and(|now| now.name() == self.seal.name());
        if !is_useful || !is_same {
            return Ok(None);
        }
        let entry = self.parts.load(&self.seal).await?;
        let now = self.parts.now();
        let entry = match result {
            // The budget is charged only for a token that arrived, as in a single cache.
            Ok(token) if self.context.uses_budget() => {
                let entry = entry.with_budget_spent(now);
                Some(entry.with_token(token, requested_at, now).unwrap_or(entry))
            }
            Ok(token) => entry.with_token(token, requested_at, now),
            Err(error) => match entry.token(self.context.replacing(), now) {
                Some(newer) => return Ok(Some(newer)),
                None => Some(entry.with_failure(error, requested_at, now, self.id())),
            },
        };
        if let Some(mut entry) = entry {
            self.parts.write(&self.seal, &mut entry).await?;
        }
        Ok(None)
    }

    fn note_unwritable(&self, error: &io::Error) {
        warn!(%error, "could not save token to store");
        self.count("unavailable", "save");
        self.parts.state().unwritable_until = self.parts.monotonic() + UNWRITABLE_TIME;
    }

    /// Returns a token from the store, marked as adopted. Its age is the one that it had when the
    /// source was called, before this wait.
    fn adopted(&self, token: Token) -> Token {
        self.count("adopted", "");
        debug!(token = %token.fingerprint(), "token adopted from store");
        let age = token.age().saturating_sub(self.waited());
        token.with_age(age).adopted()
    }

    fn adopted_failure(&self, error: Error) -> Error {
        self.count("failure_adopted", "");
        debug!(kind = ?error.kind(), "backing off after another process's failure");
        let is_refused = matches!(error.kind(), ErrorKind::Refused | ErrorKind::RateLimited);
        self.parts.state().refused_in = is_refused.then(|| self.seal.name().to_owned());
        error
    }

    /// Distinguishes this cache's failures from those of others.
    fn id(&self) -> u128 {
        self.parts.id.wrapping_add(self.context.cache_number().into())
    }

    fn moment(&self) -> Now {
        Now { wall: self.parts.now(), waited: self.waited() }
    }

    /// Returns how long ago the source was called.
    fn waited(&self) -> Duration {
        self.parts.monotonic().saturating_sub(self.started)
    }

    /// Logs and counts a failed call of the store.
    fn failed(&self, action: &'static str, error: io::Error) -> io::Error {
        self.count("unavailable", action);
        debug!(%error, action, "token store failed");
        error
    }

    /// Counts a use of the store. `cause` is the failed action, if one failed.
    fn count(&self, outcome: &'static str, cause: &'static str) {
        #[cfg(feature = "metrics")]
        metrics::counter!(
            "sitecore_auth_store_total",
            "cache" => self.context.cache().to_owned(), "outcome" => outcome, "cause" => cause
        )
        .increment(1);
        #[cfg(not(feature = "metrics"))]
        let _ = (outcome, cause);
    }
}

fn poll_interval() -> Duration {
    POLL_INTERVAL.mul_f64(1.0 + fastrand::f64())
}
