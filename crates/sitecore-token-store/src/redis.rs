//! A store in Redis or Valkey, for the processes of many machines.
//!
//! Each call is one command with one key, and both keys of an entry have one hash tag: a cluster keeps them on one
//! node. Which instant an entry ends is reckoned by the server's clock alone.

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

use crate::{Lease, Stored, TokenStore};

/// A connection that nobody used for longer is not trusted: a firewall may have dropped it without a word, and to
/// find that out takes all the time there is.
const IDLE: Duration = Duration::from_secs(10);

/// Of a program that calls the store by itself; `SharedSource` has a shorter one.
const LIMIT: Duration = Duration::from_secs(2);

/// Both at one instant, else an entry could have the remaining life of its successor.
/// What is no text, is no entry.
const LOAD: &str = "
local entry = redis.pcall('GET', KEYS[1])
if type(entry) == 'table' then entry = false end
return {entry, redis.call('PTTL', KEYS[1])}";

/// A write that the server gets round to late, having been stopped, say, does not make the entry last longer.
const SAVE: &str = "
local time = redis.call('TIME')
local left = ARGV[2] - (time[1] * 1000 + math.floor(time[2] / 1000))
if left > 0 then redis.call('SET', KEYS[1], ARGV[1], 'PX', string.format('%.0f', left)) end";

/// Once more by the same owner, who did not hear the first answer, is the same lease.
const LEASE: &str = "
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0";

/// Another's lease is not given back.
const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end";

/// Keeps entries in Redis, version 5 or later, or Valkey.
///
/// One connection is opened when it is needed, and opened anew when it fails or was not used for a while: a server
/// that restarts or fails over costs nothing but what it forgets. An address of any node of a cluster will do.
///
/// Its user needs the commands `EVAL`, `GET`, `SET`, `DEL`, `PTTL` and `TIME`, on keys that begin with
/// `sitecore-auth:`, and `SELECT` if the URL names a database.
///
/// Clones share the connection, and are owners of leases each for itself.
pub struct RedisStore {
    client: Client,
    open: Arc<Mutex<Option<Open>>>,
    /// A lease that was lost on the way here, or with its runtime, is its own still.
    owner: String,
}

/// A connection that did what it should.
#[derive(Clone)]
struct Open {
    connection: MultiplexedConnection,
    /// That drives it.
    runtime: Id,
    /// By the wall clock, which goes on in suspend.
    used: Duration,
}

impl RedisStore {
    /// Uses the server that a URL names: `redis://user:password@host:port/database`, or `rediss://` for TLS. It is
    /// not connected to yet.
    ///
    /// With TLS the server's certificate must be one that this machine trusts; `SSL_CERT_FILE` names a file of roots
    /// that takes the place of the machine's, in the whole process. The cryptography is that which the
    /// process has chosen for rustls; if it has chosen none by the first connection, that becomes aws-lc-rs.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if this is no such URL.
    pub fn new(url: impl AsRef<str>) -> Result<Self> {
        let client = Client::open(url.as_ref()).map_err(|error| {
            config(format!("{error}; in a password @ : / and # are written as %40 %3A %2F %23"))
        })?;
        if matches!(
            client.get_connection_info().addr(),
            ConnectionAddr::TcpTls { insecure: true, .. }
        ) {
            return Err(config(
                "#insecure is not supported: let this machine trust the certificate".to_owned(),
            ));
        }
        Ok(Self { client, open: Arc::default(), owner: owner() })
    }

    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> io::Result<T> {
        if let Some(open) = self.open()
            && let Ok(answer) = self.ask(open, command).await
        {
            return Ok(answer);
        }
        let mut answer = self.ask_anew(&self.client, command).await;
        if let Err(error) = &answer
            && let Some((node, _slot)) = error.redirect_node()
            && let Some(client) = self.at(node)
        {
            answer = self.ask_anew(&client, command).await;
        }
        answer.map_err(|error| told(self.client.get_connection_info().addr(), &error))
    }

    async fn ask_anew<T: FromRedisValue>(&self, client: &Client, command: &Cmd) -> RedisResult<T> {
        let open = Open {
            connection: connect(client).await?,
            runtime: Handle::current().id(),
            used: Duration::ZERO,
        };
        self.ask(open, command).await
    }

    /// The connection is kept only if it did what it should: who gives up waiting, or is told of an error, leaves none.
    async fn ask<T: FromRedisValue>(&self, mut open: Open, command: &Cmd) -> RedisResult<T> {
        let mut kept = Kept { slot: &self.open, open: None };
        let answer = command.query_async(&mut open.connection).await?;
        open.used = SystemClock.now().wall();
        kept.open = Some(open);
        Ok(answer)
    }

    /// Returns the connection, if it can be trusted.
    fn open(&self) -> Option<Open> {
        let open = lock(&self.open).clone()?;
        let is_driven = open.runtime == Handle::current().id();
        let unused = SystemClock.now().wall().abs_diff(open.used);
        (is_driven && unused < IDLE).then_some(open)
    }

    /// Finds another node of the cluster, which is spoken to in the same way.
    fn at(&self, node: &str) -> Option<Client> {
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
                // Somebody took its end away.
                Err(_) => stored,
            }
        }))
    }

    async fn save(&self, name: &str, entry: &[u8], keep: Duration) -> io::Result<()> {
        let begun = SystemClock.now().monotonic();
        let (seconds, micros): (u64, u64) = self.run(&cmd("TIME")).await?;
        let took = SystemClock.now().monotonic().saturating_sub(begun);
        let now = Duration::from_secs(seconds) + Duration::from_micros(micros);
        let until = (now + keep).saturating_sub(took);
        let mut save = eval(SAVE, &key(name, "entry"));
        self.run(save.arg(entry).arg(millis(until))).await
    }

    async fn try_lease(&self, name: &str, life: Duration) -> io::Result<Option<Lease>> {
        let mut lease = eval(LEASE, &key(name, "lease"));
        let is_ours: bool = self.run(lease.arg(&self.owner).arg(millis(life))).await?;
        Ok(is_ours.then(|| Lease::new(self.owner.clone())))
    }

    async fn release(&self, name: &str, lease: Lease) -> io::Result<()> {
        let Some(owner) = lease.held_by::<String>() else {
            return Ok(());
        };
        self.run(eval(RELEASE, &key(name, "lease")).arg(owner)).await
    }
}

/// What is left of a connection when a command is over.
struct Kept<'a> {
    slot: &'a Mutex<Option<Open>>,
    open: Option<Open>,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        *lock(self.slot) = self.open.take();
    }
}

impl Clone for RedisStore {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), open: Arc::clone(&self.open), owner: owner() }
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("RedisStore").finish_non_exhaustive()
    }
}

fn config(why: String) -> Error {
    let hint = "this is no address of a Redis server, such as rediss://user:password@host:6379";
    Error::new(ErrorKind::Config, format!("{hint} ({why})"))
}

async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let is_tls = matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. });
    if is_tls && CryptoProvider::get_default().is_none() {
        // Else rustls panics where a program has two to choose from.
        let _ = aws_lc_rs::default_provider().install_default();
    }
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(LIMIT))
        .set_response_timeout(Some(LIMIT));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// What may be said of an error: a server can quote the command that it does not know, with a password in it.
fn told(addr: &ConnectionAddr, error: &RedisError) -> io::Error {
    let why = match error.code() {
        Some("NOAUTH") => "it wants a password, which the URL can give".to_owned(),
        Some("NOPERM") => "its user may not run a command that this takes".to_owned(),
        Some("OOM") => "it is full".to_owned(),
        Some(code) => format!("it answers with the error {code}"),
        None if error.is_io_error() => error.to_string(),
        None => error.category().to_owned(),
    };
    io::Error::other(format!("Redis at {addr}: {why}"))
}

fn owner() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn lock(slot: &Mutex<Option<Open>>) -> MutexGuard<'_, Option<Open>> {
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
