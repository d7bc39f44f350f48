//! Fleets of real processes, workers of the example `fleet`, on the sandbox: started cold together, killed, with a
//! store that is full, read-only or spoken to by TLS.
//!
//! `cargo test` builds the example; with a choice of targets build it first: `cargo build --example fleet`.

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

use crate::support::{DAY, RedisServer, free_port};

/// Workers, what they share, and the cloud that they call.
struct Fleet {
    sandbox: Sandbox,
    folder: TempDir,
    redis: Option<String>,
}

impl Fleet {
    async fn by_file() -> Self {
        let builder = Sandbox::builder().token_lifetime(Duration::from_secs(86_400));
        Self {
            sandbox: builder.start().await.unwrap(),
            folder: TempDir::new().unwrap(),
            redis: None,
        }
    }

    async fn by_redis(url: String) -> Self {
        Self { redis: Some(url), ..Self::by_file().await }
    }

    /// A worker, and how it is started: by itself, or by the command that is given.
    fn command(&self, by: &[&str]) -> Command {
        let program = program();
        let words: Vec<_> = by.iter().map(Into::into).chain([program]).collect();
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

    /// Waits until the issuer has been asked this often.
    async fn asked(&self, calls: u64) {
        while self.sandbox.calls(Api::Token) < calls {
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("sitecore-auth")
    }
}

fn program() -> PathBuf {
    let tests = env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples/fleet");
    assert!(program.exists(), "cargo build --example fleet builds what this needs");
    program
}

/// Waits for all; each must have done its work.
async fn succeed(workers: Vec<Child>) {
    for worker in join_all(workers.into_iter().map(Child::wait_with_output)).await {
        succeeded(worker.unwrap());
    }
}

fn succeeded(worker: Output) {
    let said = String::from_utf8(worker.stderr).unwrap();
    assert!(worker.status.success(), "{}: {said}", worker.status);
    let done = String::from_utf8(worker.stdout).unwrap();
    assert!(done.contains("acme-site with token "), "{done}");
}

#[tokio::test]
async fn a_hundred_that_start_cold_cost_one_grant() {
    let redis = RedisServer::start();
    for fleet in [Fleet::by_file().await, Fleet::by_redis(redis.url()).await] {
        // Long enough that all of them are there before it is over.
        let slow = Fault::delay(Duration::from_secs(4));
        fleet.sandbox.script(Api::Token, [slow]);
        succeed(fleet.start(100)).await;
        assert_eq!(fleet.sandbox.tokens_granted(), 1);
        assert_eq!(fleet.sandbox.calls(Api::Deploy), 100);
        // One that starts later adopts it.
        succeed(fleet.start(1)).await;
        assert_eq!(fleet.sandbox.tokens_granted(), 1);
    }
}

#[tokio::test]
async fn a_holder_that_is_killed_half_way_holds_up_nobody_for_longer_than_its_lease() {
    let redis = RedisServer::start();
    let by_file = killing(Fleet::by_file().await, Duration::from_secs(4));
    // What a dead process had in Redis ends after 15 s; after 18 s they would not wait for that.
    let by_redis = killing(Fleet::by_redis(redis.url()).await, Duration::from_millis(16_300));
    tokio::join!(by_file, by_redis);
}

async fn killing(fleet: Fleet, limit: Duration) {
    fleet.sandbox.script(Api::Token, [Fault::hang()]);
    let mut holder = fleet.start(1).remove(0);
    fleet.asked(1).await;
    let others = fleet.start(5);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fleet.sandbox.calls(Api::Token), 1, "they wait for it");
    holder.kill().await.unwrap();
    let begun = Instant::now();
    succeed(others).await;
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    // Where the machine holds one up for longer than the store may take, it asks alone.
    let grants = fleet.sandbox.tokens_granted();
    assert!(grants <= 2, "{grants}");
}

#[tokio::test]
async fn a_full_or_read_only_disk_is_as_if_there_were_no_store() {
    let fleet = Fleet::by_file().await;
    // No byte can be written to a file any more.
    let full = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
    let workers = (0..6).map(|_| fleet.command(&["sh", "-c", full]).spawn().unwrap());
    let (workers, begun) = (workers.collect(), Instant::now());
    // Nobody waits for a holder who cannot save.
    fleet.sandbox.break_down(Api::Token, Fault::delay(Duration::from_secs(1)));
    succeed(workers).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    fleet.sandbox.heal(Api::Token);
    assert_eq!(fleet.sandbox.tokens_granted(), 6);
    let left = fs::read_dir(fleet.cache()).unwrap();
    let left: Vec<_> = left.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1, "nothing but the lock: {left:?}");

    succeed(fleet.start(1)).await;
    let readable = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(fleet.cache(), mode).unwrap();
    };
    let stored = fs::read_dir(fleet.cache()).unwrap().map(|file| file.unwrap().path());
    for file in stored.collect::<Vec<_>>() {
        fs::remove_file(file).unwrap();
    }
    readable(0o500);
    let mut worker = as_somebody(&fleet);
    succeeded(worker.output().await.unwrap());
    assert_eq!(fleet.sandbox.tokens_granted(), 8);
    readable(0o700);
}

/// A worker to whom a file's mode means something, which it does not to root.
fn as_somebody(fleet: &Fleet) -> Command {
    const NOBODY: u32 = 65_534;
    let mut command = fleet.command(&[]);
    let is_root =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(fleet.folder.path()).unwrap()) == 0;
    if is_root {
        // It may not even see the folder that this was built in.
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
async fn redis_is_spoken_to_by_tls() {
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
    let fleet = Fleet::by_redis(format!("rediss://127.0.0.1:{port}")).await;
    // Whose certificate nobody trusts, it is as if there were no store.
    succeed(fleet.start(2)).await;
    assert_eq!((fleet.sandbox.tokens_granted(), redis.keys().len()), (2, 0));
    for _ in 0..2 {
        let mut worker = fleet.command(&[]);
        let worker =
            worker.env("SSL_CERT_FILE", &authority).env_remove("SSL_CERT_DIR").output().await;
        succeeded(worker.unwrap());
    }
    assert_eq!((fleet.sandbox.tokens_granted(), redis.keys().len()), (3, 1));
}

#[tokio::test]
async fn a_writer_that_is_killed_at_any_moment_leaves_an_entry_whole() {
    let folder = TempDir::new().unwrap();
    let store = FileStore::in_dir(folder.path().join("cache")).unwrap();
    store.save("name", &[0; WRITTEN], DAY).await.unwrap();
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

const WRITTEN: usize = 100_000;

/// What is stored, of which each byte is the same.
async fn load(store: &FileStore) -> u8 {
    let stored = store.load("name").await.unwrap().unwrap();
    let bytes = stored.entry();
    assert_eq!(bytes.len(), WRITTEN);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "two entries in one");
    bytes[0]
}

/// Not a test of its own: the process that the test above kills.
#[tokio::test]
#[ignore = "another test starts and kills it"]
async fn writes_until_it_is_killed() {
    let Ok(folder) = env::var("STORE_FOLDER") else {
        return;
    };
    let store = FileStore::in_dir(folder).unwrap();
    for byte in (0..=u8::MAX).cycle() {
        store.save("name", &[byte; WRITTEN], DAY).await.unwrap();
    }
}
