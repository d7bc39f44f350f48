//! One process: its view of the store, and its way to the issuer.

use std::{
    collections::HashMap,
    future::{Future, pending},
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use sitecore_auth::{Error, ErrorKind, FetchContext, Result, SharingKey, Token, TokenSource};
use sitecore_token_store::{Lease, Stored, TokenStore};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::LIFETIME;
use crate::support::{FLEET_SECRET, Memory};

/// How far away the store is.
const LATENCY: Duration = Duration::from_millis(5);

/// How the issuer responds to a token request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Issuer {
    Grants {
        after: Duration,
    },
    Fails,
    /// A rate limit that specifies when to retry.
    FailsFor(Duration),
    Hangs,
}

impl Issuer {
    pub(super) fn fails(self) -> bool {
        !matches!(self, Self::Grants { .. })
    }
}

/// How a process reaches the issuer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    #[default]
    Open,
    /// Its token requests fail at once.
    Closed,
    /// Its token requests get no response.
    Silent,
}

/// What is wrong with the store, as one process sees it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Down,
    Hangs,
    /// Each call takes effect at once, and the response comes late.
    Late(Duration),
    /// The calls of this kind fail.
    At(Step),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Load,
    Save,
    Lease,
    Extend,
    Release,
}

/// The issuer, and what it was asked.
#[derive(Clone)]
pub(super) struct Center(Arc<Mutex<Contents>>);

pub(super) struct Contents {
    pub(super) issuer: Issuer,
    pub(super) granted: u32,
    pub(super) granted_at: HashMap<String, Instant>,
    /// The tokens that the budgets for rejected tokens paid for.
    pub(super) granted_by_budget: u32,
    /// The token requests of the processes without trouble of their own.
    pub(super) healthy_requests: u32,
    pub(super) in_flight: u32,
    pub(super) most_in_flight: u32,
}

impl Center {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Contents {
            issuer: Issuer::Grants { after: Duration::ZERO },
            granted: 0,
            granted_at: HashMap::new(),
            granted_by_budget: 0,
            healthy_requests: 0,
            in_flight: 0,
            most_in_flight: 0,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap()
    }
}

/// Both the source and the store of one process.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) number: u32,
    is_healthy: bool,
    center: Center,
    store: Memory,
    state: Arc<Mutex<State>>,
    is_still: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    is_dead: bool,
    way: Way,
    fault: Option<Fault>,
}

impl Peer {
    pub(super) fn new(number: u32, is_healthy: bool, center: &Center, store: &Memory) -> Self {
        let (center, store) = (center.clone(), store.clone());
        let (state, is_still) = (Arc::default(), watch::Sender::new(false));
        Self { number, is_healthy, center, store, state, is_still }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn kill(&self) {
        self.lock().is_dead = true;
    }

    pub(super) fn freeze(&self, is_frozen: bool) {
        self.is_still.send_replace(is_frozen);
    }

    pub(super) fn connect(&self, way: Way) {
        self.lock().way = way;
    }

    pub(super) fn set_fault(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    /// A process that is frozen or dead does nothing.
    async fn step(&self) {
        self.is_still.subscribe().wait_for(|is_still| !is_still).await.expect("a sender");
        if self.lock().is_dead {
            pending::<()>().await;
        }
    }

    async fn call<T>(
        &self,
        step: Step,
        call: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        self.step().await;
        let fault = self.lock().fault;
        match fault {
            Some(Fault::Down) => return Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Fault::Hangs) => pending().await,
            Some(Fault::At(failing)) if failing == step => {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            _ => {}
        }
        sleep(LATENCY).await;
        let result = call.await;
        sleep(LATENCY).await;
        if let Some(Fault::Late(late)) = fault {
            sleep(late).await;
        }
        self.step().await;
        result
    }
}

/// Counts a token request that is being made.
struct InFlight(Center);

impl InFlight {
    fn new(center: &Center) -> Self {
        let mut contents = center.lock();
        contents.in_flight += 1;
        contents.most_in_flight = contents.most_in_flight.max(contents.in_flight);
        Self(center.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}

#[async_trait]
impl TokenSource for Peer {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
        self.step().await;
        let way = self.lock().way;
        match way {
            Way::Open => {}
            Way::Closed => {
                let message = format!("process {} is without network", self.number);
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
            Way::Silent => pending().await,
        }
        let _in_flight = InFlight::new(&self.center);
        let issuer = {
            let mut contents = self.center.lock();
            contents.healthy_requests += u32::from(self.is_healthy);
            contents.issuer
        };
        let failed = |kind| Error::new(kind, "the issuer failed").with_issuer_responded();
        let result = match issuer {
            Issuer::Grants { after } => {
                sleep(after).await;
                let mut contents = self.center.lock();
                contents.granted += 1;
                contents.granted_by_budget += u32::from(context.uses_budget());
                let token = format!("token-{}", contents.granted);
                contents.granted_at.insert(token.clone(), Instant::now());
                Token::bearer(token, LIFETIME)
            }
            Issuer::Fails => Err(failed(ErrorKind::Unavailable)),
            Issuer::FailsFor(wait) => Err(failed(ErrorKind::RateLimited).with_retry_after(wait)),
            Issuer::Hangs => pending().await,
        };
        // It may have been frozen in the meantime.
        self.step().await;
        result
    }

    async fn sharing_key(&self) -> Result<Option<SharingKey>> {
        Ok(Some(SharingKey::new(FLEET_SECRET, "context")))
    }
}

#[async_trait]
impl TokenStore for Peer {
    async fn load(&self, name: &str) -> io::Result<Option<Stored>> {
        self.call(Step::Load, self.store.load(name)).await
    }

    async fn save(&self, name: &str, entry: &[u8], keep: Duration) -> io::Result<()> {
        self.call(Step::Save, self.store.save(name, entry, keep)).await
    }

    async fn try_lease(&self, name: &str, duration: Duration) -> io::Result<Option<Lease>> {
        self.call(Step::Lease, self.store.try_lease(name, duration)).await
    }

    async fn extend(&self, name: &str, lease: &Lease, duration: Duration) -> io::Result<bool> {
        self.call(Step::Extend, self.store.extend(name, lease, duration)).await
    }

    async fn release(&self, name: &str, lease: Lease) -> io::Result<()> {
        self.call(Step::Release, self.store.release(name, lease)).await
    }
}
