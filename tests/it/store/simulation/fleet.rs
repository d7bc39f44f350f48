//! Five processes with one store, and the checks of their contract.

use std::time::Duration;

use sitecore_auth::{Error, Token, TokenCache};
use sitecore_token_store::SharedSource;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    HEALTHY, LIFETIME, PROCESSES,
    peer::{Center, Fault, Issuer, Peer, Way},
};
use crate::support::{HOUR, MINUTE, Memory, PausedClock, SECOND, text};

/// The longest that a caller waits: the time limit of a refresh.
const LONGEST: Duration = Duration::from_secs(31);

pub(super) struct Fleet {
    issuer_fails: bool,
    store_fails: bool,
    center: Center,
    store: Memory,
    clock: PausedClock,
    processes: Vec<Process>,
    callers: Vec<Caller>,
    started: Instant,
    /// How many processes there have been. Each has its own budget while it is without the store.
    incarnations: u32,
    rejections: u32,
    /// How often a process was cut off so that its token requests get no response.
    silences: u32,
}

struct Process {
    cache: TokenCache,
    peer: Peer,
}

struct Caller {
    process: u32,
    is_healthy: bool,
    rejected: Option<Token>,
    started: Instant,
    /// When and how it ended.
    call: JoinHandle<(Result<Token, Error>, Instant)>,
}

impl Fleet {
    pub(super) fn new(issuer_fails: bool, store_fails: bool) -> Self {
        let mut fleet = Self {
            issuer_fails,
            store_fails,
            center: Center::new(),
            store: Memory::default(),
            clock: PausedClock::new(),
            processes: Vec::new(),
            callers: Vec::new(),
            started: Instant::now(),
            incarnations: 0,
            rejections: 0,
            silences: 0,
        };
        fleet.processes = (0..PROCESSES).map(|index| fleet.process(index)).collect();
        fleet
    }

    fn process(&mut self, index: usize) -> Process {
        self.incarnations += 1;
        let peer = Peer::new(self.incarnations, index < HEALTHY, &self.center, &self.store);
        let shared = SharedSource::new(peer.clone(), peer.clone()).unwrap();
        let shared = shared.with_clock(self.clock.clone());
        let cache = TokenCache::builder(shared).clock(self.clock.clone()).build().unwrap();
        Process { cache, peer }
    }

    pub(super) fn peer(&self, index: usize) -> &Peer {
        &self.processes[index].peer
    }

    pub(super) fn restart(&mut self, index: usize) {
        self.processes[index] = self.process(index);
    }

    pub(super) fn connect(&mut self, index: usize, way: Way) {
        self.silences += u32::from(way == Way::Silent);
        self.peer(index).connect(way);
    }

    pub(super) fn set_fault(&self, fault: Option<Fault>) {
        self.processes.iter().for_each(|process| process.peer.set_fault(fault));
    }

    pub(super) fn lose_data(&self) {
        self.store.entries.lock().unwrap().clear();
        self.store.leases.lock().unwrap().clear();
    }

    pub(super) fn set_issuer(&self, issuer: Issuer) {
        self.center.lock().issuer = issuer;
    }

    pub(super) fn token(&mut self, index: usize) {
        let cache = self.processes[index].cache.clone();
        self.start(index, None, async move { cache.token().await });
    }

    pub(super) fn reject(&mut self, index: usize) {
        let cache = self.processes[index].cache.clone();
        let Some(token) = cache.current() else { return };
        self.rejections += 1;
        let rejected = token.clone();
        self.start(index, Some(rejected), async move { cache.replace(&token).await });
    }

    pub(super) async fn reject_everything(&mut self) {
        for index in (0..PROCESSES).cycle().take(12 * PROCESSES) {
            // Its own token, and then the one that it gets from another process.
            self.reject(index);
            sleep(10 * SECOND).await;
            self.reject(index);
            sleep(110 * SECOND).await;
        }
    }

    fn start(
        &mut self,
        index: usize,
        rejected: Option<Token>,
        call: impl Future<Output = Result<Token, Error>> + Send + 'static,
    ) {
        let started = Instant::now();
        #[expect(clippy::disallowed_methods, reason = "callers wait at the same time")]
        let call = tokio::spawn(async move { (call.await, Instant::now()) });
        let process = self.processes[index].peer.number;
        self.callers.push(Caller { process, is_healthy: index < HEALTHY, rejected, started, call });
    }

    /// Checks what has happened so far.
    pub(super) async fn check(&mut self) -> Result<(), String> {
        for caller in std::mem::take(&mut self.callers) {
            match caller.call.is_finished() {
                true => self.check_result(caller).await?,
                false => self.callers.push(caller),
            }
        }
        self.check_costs()
    }

    async fn check_result(&self, caller: Caller) -> Result<(), String> {
        let (result, ended) = caller.call.await.expect("no panic");
        let (process, waited) = (caller.process, ended - caller.started);
        if caller.is_healthy && waited > LONGEST {
            return Err(format!("a caller of process {process} waited {waited:?}"));
        }
        match (result, caller.rejected) {
            (Ok(token), Some(rejected)) if token.header() == rejected.header() => {
                Err(format!("process {process} got the token again that was rejected"))
            }
            (Ok(token), _) => self.check_usable(&token, ended),
            (Err(error), _) if is_of_another(&error, process) => {
                Err(format!("process {process} got another's failure: {error}"))
            }
            // A rejected token is replaced as long as the budget lasts.
            (Err(error), None) if caller.is_healthy && !self.issuer_fails => {
                Err(format!("process {process} got no token: {error}"))
            }
            (Err(_), _) => Ok(()),
        }
    }

    fn check_usable(&self, token: &Token, now: Instant) -> Result<(), String> {
        let granted_at = self.center.lock().granted_at[&text(token)];
        match now < granted_at + LIFETIME {
            true => Ok(()),
            false => Err(format!("{} was returned after it expired", text(token))),
        }
    }

    fn check_costs(&self) -> Result<(), String> {
        let contents = self.center.lock();
        let hours = self.started.elapsed().as_secs() / 3_600;
        let hours = u32::try_from(hours).expect("a short case");
        // A fleet has one budget. A process without the store has its own.
        let budgets = if self.store_fails { self.incarnations + 1 } else { 1 };
        if contents.granted_by_budget > (6 + hours + 1) * budgets {
            return Err(format!("{} tokens by budget", contents.granted_by_budget));
        }
        // Whatever happens to the others, it costs these two no token requests.
        let periods = self.started.elapsed().div_duration_f64(LIFETIME / 2).ceil();
        // Without the response that the lease holder waits for, the others become impatient.
        let impatient = self.silences * HEALTHY as u32;
        let allowed = f64::from(1 + self.rejections + impatient) + periods;
        if !self.store_fails && !self.issuer_fails && f64::from(contents.healthy_requests) > allowed
        {
            return Err(format!("{} token requests", contents.healthy_requests));
        }
        Ok(())
    }

    /// Ends all trouble. The processes must then share one token again.
    pub(super) async fn recover(&mut self) -> Result<(), String> {
        for process in &self.processes {
            process.peer.set_fault(None);
            process.peer.freeze(false);
            process.peer.connect(Way::Open);
        }
        self.set_issuer(Issuer::Grants { after: SECOND });
        // The waits that were imposed in the meantime end.
        sleep(20 * MINUTE).await;
        self.check().await?;
        if !self.callers.is_empty() {
            return Err("a caller still waits after all trouble".to_owned());
        }
        // Each process adopts the store's token at its next refresh at the latest.
        self.use_tokens(LIFETIME).await?;
        let before = {
            let mut contents = self.center.lock();
            contents.most_in_flight = contents.in_flight;
            contents.granted
        };
        self.use_tokens(LIFETIME * 2).await?;
        let (granted, most) = {
            let contents = self.center.lock();
            (contents.granted, contents.most_in_flight)
        };
        if granted > before + 3 || most > 1 {
            let number = granted - before;
            return Err(format!("{number} tokens in two lifetimes, {most} requests at a time"));
        }
        // A process that starts now gets the same token.
        self.restart(0);
        self.processes[0].cache.token().await.map_err(|error| error.to_string())?;
        match self.center.lock().granted == granted {
            true => Ok(()),
            false => Err("a process that started late requested a token".to_owned()),
        }
    }

    /// Uses all caches for a while.
    async fn use_tokens(&self, time: Duration) -> Result<(), String> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            for process in &self.processes {
                let token = process.cache.token().await;
                let token = token.map_err(|error| format!("after all trouble: {error}"))?;
                self.check_usable(&token, Instant::now())?;
            }
            sleep(2 * SECOND).await;
            if !self.store.is_free() {
                return Err("a lease was not released".to_owned());
            }
            sleep(HOUR / 4).await;
        }
        Ok(())
    }
}

/// Returns `true` if the failure is that of another process without network.
fn is_of_another(error: &Error, process: u32) -> bool {
    let message = format!("{error} {error:?}");
    message.contains("without network") && !message.contains(&format!("process {process} "))
}
