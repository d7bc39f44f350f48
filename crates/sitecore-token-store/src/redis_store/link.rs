//! The connection to a Redis server or cluster: opened once for all callers, and closed when idle.

use std::{
    env, fmt, fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, Pipeline, RedisError,
    RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
#[cfg(feature = "redis-cluster")]
use redis::{cluster::ClusterClientBuilder, cluster_async::ClusterConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use secrecy::{ExposeSecret as _, SecretString};
use sitecore_auth::{Clock as _, SystemClock};
use tokio::{
    runtime::{Handle, Id},
    sync::oneshot,
    task::spawn_blocking,
    time::{sleep, timeout},
};

/// A connection that was idle for longer is closed. A firewall may have dropped it silently, and
/// noticing that takes the whole time limit of a command.
const MAX_IDLE: Duration = Duration::from_secs(10);

/// How long no connection is tried after one could not be opened.
const FAILED_TIME: Duration = Duration::from_secs(10);

/// The servers that a store uses.
pub(super) enum Server {
    One(Box<ConnectionInfo>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Vec<ConnectionInfo>),
}

/// Where the password comes from, if not from the URL.
pub(super) enum Password {
    File(PathBuf),
    Variable(String),
    Function(Box<dyn Fn() -> BoxFuture<'static, io::Result<SecretString>> + Send + Sync>),
}

pub(super) struct Link {
    server: Server,
    password: Option<Password>,
    connect_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    Closed,
    Opening(Opening),
    Open(Open),
    /// Until this time, by the monotonic clock, no connection is tried.
    Failed(Arc<str>, Duration),
}

/// A connection that is being opened. The task that opens it goes on if its callers go away.
#[derive(Clone)]
struct Opening {
    runtime: Id,
    result: Shared<oneshot::Receiver<Result<Open, Arc<str>>>>,
}

#[derive(Clone)]
pub(super) struct Open {
    pub(super) connection: Connection,
    /// The runtime that drives it.
    runtime: Id,
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
        Arc::new(Self { server, password, connect_timeout, state: Mutex::default() })
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Returns the open connection, or opens one, once for any number of callers.
    pub(super) async fn open(self: &Arc<Self>) -> io::Result<Open> {
        let runtime = Handle::current();
        let opening = {
            let mut state = self.state();
            match &*state {
                State::Open(open) if open.is_usable(runtime.id()) => return Ok(open.clone()),
                State::Failed(reason, until) if monotonic() < *until => {
                    return Err(io::Error::other(reason.to_string()));
                }
                State::Opening(opening) if opening.runtime == runtime.id() => opening.clone(),
                _ => {
                    let (sender, receiver) = oneshot::channel();
                    let opening = Opening { runtime: runtime.id(), result: receiver.shared() };
                    *state = State::Opening(opening.clone());
                    #[expect(clippy::disallowed_methods, reason = "it outlives its callers")]
                    drop(runtime.spawn(open_and_close(Arc::clone(self), sender)));
                    opening
                }
            }
        };
        match opening.result.await {
            Ok(result) => result.map_err(|reason| io::Error::other(reason.to_string())),
            Err(_) => Err(io::Error::other("the runtime of the Redis connection has ended")),
        }
    }

    /// Closes this connection, unless another one has taken its place.
    pub(super) fn close(&self, open: &Open) {
        let mut state = self.state();
        if matches!(&*state, State::Open(current) if current.is_same(open)) {
            *state = State::Closed;
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the connection, informs the callers, and closes the connection once it is idle.
async fn open_and_close(link: Arc<Link>, callers: oneshot::Sender<Result<Open, Arc<str>>>) {
    let connection = match timeout(link.connect_timeout, link.connect()).await {
        Ok(result) => result.map_err(|error| Arc::from(error.to_string())),
        Err(_) => {
            let (address, limit) = (address_of(&link.server), link.connect_timeout);
            Err(Arc::from(format!("Redis at {address}: no connection within {limit:?}")))
        }
    };
    let opened = connection.map(|connection| Open {
        connection,
        runtime: Handle::current().id(),
        last_used: Arc::default(),
    });
    *link.state() = match &opened {
        Ok(open) => State::Open(open.clone()),
        Err(reason) => State::Failed(Arc::clone(reason), monotonic() + FAILED_TIME),
    };
    let idle = opened.as_ref().ok().cloned();
    let _ = callers.send(opened);
    if let Some(open) = idle {
        loop {
            sleep(MAX_IDLE).await;
            if open.idle_time().is_none_or(|idle| idle >= MAX_IDLE) {
                break;
            }
        }
        link.close(&open);
    }
}

impl Open {
    fn is_usable(&self, runtime: Id) -> bool {
        self.runtime == runtime && self.idle_time().is_none_or(|idle| idle < MAX_IDLE)
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

impl Password {
    async fn read(&self) -> io::Result<SecretString> {
        match self {
            Self::Function(password) => password().await,
            Self::File(path) => {
                let (file, shown) = (path.clone(), path.display());
                let text = spawn_blocking(|| fs::read_to_string(file)).await?.map_err(|error| {
                    io::Error::new(error.kind(), format!("could not read {shown}: {error}"))
                })?;
                Ok(text.trim().into())
            }
            Self::Variable(name) => {
                let text = env::var(name).map_err(|error| {
                    io::Error::other(format!("could not read the variable {name}: {error}"))
                })?;
                Ok(text.trim().into())
            }
        }
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
