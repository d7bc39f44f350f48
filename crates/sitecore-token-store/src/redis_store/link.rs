//! The connection to a Redis server or cluster: opened once for all callers, and closed when idle.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::Shared};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, Pipeline, RedisError,
    RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
#[cfg(feature = "redis-cluster")]
use redis::{cluster::ClusterClientBuilder, cluster_async::ClusterConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use secrecy::ExposeSecret as _;
use sitecore_auth::{Clock as _, SystemClock};
use tokio::{
    runtime::{Handle, Id},
    sync::{Notify, Semaphore, oneshot},
    time::timeout,
};

use super::password::Password;

/// A connection that was idle for longer is closed. A firewall may have dropped it silently, and
/// noticing that takes the whole time limit of a command.
const MAX_IDLE: Duration = Duration::from_secs(10);

/// How long to wait after a failed attempt to connect before the next one. It doubles with each
/// failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// How long to wait after the server rejected a command because of its role or its password, or
/// because it was loading its data.
const ROLE_PAUSE: Duration = Duration::from_secs(1);

/// How many commands of one connection are in flight at once.
const MAX_IN_FLIGHT: usize = 64;

/// The servers that a store uses.
pub(super) enum Server {
    One(Box<ConnectionInfo>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Vec<ConnectionInfo>),
}

pub(super) struct Link {
    server: Server,
    password: Option<Password>,
    connect_timeout: Duration,
    /// A connection is driven by the runtime that opened it, so each runtime has its own.
    states: Mutex<HashMap<Id, State>>,
}

enum State {
    Opening(Opening),
    Open(Open),
    /// Opening a connection or using it failed, and none is opened for a while.
    Paused(Pause),
}

/// The result of opening a connection. The task that opens it continues if its callers go away.
type Opening = Shared<oneshot::Receiver<Result<Open, Arc<str>>>>;

#[derive(Clone)]
struct Pause {
    reason: Arc<str>,
    /// How many times in a row it failed.
    failures: u32,
    /// By the monotonic clock.
    retry_at: Duration,
}

#[derive(Clone)]
pub(super) struct Open {
    pub(super) connection: Connection,
    /// Limits the commands in flight. Otherwise, those of hundreds of caches that start together
    /// would wait for each other longer than a command may take.
    pub(super) in_flight: Arc<Semaphore>,
    /// Tells the task that keeps the connection to close it.
    close: Arc<Notify>,
    /// By the monotonic clock.
    opened_at: Duration,
    /// When a command succeeded last, in milliseconds by the wall clock, which also advances while
    /// the machine is suspended. Zero if none has yet.
    last_used: Arc<AtomicU64>,
}

#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    #[cfg(feature = "redis-cluster")]
    Cluster(ClusterConnection),
}

impl Link {
    pub(super) fn new(
        server: Server,
        password: Option<Password>,
        connect_timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Self { server, password, connect_timeout, states: Mutex::default() })
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Returns the open connection, or opens one, once for any number of callers.
    pub(super) async fn open(self: &Arc<Self>) -> io::Result<Open> {
        let runtime = Handle::current();
        let opening = {
            let mut states = self.states();
            let (known, failures) = match states.get(&runtime.id()) {
                Some(State::Open(open)) if open.is_usable() => return Ok(open.clone()),
                Some(State::Paused(pause)) if monotonic() < pause.retry_at => {
                    return Err(io::Error::other(pause.reason.to_string()));
                }
                Some(State::Opening(opening)) => (Some(opening.clone()), 0),
                Some(State::Paused(pause)) => (None, pause.failures),
                Some(State::Open(_)) | None => (None, 0),
            };
            known.unwrap_or_else(|| {
                let (sender, receiver) = oneshot::channel();
                let opening = receiver.shared();
                states.retain(|_, state| state.is_needed());
                states.insert(runtime.id(), State::Opening(opening.clone()));
                let task = open_and_close(Arc::clone(self), runtime.id(), failures, sender);
                #[expect(clippy::disallowed_methods, reason = "it outlives its callers")]
                drop(runtime.spawn(task));
                opening
            })
        };
        match opening.clone().await {
            Ok(result) => result.map_err(|reason| io::Error::other(reason.to_string())),
            Err(_) => {
                // The task has panicked, or its runtime has ended.
                let mut states = self.states();
                if matches!(states.get(&runtime.id()), Some(State::Opening(o)) if o.ptr_eq(&opening))
                {
                    states.remove(&runtime.id());
                }
                Err(io::Error::other("opening the connection to Redis was interrupted"))
            }
        }
    }

    /// Closes the connection, unless this error says nothing about it.
    pub(super) fn close_after(&self, open: &Open, error: &RedisError) {
        let retry_at = match (error.code(), &open.connection) {
            // The server has become a replica, its password has changed, or it is still loading its
            // data.
            (Some("READONLY" | "NOAUTH" | "LOADING" | "MASTERDOWN"), _) => {
                Some(monotonic() + ROLE_PAUSE)
            }
            (Some(_), _) => return,
            // The cluster's client opens another connection to the node by itself.
            #[cfg(feature = "redis-cluster")]
            (None, Connection::Cluster(_)) if error.is_timeout() => return,
            (None, _) => None,
        };
        let mut states = self.states();
        let is_current =
            |state: &State| matches!(state, State::Open(current) if current.is_same(open));
        let found = states.iter().find(|(_, state)| is_current(state)).map(|(id, _)| *id);
        if let Some(runtime) = found {
            open.close.notify_one();
            match retry_at {
                None => drop(states.remove(&runtime)),
                Some(retry_at) => {
                    let reason = Arc::from(describe(&self.server, error).to_string());
                    let pause = Pause { reason, failures: 0, retry_at };
                    states.insert(runtime, State::Paused(pause));
                }
            }
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let password = match &self.password {
            Some(password) => Some(password.read().await?),
            None => None,
        };
        let connect = async {
            let with_password = |info: &ConnectionInfo| match &password {
                None => info.clone(),
                Some(password) => {
                    let settings = info.redis_settings().clone();
                    info.clone().set_redis_settings(settings.set_password(password.expose_secret()))
                }
            };
            match &self.server {
                Server::One(info) => {
                    ensure_crypto_provider(info.addr());
                    let client = Client::open(with_password(info))?;
                    // The callers have their own time limits.
                    let config = AsyncConnectionConfig::new()
                        .set_connection_timeout(None)
                        .set_response_timeout(None);
                    let connection =
                        client.get_multiplexed_async_connection_with_config(&config).await?;
                    RedisResult::Ok(Connection::One(connection))
                }
                #[cfg(feature = "redis-cluster")]
                Server::Cluster(nodes) => {
                    nodes.iter().for_each(|node| ensure_crypto_provider(node.addr()));
                    let client =
                        ClusterClientBuilder::new(nodes.iter().map(with_password)).build()?;
                    Ok(Connection::Cluster(client.get_async_connection().await?))
                }
            }
        };
        connect.await.map_err(|error| describe(&self.server, &error))
    }

    fn states(&self) -> MutexGuard<'_, HashMap<Id, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns `false` for the state of a runtime that has ended.
    fn is_needed(&self) -> bool {
        match self {
            // `peek` would not notice a task that is gone, because no caller polls it any more.
            Self::Opening(opening) => opening.clone().now_or_never().is_none(),
            // If its runtime still ran, the connection's task would have closed it by now.
            Self::Open(open) => {
                open.is_usable() && (open.is_used() || monotonic() < open.opened_at + MAX_IDLE)
            }
            Self::Paused(pause) => monotonic() < pause.retry_at + MAX_PAUSE,
        }
    }
}

/// Opens the connection, informs the callers, and closes the connection once it is idle or broken.
async fn open_and_close(
    link: Arc<Link>,
    runtime: Id,
    failures: u32,
    callers: oneshot::Sender<Result<Open, Arc<str>>>,
) {
    let opened = timeout(link.connect_timeout, link.connect()).await;
    let pause = match opened {
        // The next attempt could take as long, and callers wait for it.
        Err(_) => MAX_PAUSE,
        Ok(_) => MAX_PAUSE.min(FIRST_PAUSE.saturating_mul(1 << failures.min(8))),
    };
    let opened = opened.unwrap_or_else(|_| {
        let (address, limit) = (address_of(&link.server), link.connect_timeout);
        Err(io::Error::other(format!("Redis at {address}: no connection within {limit:?}")))
    });
    let opened = match opened {
        Ok(connection) => Ok(Open {
            connection,
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            close: Arc::default(),
            opened_at: monotonic(),
            last_used: Arc::default(),
        }),
        Err(error) => Err(Arc::from(error.to_string())),
    };
    let state = match &opened {
        Ok(open) => State::Open(open.clone()),
        Err(reason) => State::Paused(Pause {
            reason: Arc::clone(reason),
            failures: failures + 1,
            retry_at: monotonic() + pause,
        }),
    };
    link.states().insert(runtime, state);
    let kept = opened.as_ref().ok().cloned();
    let _ = callers.send(opened);
    let Some(open) = kept else { return };
    loop {
        let rest = MAX_IDLE.saturating_sub(open.idle_time().unwrap_or_default());
        let is_broken = timeout(rest, open.close.notified()).await.is_ok();
        if is_broken || open.idle_time().is_none_or(|idle| idle >= MAX_IDLE) {
            break;
        }
    }
    let mut states = link.states();
    if matches!(states.get(&runtime), Some(State::Open(current)) if current.is_same(&open)) {
        states.remove(&runtime);
    }
}

impl Open {
    fn is_usable(&self) -> bool {
        self.idle_time().is_none_or(|idle| idle < MAX_IDLE)
    }

    pub(super) fn is_used(&self) -> bool {
        self.idle_time().is_some()
    }

    /// Records that a command has succeeded.
    pub(super) fn touch(&self) {
        self.last_used.store(wall_millis(), Ordering::Relaxed);
    }

    /// Returns how long ago a command succeeded, if one has.
    fn idle_time(&self) -> Option<Duration> {
        let last_used = self.last_used.load(Ordering::Relaxed);
        (last_used > 0).then(|| Duration::from_millis(wall_millis().abs_diff(last_used)))
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.last_used, &other.last_used)
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(cmd, offset, count),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(connection) => connection.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// Returns the addresses of the servers, for errors.
pub(super) fn address_of(server: &Server) -> impl fmt::Display + fmt::Debug {
    match server {
        Server::One(info) => info.addr().to_string(),
        #[cfg(feature = "redis-cluster")]
        Server::Cluster(nodes) => {
            let addresses: Vec<_> = nodes.iter().map(|node| node.addr().to_string()).collect();
            addresses.join(", ")
        }
    }
}

/// Describes an error without the server's own text, which can quote an unknown command, including
/// a password in it.
pub(super) fn describe(server: &Server, error: &RedisError) -> io::Error {
    let reason = match error.code() {
        Some("NOAUTH") => "a password is required; add it to the URL".to_owned(),
        Some("WRONGPASS") => "the user name or the password is wrong".to_owned(),
        Some("NOPERM") => {
            "the user is not allowed to run a required command; see RedisStore".to_owned()
        }
        Some("OOM") => "the server is out of memory".to_owned(),
        Some("MOVED" | "ASK") => {
            "the server is a node of a cluster; use RedisStore::cluster".to_owned()
        }
        Some("ERR") => {
            "the server returned the error ERR; check the database number in the URL, and that the server is Redis 5 or later".to_owned()
        }
        Some(code) => format!("the server returned the error {code}"),
        None if error.is_timeout() => "no response in time".to_owned(),
        None if error.is_io_error() => error.to_string(),
        None => error.category().to_owned(),
    };
    io::Error::other(format!("Redis at {}: {reason}", address_of(server)))
}

/// Returns `true` if the certificate would not be checked.
pub(super) fn is_insecure(addr: &ConnectionAddr) -> bool {
    matches!(addr, ConnectionAddr::TcpTls { insecure: true, .. })
}

fn ensure_crypto_provider(addr: &ConnectionAddr) {
    let is_tls = matches!(addr, ConnectionAddr::TcpTls { .. });
    if is_tls && CryptoProvider::get_default().is_none() {
        // rustls panics if the program has two providers and no default.
        let _ = aws_lc_rs::default_provider().install_default();
    }
}

fn monotonic() -> Duration {
    SystemClock.now().monotonic()
}

fn wall_millis() -> u64 {
    u64::try_from(SystemClock.now().wall().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
