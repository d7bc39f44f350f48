//! Credentials that change while the program runs.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use sitecore_auth::{
    ClientCredentials, CredentialsProvider, EnvironmentCredentials, Error, ErrorKind, FetchContext,
    FileCredentials, ManualClock, ProviderSource, SitecoreCliCredentials, Token, TokenCache,
    TokenSource,
};
use sitecore_sandbox::{Api, Client, ClientKind, Fault, Sandbox};
use sitecore_token::{Endpoint, TokenClient};

use crate::support::{Logs, PausedClock, all_formats};

/// Returns secrets that the test sets, and counts its calls.
#[derive(Clone)]
struct TestProvider(Arc<Mutex<(Vec<&'static str>, usize)>>);

impl TestProvider {
    /// Returns these secrets one after the other, and then repeats the last one.
    fn new(secrets: &[&'static str]) -> Self {
        Self(Arc::new(Mutex::new((secrets.to_vec(), 0))))
    }

    fn set(&self, secret: &'static str) {
        self.0.lock().unwrap().0 = vec![secret];
    }

    fn calls(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

#[async_trait]
impl CredentialsProvider for TestProvider {
    async fn credentials(&self) -> Result<ClientCredentials, Error> {
        let (secrets, calls) = &mut *self.0.lock().unwrap();
        *calls += 1;
        let secret = if secrets.len() > 1 { secrets.remove(0) } else { secrets[0] };
        Ok(ClientCredentials::new("rotating", secret))
    }
}

/// Starts a sandbox in which the client `rotating` has the secret `new`.
async fn sandbox() -> Sandbox {
    let client = Client::new(ClientKind::Organization, "rotating", "new");
    Sandbox::builder().client(client).start().await.unwrap()
}

fn source(sandbox: &Sandbox, provider: &TestProvider) -> ProviderSource<TestProvider> {
    ProviderSource::new(provider.clone(), &token_client(sandbox))
}

fn token_client(sandbox: &Sandbox) -> TokenClient {
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience()).unwrap();
    TokenClient::builder(ClientCredentials::new("unused", "unused"))
        .endpoint(endpoint)
        .build()
        .unwrap()
}

#[tokio::test]
async fn the_provider_is_called_before_every_token_request() {
    let sandbox = sandbox().await;
    let provider = TestProvider::new(&["new"]);
    let cache = TokenCache::new(source(&sandbox, &provider));
    let first = cache.token().await.unwrap();
    cache.token().await.unwrap();
    assert_eq!(provider.calls(), 1);
    cache.replace(&first).await.unwrap();
    assert_eq!((provider.calls(), sandbox.tokens_granted()), (2, 2));
}

#[tokio::test]
async fn a_refused_secret_is_retried_once_if_it_has_changed() {
    let sandbox = sandbox().await;
    let logs = Logs::capture();
    let cache = TokenCache::new(source(&sandbox, &TestProvider::new(&["old", "new"])));
    assert!(cache.token().await.is_ok());
    let text = logs.text();
    assert!(text.contains("credentials changed, retrying token request"), "{text}");
    assert_eq!((sandbox.calls(Api::Token), sandbox.tokens_granted()), (2, 1));
    // But not a second time.
    let cache = TokenCache::new(source(&sandbox, &TestProvider::new(&["old", "older", "new"])));
    assert_eq!(cache.token().await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(sandbox.calls(Api::Token), 4);
}

#[tokio::test]
async fn a_refused_secret_that_has_not_changed_is_not_retried() {
    let sandbox = sandbox().await;
    let cache = TokenCache::new(source(&sandbox, &TestProvider::new(&["old"])));
    for _ in 0..20 {
        let error = cache.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.retry_after().unwrap() > Duration::from_secs(30));
    }
    assert_eq!(sandbox.calls(Api::Token), 1);
}

#[tokio::test]
async fn new_credentials_end_the_cooldown() {
    let sandbox = sandbox().await;
    let (provider, clock) = (TestProvider::new(&["old"]), ManualClock::new());
    let cache =
        TokenCache::builder(source(&sandbox, &provider)).clock(clock.clone()).build().unwrap();
    assert!(cache.token().await.is_err());
    clock.advance(Duration::from_secs(2));
    assert!(cache.token().await.is_err());
    assert_eq!(sandbox.calls(Api::Token), 1);
    provider.set("new");
    // The provider is called once a second, not at every call.
    assert!(cache.token().await.is_err());
    clock.advance(Duration::from_secs(1));
    assert!(cache.token().await.is_ok());
    assert_eq!(sandbox.calls(Api::Token), 2);
}

#[tokio::test]
async fn refreshing_continues_with_the_new_secret() {
    let sandbox = sandbox().await;
    let (provider, clock) = (TestProvider::new(&["new"]), ManualClock::new());
    let cache =
        TokenCache::builder(source(&sandbox, &provider)).clock(clock.clone()).build().unwrap();
    let first = cache.token().await.unwrap();
    // The secret is rotated at the issuer first; the provider returns the new one later.
    provider.set("old");
    assert_eq!(cache.replace(&first).await.unwrap_err().kind(), ErrorKind::Refused);
    assert!(cache.token().await.is_ok(), "the current token is still usable");
    provider.set("new");
    clock.advance(Duration::from_secs(2));
    let second = cache.replace(&first).await.expect("the cooldown has ended");
    assert_ne!(first.fingerprint(), second.fingerprint());
}

#[tokio::test]
async fn new_credentials_end_a_rate_limit_too() {
    let sandbox = sandbox().await;
    let (provider, clock) = (TestProvider::new(&["new"]), ManualClock::new());
    let cache =
        TokenCache::builder(source(&sandbox, &provider)).clock(clock.clone()).build().unwrap();
    sandbox.script(Api::Token, [Fault::status(429).header("retry-after", "1800")]);
    assert_eq!(cache.token().await.unwrap_err().kind(), ErrorKind::RateLimited);
    clock.advance(Duration::from_secs(2));
    assert_eq!(cache.token().await.unwrap_err().kind(), ErrorKind::RateLimited);
    assert_eq!(sandbox.calls(Api::Token), 1);
    // Another client has a quota of its own. The sandbox does not know it, so it is refused.
    provider.set("another");
    clock.advance(Duration::from_secs(2));
    assert_eq!(cache.token().await.unwrap_err().kind(), ErrorKind::Refused);
    provider.set("new");
    clock.advance(Duration::from_secs(2));
    cache.token().await.expect("the credentials are new again");
}

#[tokio::test]
async fn one_provider_remembers_the_refused_credentials_for_several_caches() {
    let sandbox = sandbox().await;
    let (provider, clock) = (TestProvider::new(&["old"]), ManualClock::new());
    let source = Arc::new(source(&sandbox, &provider));
    let cache = || TokenCache::builder(Arc::clone(&source)).clock(clock.clone()).build().unwrap();
    let (first, second) = (cache(), cache());
    assert_eq!(first.token().await.unwrap_err().kind(), ErrorKind::Refused);
    sandbox.script(Api::Token, [503; 3].map(Fault::status));
    assert_eq!(second.token().await.unwrap_err().kind(), ErrorKind::Unavailable);
    provider.set("new");
    clock.advance(Duration::from_secs(2));
    first.token().await.expect("new credentials");
}

/// How a check for new credentials ends.
#[derive(Clone, Copy, Debug)]
enum Check {
    Hangs,
    Panics,
    Blocks,
    IsSlow,
    SaysYes,
}

/// A client that the issuer refuses. Counts token requests and checks.
struct Refused(Check, Arc<AtomicUsize>, Arc<AtomicUsize>);

#[async_trait]
impl TokenSource for Refused {
    async fn fetch(&self, _: FetchContext<'_>) -> Result<Token, Error> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Err(Error::new(ErrorKind::Refused, "scripted"))
    }

    async fn has_new_credentials(&self) -> bool {
        self.2.fetch_add(1, Ordering::SeqCst);
        match self.0 {
            Check::Hangs => std::future::pending().await,
            Check::Panics => panic!("scripted"),
            #[expect(clippy::disallowed_methods, reason = "a source that blocks")]
            Check::Blocks => std::thread::sleep(Duration::from_millis(2_500)),
            Check::IsSlow => tokio::time::sleep(Duration::from_secs(3)).await,
            Check::SaysYes => {}
        }
        true
    }
}

#[test]
fn a_check_that_hangs_panics_blocks_or_is_slow_changes_nothing() {
    for check in [Check::Hangs, Check::Panics, Check::Blocks, Check::IsSlow] {
        let (requests, checks) = (Arc::default(), Arc::default());
        let source = Refused(check, Arc::clone(&requests), Arc::clone(&checks));
        let clock = ManualClock::new();
        let cache = TokenCache::builder(source).clock(clock.clone()).build().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            cache.token().await.unwrap_err();
            clock.advance(Duration::from_secs(1));
            let started = tokio::time::Instant::now();
            let calls = (0..20).map(|_| async {
                let error = cache.token().await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Refused, "{check:?}");
                started.elapsed()
            });
            let mut waits = futures_util::future::join_all(calls).await;
            waits.sort();
            // One caller waited for the check, and the others did not.
            let second = Duration::from_secs(1);
            assert!(waits[18] < second && waits[19] < 4 * second, "{check:?}: {waits:?}");
        });
        let counts = (requests.load(Ordering::SeqCst), checks.load(Ordering::SeqCst));
        assert_eq!(counts, (1, 1), "{check:?}");
        runtime.shutdown_background();
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_new_each_time_cost_a_bounded_number_of_token_requests() {
    let (requests, checks) = (Arc::default(), Arc::default());
    let source = Refused(Check::SaysYes, Arc::clone(&requests), Arc::clone(&checks));
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    let started = tokio::time::Instant::now();
    while started.elapsed() < Duration::from_secs(3_600) {
        cache.token().await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // After 1, 2, 4 … 32 s, then once a minute.
    let requests: usize = requests.load(Ordering::SeqCst);
    assert!((60..=70).contains(&requests), "{requests}");
}

#[cfg(unix)]
fn mount(folder: &Path, version: &str, secret: &str) {
    // As Kubernetes does it: one folder per version, and a symlink that is replaced atomically.
    let data = folder.join(version);
    fs::create_dir(&data).unwrap();
    fs::write(data.join("secret"), secret).unwrap();
    fs::write(data.join("id"), "rotating\n").unwrap();
    std::os::unix::fs::symlink(&data, folder.join("..new")).unwrap();
    fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_mounted_secret_is_read_again() {
    let (sandbox, folder) = (sandbox().await, tempfile::tempdir().unwrap());
    mount(folder.path(), "1", "old\n");
    let files = FileCredentials::from_files(
        folder.path().join("..data/id"),
        folder.path().join("..data/secret"),
    );
    let clock = ManualClock::new();
    let cache = TokenCache::builder(ProviderSource::new(files, &token_client(&sandbox)))
        .clock(clock.clone())
        .build()
        .unwrap();
    assert_eq!(cache.token().await.unwrap_err().kind(), ErrorKind::Refused);
    mount(folder.path(), "2", "new\r\n");
    clock.advance(Duration::from_secs(1));
    assert!(cache.token().await.is_ok());
}

#[cfg(unix)]
#[test]
fn files_that_are_replaced_together_are_read_as_a_pair() {
    let folder = tempfile::tempdir().unwrap();
    for version in ["1", "2"] {
        let data = folder.path().join(version);
        fs::create_dir(&data).unwrap();
        fs::write(data.join("secret"), version).unwrap();
        fs::write(data.join("id"), version).unwrap();
    }
    let swap = |version: &str| {
        let next = folder.path().join("..new");
        std::os::unix::fs::symlink(folder.path().join(version), &next).unwrap();
        fs::rename(next, folder.path().join("..data")).unwrap();
    };
    swap("1");
    let files = FileCredentials::from_files(
        folder.path().join("..data/id"),
        folder.path().join("..data/secret"),
    );
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..150 {
                swap(["2", "1"][round % 2]);
                #[expect(clippy::disallowed_methods, reason = "it runs on its own thread")]
                std::thread::sleep(Duration::from_millis(3));
            }
            done.store(true, Ordering::SeqCst);
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        while !done.load(Ordering::SeqCst) {
            let pair = runtime.block_on(files.credentials()).unwrap();
            assert_eq!(pair.client_id(), pair.client_secret().expose_secret());
        }
    });
}

#[tokio::test]
async fn a_missing_file_is_named_and_read_once_it_exists() {
    let (sandbox, folder) = (sandbox().await, tempfile::tempdir().unwrap());
    let path = folder.path().join("client-secret");
    let clock = ManualClock::new();
    let source =
        ProviderSource::new(FileCredentials::new("rotating", &path), &token_client(&sandbox));
    let cache = TokenCache::builder(source).clock(clock.clone()).build().unwrap();
    let error = cache.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(all_formats(&error).contains("client-secret"), "{error:?}");
    fs::write(&path, "new").unwrap();
    clock.advance(Duration::from_secs(2));
    assert!(cache.token().await.is_ok());
}

#[tokio::test]
async fn credentials_the_environment_and_the_cli_login_are_providers() {
    let own = ClientCredentials::new("id", "secret").credentials().await.unwrap();
    assert_eq!((own.client_id(), own.client_secret().expose_secret()), ("id", "secret"));
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(".sitecore")).unwrap();
    let login = r#"{"endpoints":{"xmCloud":{"clientId":"cli","clientSecret":"s"}}}"#;
    fs::write(folder.path().join(".sitecore/user.json"), login).unwrap();
    let cli = SitecoreCliCredentials::new(folder.path()).credentials().await.unwrap();
    assert_eq!(cli.client_id(), "cli");
    let variables =
        [("SITECORE_AUTH_CLIENT_ID", Some("env")), ("SITECORE_AUTH_CLIENT_SECRET", Some("s"))];
    let environment = temp_env::with_vars(variables, || {
        futures_util::FutureExt::now_or_never(EnvironmentCredentials.credentials())
    });
    assert_eq!(environment.expect("no wait").unwrap().client_id(), "env");
}

#[cfg(unix)]
#[tokio::test]
async fn a_secret_file_that_is_not_what_it_seems_is_an_error_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let pipe = std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap();
    assert!(pipe.success());
    fs::create_dir(path("folder")).unwrap();
    fs::File::create(path("huge")).unwrap().set_len(1 << 30).unwrap();
    fs::write(path("utf16"), b"\xff\xfes\0e\0").unwrap();
    fs::write(path("quoted"), "\"secret\"\n").unwrap();
    fs::write(path("empty"), "\u{feff}\r\n").unwrap();
    for (name, text) in [
        ("pipe", "not a regular file"),
        ("folder", "not a regular file"),
        ("huge", "larger than"),
        ("utf16", "UTF-8"),
        ("quoted", "quotation marks"),
        ("empty", "is empty"),
        ("missing", "cannot read"),
    ] {
        for _ in 0..10 {
            let started = tokio::time::Instant::now();
            let files = FileCredentials::new("id", path(name));
            let error = files.credentials().await.expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
            let shown = all_formats(&error);
            assert!(shown.contains(text) && shown.contains(name), "{shown}");
            assert!(started.elapsed() < Duration::from_secs(4), "{name}");
        }
    }
    fs::write(path("bom"), "\u{feff} a secret \r\n").unwrap();
    let credentials = FileCredentials::new("id", path("bom")).credentials().await.unwrap();
    assert_eq!(credentials.client_secret().expose_secret(), "a secret");
}
