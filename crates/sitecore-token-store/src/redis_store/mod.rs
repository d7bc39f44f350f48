//! A store in Redis or Valkey, for the processes of many machines.
//!
//! Each call is one command with one key. Both keys of an entry have the same hash tag, so a
//! cluster keeps them on one node. Only the server's clock determines when an entry expires.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, RedisError, RedisResult,
    aio::MultiplexedConnection, cmd,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use sitecore_auth::{Clock as _, Error, ErrorKind, Result, SystemClock};
use tokio::runtime::{Handle, Id};

use crate::store::{Lease, Stored, TokenStore};

/// A connection that was idle for longer is not used again. A firewall may have dropped it
/// silently, and noticing that takes the whole time limit of a call.
const MAX_IDLE: Duration = Duration::from_secs(10);

/// For programs that call the store themselves. `SharedSource` has a shorter time limit.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the entry and its remaining time in one step; otherwise an entry could get the remaining
/// time of its successor. A value that is not a string counts as missing.
const LOAD: &str = "
local entry = redis.pcall('GET', KEYS[1])
if type(entry) == 'table' then entry = false end
return {entry, redis.call('PTTL', KEYS[1])}";

/// Takes the expiry as an absolute time, so that a write which the server executes late does not
/// extend the entry.
const SAVE: &str = "
local time = redis.call('TIME')
local left = ARGV[2] - (time[1] * 1000 + math.floor(time[2] / 1000))
if left > 0 then redis.call('SET', KEYS[1], ARGV[1], 'PX', string.format('%.0f', left)) end";

/// Succeeds again for the same owner, who may not have received the first response.
const LEASE: &str = "
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0";

/// Releases only the owner's own lease.
const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end";

/// Keeps entries in Redis 5 or later, or in Valkey.
///
/// The connection is opened when it is needed, and again after an error or an idle period. A
/// restart or failover of the server costs only the entries that are lost. For a cluster, give the
/// address of any node.
///
/// The Redis user needs the commands `EVAL`, `GET`, `SET`, `DEL`, `PTTL` and `TIME` on keys that
/// begin with `sitecore-auth:`, and `SELECT` if the URL names a database.
///
/// Clones share the connection but hold leases independently.
pub struct RedisStore {
    client: Client,
    connection: Arc<Mutex<Option<Connection>>>,
    /// Identifies the leases of this store, including one whose response was lost.
    owner: String,
}

/// A connection whose last command succeeded.
#[derive(Clone)]
struct Connection {
    inner: MultiplexedConnection,
    /// The runtime that drives it.
    runtime: Id,
    /// By the wall clock, which also advances while the machine is suspended.
    last_used: Duration,
}

impl RedisStore {
    /// Creates a store on the server of a URL: `redis://user:password@host:port/database`, or
    /// `rediss://` for TLS. Does not connect yet.
    ///
    /// With TLS, this machine must trust the server's certificate. `SSL_CERT_FILE` names a file of
    /// root certificates that replaces the machine's own in the whole process. rustls uses the
    /// process's default crypto provider; if there is none at the first connection, aws-lc-rs
    /// becomes the default.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the URL is invalid.
    pub fn new(url: impl AsRef<str>) -> Result<Self> {
        let client = Client::open(url.as_ref()).map_err(|error| {
            config(format!("{error}; in a password, write @ : / and # as %40 %3A %2F and %23"))
        })?;
        if matches!(
            client.get_connection_info().addr(),
            ConnectionAddr::TcpTls { insecure: true, .. }
        ) {
            return Err(config(
                "#insecure is not supported; let this machine trust the certificate".to_owned(),
            ));
        }
        Ok(Self { client, connection: Arc::default(), owner: owner() })
    }

    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> io::Result<T> {
        if let Some(connection) = self.usable_connection()
            && let Ok(value) = self.run_on(connection, command).await
        {
            return Ok(value);
        }
        let mut result = self.connect_and_run(&self.client, command).await;
        if let Err(error) = &result
            && let Some((node, _slot)) = error.redirect_node()
            && let Some(client) = self.client_for(node)
        {
            result = self.connect_and_run(&client, command).await;
        }
        result.map_err(|error| sanitized(self.client.get_connection_info().addr(), &error))
    }

    async fn connect_and_run<T: FromRedisValue>(
        &self,
        client: &Client,
        command: &Cmd,
    ) -> RedisResult<T> {
        let connection = Connection {
            inner: connect(client).await?,
            runtime: Handle::current().id(),
            last_used: Duration::ZERO,
        };
        self.run_on(connection, command).await
    }

    /// Keeps the connection only if the command succeeds, and not after an error or if the caller
    /// gives up.
    async fn run_on<T: FromRedisValue>(
        &self,
        mut connection: Connection,
        command: &Cmd,
    ) -> RedisResult<T> {
        let mut keep = KeepOnSuccess { slot: &self.connection, connection: None };
        let value = command.query_async(&mut connection.inner).await?;
        connection.last_used = SystemClock.now().wall();
        keep.connection = Some(connection);
        Ok(value)
    }

    fn usable_connection(&self) -> Option<Connection> {
        let connection = lock(&self.connection).clone()?;
        let is_driven = connection.runtime == Handle::current().id();
        let idle = SystemClock.now().wall().abs_diff(connection.last_used);
        (is_driven && idle < MAX_IDLE).then_some(connection)
    }

    /// Returns a client for another node of the cluster, with the same settings.
    fn client_for(&self, node: &str) -> Option<Client> {
        let (host, port) = node.rsplit_once(':')?;
        let (host, port) = (host.to_owned(), port.parse().ok()?);
        let info = self.client.get_connection_info().clone();
        let addr = match info.addr().clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        Client::open(info.set_addr(addr)).ok()
    }
}

#[async_trait]
impl TokenStore for RedisStore {
    async fn load(&self, name: &str) -> io::Result<Option<Stored>> {
        let (entry, remaining): (Option<Vec<u8>>, i64) =
            self.run(&eval(LOAD, &key(name, "entry"))).await?;
        Ok(entry.map(|entry| {
            let stored = Stored::new(entry);
            match u64::try_from(remaining) {
                Ok(millis) => stored.with_remaining(Duration::from_millis(millis)),
                // The key's expiry was removed.
                Err(_) => stored,
            }
        }))
    }

    async fn save(&self, name: &str, entry: &[u8], keep: Duration) -> io::Result<()> {
        let started = SystemClock.now().monotonic();
        let (seconds, micros): (u64, u64) = self.run(&cmd("TIME")).await?;
        let elapsed = SystemClock.now().monotonic().saturating_sub(started);
        let now = Duration::from_secs(seconds) + Duration::from_micros(micros);
        let until = (now + keep).saturating_sub(elapsed);
        let mut save = eval(SAVE, &key(name, "entry"));
        self.run(save.arg(entry).arg(millis(until))).await
    }

    async fn try_lease(&self, name: &str, duration: Duration) -> io::Result<Option<Lease>> {
        let mut lease = eval(LEASE, &key(name, "lease"));
        let is_ours: bool = self.run(lease.arg(&self.owner).arg(millis(duration))).await?;
        Ok(is_ours.then(|| Lease::new(self.owner.clone())))
    }

    async fn release(&self, name: &str, lease: Lease) -> io::Result<()> {
        let Some(owner) = lease.handle::<String>() else {
            return Ok(());
        };
        self.run(eval(RELEASE, &key(name, "lease")).arg(owner)).await
    }
}

/// Puts the connection into the slot when dropped, or empties the slot if there is none.
struct KeepOnSuccess<'a> {
    slot: &'a Mutex<Option<Connection>>,
    connection: Option<Connection>,
}

impl Drop for KeepOnSuccess<'_> {
    fn drop(&mut self) {
        *lock(self.slot) = self.connection.take();
    }
}

impl Clone for RedisStore {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            connection: Arc::clone(&self.connection),
            owner: owner(),
        }
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may contain a password.
        f.debug_struct("RedisStore").finish_non_exhaustive()
    }
}

fn config(reason: String) -> Error {
    let hint = "invalid Redis URL (expected, for example, rediss://user:password@host:6379)";
    Error::new(ErrorKind::Config, format!("{hint}: {reason}"))
}

async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let is_tls = matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. });
    if is_tls && CryptoProvider::get_default().is_none() {
        // rustls panics if the program has two providers and no default.
        let _ = aws_lc_rs::default_provider().install_default();
    }
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// Describes an error without the server's own text, which can quote an unknown command, including
/// a password in it.
fn sanitized(addr: &ConnectionAddr, error: &RedisError) -> io::Error {
    let reason = match error.code() {
        Some("NOAUTH") => "a password is required; add it to the URL".to_owned(),
        Some("NOPERM") => {
            "the user is not allowed to run a required command; see RedisStore".to_owned()
        }
        Some("OOM") => "the server is out of memory".to_owned(),
        Some(code) => format!("the server returned the error {code}"),
        None if error.is_io_error() => error.to_string(),
        None => error.category().to_owned(),
    };
    io::Error::other(format!("Redis at {addr}: {reason}"))
}

fn owner() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn lock(slot: &Mutex<Option<Connection>>) -> MutexGuard<'_, Option<Connection>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(name: &str, part: &str) -> String {
    format!("sitecore-auth:{{{name}}}:{part}")
}

fn eval(script: &str, key: &str) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(script).arg(1).arg(key);
    eval
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
