//! A real Redis server that tests can kill, stop, restart and empty.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::{Client, Commands as _, FromRedisValue};
use tempfile::TempDir;

/// Listens on a free loopback port and keeps nothing on disk. Killed when dropped.
pub(crate) struct RedisServer {
    server: Child,
    port: u16,
    args: Vec<String>,
    folder: TempDir,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with more arguments, such as `--cluster-enabled yes`.
    pub(crate) fn with(args: &[&str]) -> Self {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (folder, port) = (TempDir::new().unwrap(), free_port());
        let server = launch(port, &args, &folder);
        let redis = Self { server, port, args, folder };
        redis.wait();
        redis
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the server without a shutdown.
    pub(crate) fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// Restarts the server on the same port, without its data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.server = launch(self.port, &self.args, &self.folder);
        self.wait();
    }

    /// Stops the process. Connections are still accepted, but get no response.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Runs a command on a connection of its own.
    pub(crate) fn run<T: FromRedisValue>(&self, command: &str) -> T {
        self.try_run(command).unwrap()
    }

    /// Returns the names of all keys, sorted.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.run("KEYS *");
        keys.sort();
        keys
    }

    /// Returns the key and value of the only entry.
    pub(crate) fn entry(&self) -> (String, Vec<u8>) {
        let mut keys = self.keys();
        keys.retain(|key| key.ends_with(":entry"));
        let [key] = keys.try_into().unwrap();
        let mut connection = self.client().get_connection().unwrap();
        let entry = connection.get(&key).unwrap();
        (key, entry)
    }

    fn try_run<T: FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let limit = Duration::from_secs(2);
        let mut connection = self.client().get_connection_with_timeout(limit)?;
        let mut words = command.split_whitespace();
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        command.query(&mut connection)
    }

    fn client(&self) -> Client {
        Client::open(self.url()).unwrap()
    }

    fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.server.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits until the server responds.
    fn wait(&self) {
        for _ in 0..500 {
            if self.try_run::<String>("PING").is_ok() {
                return;
            }
            pause();
        }
        panic!("redis-server did not start in time");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Waits before another process is polled again.
#[expect(clippy::disallowed_methods, reason = "the rule applies to the libraries only")]
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

fn launch(port: u16, args: &[String], folder: &TempDir) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .arg("--dir")
        .arg(folder.path())
        .args(args)
        .stdout(Stdio::null())
        .spawn()
        .expect("could not start redis-server; scripts/test installs it")
}

/// Returns a free port. The port 10,000 above it, which a cluster's bus uses, is free too. Both are
/// below those that systems give to connections, so that none can take them in the meantime.
pub(crate) fn free_port() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut ports = std::iter::repeat_with(|| fastrand::u16(11_000..22_000));
    ports.find(|port| is_free(*port) && is_free(port + 10_000)).unwrap()
}
