//! A store in Redis or Valkey, for the processes of many machines.
//!
//! It uses plain commands rather than scripts, because each race between them costs no more than
//! one token request. Both keys of an entry have the same hash tag, so a cluster keeps them on one
//! node.

use std::{fmt, future::Future, io, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{
    Client, Cmd, ConnectionInfo, FromRedisValue, IntoConnectionInfo as _, RedisError, cmd,
};
use secrecy::SecretString;
use sitecore_auth::{Error, ErrorKind, Result};

mod link;
mod password;

use link::{Link, Server, address_of, describe};
use password::Password;

use crate::{
    limit::within,
    seal::random_id,
    store::{Lease, Stored, TokenStore},
};

/// Entries are shorter. Of a longer value, only this much is read, and it counts as missing.
const MAX_BYTES: usize = 128 * 1024;

const COMMAND_TIMEOUT: Duration = Duration::from_millis(250);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

const KEY_PREFIX: &str = "sitecore-auth:";

/// Keeps entries in Redis 5 or later, or in Valkey.
///
/// All calls from one runtime share one connection, or one to each node of a cluster. It is opened
/// when needed, which may take 2 s, and closed after 10 s without use. If it cannot be opened, the
/// next attempt follows after half a second, doubling to 10 s, or after 10 s if connecting took too
/// long. A command may take 250 ms. A restart or failover of the server costs only the entries that
/// are lost.
///
/// The Redis user needs the commands `GET`, `GETRANGE`, `SET`, `DEL`, `PTTL` and `PEXPIRE` on keys
/// that begin with `sitecore-auth:`, and `SELECT` if the URL names a database. A cluster's user
/// also needs `CLUSTER SLOTS`, `PING` and `ASKING`.
///
/// For a failover, give a host name that follows the primary. Clones share the connection.
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    link: Arc<Link>,
    key_prefix: String,
    command_timeout: Duration,
    call_timeout: Duration,
}

/// Builder for a [`RedisStore`].
#[must_use]
pub struct RedisStoreBuilder {
    server: Result<Server>,
    password: Option<Password>,
    key_prefix: String,
    command_timeout: Duration,
    connect_timeout: Duration,
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
        Self::builder(url).build()
    }

    /// Returns a builder for a store on the server of a URL, as in [`new`](Self::new).
    pub fn builder(url: impl AsRef<str>) -> RedisStoreBuilder {
        let info = connection_info(url.as_ref());
        RedisStoreBuilder::new(info.map(|info| Server::One(Box::new(info))))
    }

    /// Returns a builder for a store on the same server as `client`, with its TLS settings.
    pub fn with_client(client: &Client) -> RedisStoreBuilder {
        let info = client.get_connection_info().clone();
        RedisStoreBuilder::new(Ok(Server::One(Box::new(info))))
    }

    /// Returns a builder for a store on a cluster. The URLs are those of some of its nodes, with
    /// the same user and password.
    #[cfg(feature = "redis-cluster")]
    pub fn cluster<U: AsRef<str>>(urls: impl IntoIterator<Item = U>) -> RedisStoreBuilder {
        let nodes: Result<Vec<_>> =
            urls.into_iter().map(|url| connection_info(url.as_ref())).collect();
        RedisStoreBuilder::new(nodes.map(Server::Cluster))
    }

    fn key(&self, name: &str, part: &str) -> String {
        format!("{}{{{name}}}:{part}", self.0.key_prefix)
    }

    /// Runs a command. If the connection turns out to be closed, another one is opened.
    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CommandError> {
        let inner = &*self.0;
        let mut may_repeat = true;
        loop {
            let mut open = inner.link.open().await.map_err(CommandError::Other)?;
            let in_flight = Arc::clone(&open.in_flight);
            let permit = in_flight.acquire().await;
            let _permit = permit.map_err(|error| CommandError::Other(io::Error::other(error)))?;
            let is_used = open.is_used();
            let result = within(inner.command_timeout, command.query_async(&mut open.connection));
            match result.await {
                Some(Ok(value)) => {
                    open.touch();
                    return Ok(value);
                }
                Some(Err(error)) if error.code() == Some("WRONGTYPE") => {
                    return Err(CommandError::WrongType);
                }
                Some(Err(error)) => {
                    inner.link.close_after(&open, &error);
                    if !(is_used && may_repeat && error.is_io_error() && !error.is_timeout()) {
                        return Err(CommandError::Other(self.described(&error)));
                    }
                    may_repeat = false;
                }
                None => {
                    let error = io::Error::from(io::ErrorKind::TimedOut).into();
                    inner.link.close_after(&open, &error);
                    return Err(CommandError::Other(self.described(&error)));
                }
            }
        }
    }

    fn described(&self, error: &RedisError) -> io::Error {
        describe(self.0.link.server(), error)
    }
}

/// Why a command failed.
enum CommandError {
    /// The key's value is not a string.
    WrongType,
    Other(io::Error),
}

impl From<CommandError> for io::Error {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::WrongType => Self::other("the key's value is not a string"),
            CommandError::Other(error) => error,
        }
    }
}

impl RedisStoreBuilder {
    fn new(server: Result<Server>) -> Self {
        Self {
            server,
            password: None,
            key_prefix: KEY_PREFIX.to_owned(),
            command_timeout: COMMAND_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// Sets a file from which the password is read before each connection, so that it can rotate.
    /// White space and a byte order mark are removed.
    pub fn password_file(self, path: impl Into<PathBuf>) -> Self {
        Self { password: Some(Password::file(path.into())), ..self }
    }

    /// Sets an environment variable from which the password is read before each connection.
    pub fn password_variable(self, name: impl Into<String>) -> Self {
        Self { password: Some(Password::Variable(name.into())), ..self }
    }

    /// Sets a function that returns the password. It is called before each connection.
    pub fn password_from<F>(self, password: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<SecretString>> + Send + 'static,
    {
        let password = Password::Function(Box::new(move || Box::pin(password())));
        Self { password: Some(password), ..self }
    }

    /// Sets what keys begin with. The default is `sitecore-auth:`.
    pub fn key_prefix(self, prefix: impl Into<String>) -> Self {
        Self { key_prefix: prefix.into(), ..self }
    }

    /// Sets how long a command may take. The default is 250 ms.
    pub fn command_timeout(self, limit: Duration) -> Self {
        Self { command_timeout: limit, ..self }
    }

    /// Sets how long opening a connection may take, with TLS and authentication. The default is
    /// 2 s.
    pub fn connect_timeout(self, limit: Duration) -> Self {
        Self { connect_timeout: limit, ..self }
    }

    /// Creates the store. Does not connect yet.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if a URL or a time limit is invalid.
    pub fn build(self) -> Result<RedisStore> {
        if self.command_timeout.is_zero() || self.connect_timeout.is_zero() {
            return Err(Error::new(
                ErrorKind::Config,
                "the time limits of the Redis store must not be zero; leave them out to use the defaults",
            ));
        }
        Ok(RedisStore(Arc::new(Inner {
            link: Link::new(self.server?, self.password, self.connect_timeout),
            key_prefix: self.key_prefix,
            command_timeout: self.command_timeout,
            // Up to two commands, one of which may have to be repeated on a new connection.
            call_timeout: self
                .connect_timeout
                .saturating_add(self.command_timeout.saturating_mul(3)),
        })))
    }
}

#[async_trait]
impl TokenStore for RedisStore {
    async fn load(&self, name: &str) -> io::Result<Option<Stored>> {
        let key = self.key(name, "entry");
        // In this order, because an entry that is saved in between then seems older than it is.
        let remaining: i64 = self.run(cmd("PTTL").arg(&key)).await?;
        let entry = self.run(cmd("GETRANGE").arg(&key).arg(0).arg(MAX_BYTES)).await;
        let entry: Vec<u8> = match entry {
            Err(CommandError::WrongType) => return Ok(None),
            result => result?,
        };
        let is_entry = !entry.is_empty() && entry.len() <= MAX_BYTES;
        Ok(is_entry.then(|| match u64::try_from(remaining) {
            Ok(millis) => Stored::new(entry).with_remaining(Duration::from_millis(millis)),
            // The key has no expiry, or was saved after `PTTL`.
            Err(_) => Stored::new(entry),
        }))
    }

    async fn save(&self, name: &str, entry: &[u8], keep: Duration) -> io::Result<()> {
        let key = self.key(name, "entry");
        Ok(self.run(cmd("SET").arg(key).arg(entry).arg("PX").arg(millis(keep))).await?)
    }

    async fn try_lease(&self, name: &str, duration: Duration) -> io::Result<Option<Lease>> {
        let (key, owner) = (self.key(name, "lease"), format!("{:032x}", random_id()));
        let mut set = cmd("SET");
        set.arg(key).arg(&owner).arg("NX").arg("PX").arg(millis(duration));
        let set: Option<String> = self.run(&set).await?;
        Ok(set.map(|_| Lease::new(owner)))
    }

    async fn extend(&self, name: &str, lease: &Lease, duration: Duration) -> io::Result<bool> {
        let mut extend = cmd("PEXPIRE");
        extend.arg(self.key(name, "lease")).arg(millis(duration));
        Ok(self.owns(name, lease).await? && self.run(&extend).await?)
    }

    async fn release(&self, name: &str, lease: Lease) -> io::Result<()> {
        if self.owns(name, &lease).await? {
            self.run::<()>(cmd("DEL").arg(self.key(name, "lease"))).await?;
        }
        Ok(())
    }

    fn call_timeout(&self) -> Duration {
        self.0.call_timeout
    }
}

impl RedisStore {
    async fn owns(&self, name: &str, lease: &Lease) -> io::Result<bool> {
        let owner: Option<String> = self.run(cmd("GET").arg(self.key(name, "lease"))).await?;
        Ok(owner.is_some() && owner.as_ref() == lease.handle())
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may contain a password.
        f.debug_struct("RedisStore")
            .field("server", &address_of(self.0.link.server()))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStoreBuilder").finish_non_exhaustive()
    }
}

fn connection_info(url: &str) -> Result<ConnectionInfo> {
    let config = |reason: String| {
        let hint = "invalid Redis URL (expected, for example, rediss://user:password@host:6379)";
        Error::new(ErrorKind::Config, format!("{hint}: {reason}"))
    };
    let info = url.into_connection_info().map_err(|error| {
        config(format!("{error}; in a password, write @ : / and # as %40 %3A %2F and %23"))
    })?;
    if link::is_insecure(info.addr()) {
        return Err(config(
            "#insecure is not supported; let this machine trust the certificate".to_owned(),
        ));
    }
    Ok(info)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
