//! Fleets of real processes on the sandbox: cold starts, killed processes, and stores that are
//! full, read-only or reached over TLS. The processes are workers of the example `fleet`.
//!
//! `cargo test` builds the example. If you select targets, build it first with
//! `cargo build --example fleet`.

use std::{
    env, fs,
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sitecore_sandbox::{Api, Fault, Sandbox};
use sitecore_token_store::{FileStore, TokenStore as _};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::support::{DAY, RedisServer, free_port, pause};

/// The workers, what they share, and the sandbox that they call.
struct Fleet {
    sandbox: Sandbox,
    folder: TempDir,
    redis: Option<String>,
}

impl Fleet {
    async fn with_file_store() -> Self {
        let builder = Sandbox::builder().token_lifetime(Duration::from_secs(86_400));
        Self {
            sandbox: builder.start().await.unwrap(),
            folder: TempDir::new().unwrap(),
            redis: None,
        }
    }

    async fn with_redis(url: String) -> Self {
        Self { redis: Some(url), ..Self::with_file_store().await }
    }

    /// Returns the command that starts a worker, with `prefix` in front of it.
    fn command(&self, prefix: &[&str]) -> Command {
        let program = program();
        let words: Vec<_> = prefix.iter().map(Into::into).chain([program]).collect();
        let mut command = Command::new(&words[0]);
        let client = self.sandbox.organization();
        command
            .args(&words[1..])
            .arg("worker")
            .env("XDG_CACHE_HOME", self.folder.path())
            .env("SITECORE_AUTH_CLIENT_ID", client.id())
            .env("SITECORE_AUTH_CLIENT_SECRET", client.secret())
            .env("SITECORE_AUTH_AUTHORITY", self.sandbox.authority().as_str())
            .env("SITECORE_AUTH_AUDIENCE", self.sandbox.audience())
            .env("SITECORE_DEPLOY_URL", self.sandbox.origin(Api::Deploy).as_str())
            .env_remove("REDIS_URL")
            .envs(self.redis.iter().map(|url| ("REDIS_URL", url)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn start(&self, number: usize) -> Vec<Child> {
        let workers = (0..number).map(|_| self.command(&[]).spawn().unwrap());
        workers.collect()
    }

    /// Waits until the issuer has received this many token requests.
    async fn until_requested(&self, calls: u64) {
        while self.sandbox.calls(Api::Token) < calls {
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("sitecore-auth")
    }
}

/// Returns how many more token requests are allowed on a busy machine. A process that gets no CPU
/// time for too long exceeds the store's time limit or loses its lease, and another token request
/// follows. On an idle machine, that does not happen.
fn allowance(started: Instant, on_an_idle_machine: Duration) -> u64 {
    started.elapsed().saturating_sub(on_an_idle_machine).as_secs() / 3
}

fn program() -> PathBuf {
    let tests = env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples/fleet");
    assert!(program.exists(), "example not found; run cargo build --example fleet");
    program
}

/// Waits for all workers, each of which must succeed.
async fn all_succeed(workers: Vec<Child>) {
    for worker in join_all(workers.into_iter().map(Child::wait_with_output)).await {
        assert_success(worker.unwrap());
    }
}

fn assert_success(worker: Output) {
    let errors = String::from_utf8(worker.stderr).unwrap();
    assert!(worker.status.success(), "{}: {errors}", worker.status);
    let output = String::from_utf8(worker.stdout).unwrap();
    assert!(output.contains("acme-site with token "), "{output}");
}

#[tokio::test]
async fn a_hundred_cold_starts_cost_one_token_request() {
    let redis = RedisServer::start();
    for fleet in [Fleet::with_file_store().await, Fleet::with_redis(redis.url()).await] {
        // Long enough that all workers have started before it ends.
        let slow = Fault::delay(Duration::from_secs(4));
        fleet.sandbox.script(Api::Token, [slow]);
        let started = Instant::now();
        all_succeed(fleet.start(100)).await;
        let granted = fleet.sandbox.tokens_granted();
        let allowed = 1 + allowance(started, Duration::from_secs(8));
        assert!(granted <= allowed, "{granted} instead of {allowed}");
        assert_eq!(fleet.sandbox.calls(Api::Deploy), 100);
        // A worker that starts later adopts the token.
        all_succeed(fleet.start(1)).await;
        assert_eq!(fleet.sandbox.tokens_granted(), granted);
    }
}

#[tokio::test]
async fn a_killed_lease_holder_delays_the_others_only_until_its_lease_ends() {
    let redis = RedisServer::start();
    let with_file_store = lose_holder(Fleet::with_file_store().await, "KILL", 3);
    // In Redis, the lease of a process that died expires after 5 s.
    let with_redis = lose_holder(Fleet::with_redis(redis.url()).await, "TERM", 8);
    tokio::join!(with_file_store, with_redis);
}

#[tokio::test]
async fn a_frozen_lease_holder_delays_the_others_only_until_its_lease_ends() {
    let redis = RedisServer::start();
    let with_file_store = lose_holder(Fleet::with_file_store().await, "STOP", 8);
    let with_redis = lose_holder(Fleet::with_redis(redis.url()).await, "STOP", 8);
    tokio::join!(with_file_store, with_redis);
}

/// Sends a signal to the lease holder during its token request.
async fn lose_holder(fleet: Fleet, signal: &str, limit: u64) {
    fleet.sandbox.script(Api::Token, [Fault::hang()]);
    let mut holder = fleet.start(1).remove(0);
    fleet.until_requested(1).await;
    let others = fleet.start(8);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fleet.sandbox.calls(Api::Token), 1, "the others wait for the holder");
    send(signal, &holder).await;
    let started = Instant::now();
    // How long eight workers take on this machine at this time, if none waits for another.
    let without_loss = async {
        all_succeed(Fleet::with_file_store().await.start(8)).await;
        started.elapsed()
    };
    let with_loss = async {
        all_succeed(others).await;
        started.elapsed()
    };
    let (with_loss, without_loss) = tokio::join!(with_loss, without_loss);
    let limit = Duration::from_secs(limit) + 2 * without_loss;
    assert!(with_loss < limit, "{signal}: {with_loss:?}, and {without_loss:?} without a loss");
    // On a slow machine, one worker may exceed the store's time limit and request its own token.
    let granted = fleet.sandbox.tokens_granted();
    assert!(granted <= 2, "{signal}: {granted}");
    if signal == "STOP" {
        // When it wakes, its token request has failed, but it finds the token of the others.
        send("CONT", &holder).await;
        assert_success(holder.wait_with_output().await.unwrap());
        assert_eq!(fleet.sandbox.tokens_granted(), granted);
    } else {
        holder.wait().await.unwrap();
    }
}

async fn send(signal: &str, process: &Child) {
    let kill = format!("kill -{signal} {}", process.id().unwrap());
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.await.unwrap().success());
}

#[tokio::test]
async fn forty_processes_that_wait_while_redis_restarts_make_two_token_requests_at_most() {
    let mut redis = RedisServer::start();
    let fleet = Fleet::with_redis(redis.url()).await;
    let slow = Fault::delay(Duration::from_secs(10));
    fleet.sandbox.script(Api::Token, [slow.clone(), slow]);
    let started = Instant::now();
    let workers = fleet.start(40);
    fleet.until_requested(1).await;
    let redis = tokio::task::spawn_blocking(move || {
        // On a busy machine, it takes a while until all know that there is a lease holder.
        let are_connected = || redis.run::<String>("CLIENT LIST").lines().count() > 40;
        while !are_connected() && started.elapsed() < Duration::from_secs(6) {
            pause();
        }
        (0..100).for_each(|_| pause());
        redis.restart();
        redis
    });
    let _redis = redis.await.unwrap();
    all_succeed(workers).await;
    let granted = fleet.sandbox.tokens_granted();
    let allowed = 2 + allowance(started, Duration::from_secs(14));
    assert!(granted <= allowed, "{granted} instead of {allowed}");
}

#[tokio::test]
async fn with_a_full_or_read_only_disk_each_process_requests_its_own_token() {
    let fleet = Fleet::with_file_store().await;
    // No byte can be written to any file.
    let full = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
    let workers = (0..6).map(|_| fleet.command(&["sh", "-c", full]).spawn().unwrap());
    let (workers, started) = (workers.collect(), Instant::now());
    // No worker waits for a holder that cannot save.
    fleet.sandbox.break_down(Api::Token, Fault::delay(Duration::from_secs(1)));
    all_succeed(workers).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    fleet.sandbox.heal(Api::Token);
    assert_eq!(fleet.sandbox.tokens_granted(), 6);
    let files = fs::read_dir(fleet.cache()).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert!(files.is_empty(), "{files:?}");

    all_succeed(fleet.start(1)).await;
    let set_mode = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(fleet.cache(), mode).unwrap();
    };
    let stored = fs::read_dir(fleet.cache()).unwrap().map(|file| file.unwrap().path());
    for file in stored.collect::<Vec<_>>() {
        fs::remove_file(file).unwrap();
    }
    set_mode(0o500);
    let mut worker = unprivileged_worker(&fleet);
    assert_success(worker.output().await.unwrap());
    assert_eq!(fleet.sandbox.tokens_granted(), 8);
    set_mode(0o700);
}

/// Returns a worker that does not run as root, because root ignores file modes.
fn unprivileged_worker(fleet: &Fleet) -> Command {
    const NOBODY: u32 = 65_534;
    let mut command = fleet.command(&[]);
    let is_root =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(fleet.folder.path()).unwrap()) == 0;
    if is_root {
        // The build folder may not be accessible to that user.
        let copy = fleet.folder.path().join("worker");
        fs::copy(program(), &copy).unwrap();
        for path in [fleet.folder.path().to_owned(), copy.clone(), fleet.cache()] {
            std::os::unix::fs::chown(path, Some(NOBODY), None).unwrap();
        }
        let envs: Vec<_> = command
            .as_std()
            .get_envs()
            .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
            .collect();
        command = Command::new(copy);
        command.arg("worker").uid(NOBODY);
        for (name, value) in envs {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }
    command
}

#[tokio::test]
async fn redis_works_over_tls() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let [authority, certificate, key] = [
        write("authority", issuer.pem()),
        write("certificate", certificate.pem()),
        write("key", key.serialize_pem()),
    ];
    let port = free_port();
    let redis = RedisServer::with(
        &[
            ["--tls-port", &port.to_string()],
            ["--tls-ca-cert-file", &authority],
            ["--tls-cert-file", &certificate],
            ["--tls-key-file", &key],
            ["--tls-auth-clients", "no"],
        ]
        .concat(),
    );
    let fleet = Fleet::with_redis(format!("rediss://127.0.0.1:{port}")).await;
    // The certificate is not trusted, so each worker requests its own token.
    all_succeed(fleet.start(2)).await;
    assert_eq!((fleet.sandbox.tokens_granted(), redis.keys().len()), (2, 0));
    for _ in 0..2 {
        let mut worker = fleet.command(&[]);
        let worker =
            worker.env("SSL_CERT_FILE", &authority).env_remove("SSL_CERT_DIR").output().await;
        assert_success(worker.unwrap());
    }
    assert_eq!((fleet.sandbox.tokens_granted(), redis.keys().len()), (3, 1));
}

#[tokio::test]
async fn a_writer_killed_at_any_moment_leaves_a_complete_entry() {
    let folder = TempDir::new().unwrap();
    let store = FileStore::in_dir(folder.path().join("cache")).unwrap();
    store.save("name", &[0; ENTRY_BYTES], DAY).await.unwrap();
    for round in 0..40_u64 {
        let mut writer = Command::new(env::current_exe().unwrap())
            .args(["--exact", "store::processes::writes_until_it_is_killed", "--ignored"])
            .env("STORE_FOLDER", folder.path().join("cache"))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let before = load(&store).await;
        while load(&store).await == before {
            tokio::task::yield_now().await;
        }
        sleep(Duration::from_micros(round * 137)).await;
        writer.kill().await.unwrap();
        load(&store).await;
    }
}

const ENTRY_BYTES: usize = 100_000;

/// Loads the entry and returns its byte. All bytes of an entry are equal.
async fn load(store: &FileStore) -> u8 {
    let stored = store.load("name").await.unwrap().unwrap();
    let bytes = stored.entry();
    assert_eq!(bytes.len(), ENTRY_BYTES);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mix of two entries");
    bytes[0]
}

/// Not a test, but the process that the test above kills.
#[tokio::test]
#[ignore = "started and killed by another test"]
async fn writes_until_it_is_killed() {
    let Ok(folder) = env::var("STORE_FOLDER") else {
        return;
    };
    let store = FileStore::in_dir(folder).unwrap();
    for byte in (0..=u8::MAX).cycle() {
        store.save("name", &[byte; ENTRY_BYTES], DAY).await.unwrap();
    }
}
