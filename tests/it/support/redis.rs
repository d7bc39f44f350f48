//! A real Redis server, which a test kills, stops, restarts and empties.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::{Client, Commands as _, FromRedisValue};
use tempfile::TempDir;

/// Listens on a loopback port of its own and keeps nothing on disk. Ends with the test.
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

    /// Starts it with further arguments, such as `--cluster-enabled yes`.
    pub(crate) fn with(args: &[&str]) -> Self {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (folder, port) = (TempDir::new().unwrap(), free_port());
        let server = launch(port, &args, &folder);
        let started = Self { server, port, args, folder };
        started.wait();
        started
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// Starts it again where it was; it has forgotten everything.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.server = launch(self.port, &self.args, &self.folder);
        self.wait();
    }

    /// Lets it take connections and answer nothing.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
    }

    pub(crate) fn go_on(&self) {
        self.signal("CONT");
    }

    /// Runs a command, from a connection of the test's own.
    pub(crate) fn run<T: FromRedisValue>(&self, command: &str) -> T {
        self.try_run(command).unwrap()
    }

    /// The names of all keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.run("KEYS *");
        keys.sort();
        keys
    }

    /// The one entry that is there.
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

    /// Waits until it answers.
    fn wait(&self) {
        for _ in 0..500 {
            if self.try_run::<String>("PING").is_ok() {
                return;
            }
            pause();
        }
        panic!("redis-server did not begin to answer");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A pause between two looks at another process.
#[expect(clippy::disallowed_methods, reason = "the rule is for the libraries")]
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
        .expect("redis-server could not be started: scripts/test installs it")
}

/// A port that nobody listens on; a cluster's bus takes the one that is 10,000 above.
pub(crate) fn free_port() -> u16 {
    loop {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().port();
        if port < 55_000 {
            return port;
        }
    }
}
