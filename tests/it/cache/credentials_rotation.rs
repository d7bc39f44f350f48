//! Credentials that change while the program runs.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use sitecore_auth::{
    ClientCredentials, CredentialsProvider, EnvironmentCredentials, Error, ErrorKind,
    FileCredentials, ManualClock, ProviderSource, SitecoreCliCredentials, TokenCache,
};
use sitecore_sandbox::{Api, Client, ClientKind, Sandbox};
use sitecore_token::{Endpoint, TokenClient};

use crate::support::{Logs, everything_said};

/// Gives what it was last told, and counts.
#[derive(Clone)]
struct Told(Arc<Mutex<(Vec<&'static str>, usize)>>);

impl Told {
    /// Gives these secrets one after the other, the last for ever.
    fn new(secrets: &[&'static str]) -> Self {
        Self(Arc::new(Mutex::new((secrets.to_vec(), 0))))
    }

    fn tell(&self, secret: &'static str) {
        self.0.lock().unwrap().0 = vec![secret];
    }
}

#[async_trait]
impl CredentialsProvider for Told {
    async fn credentials(&self) -> Result<ClientCredentials, Error> {
        let mut told = self.0.lock().unwrap();
        told.1 += 1;
        let secret = if told.0.len() > 1 { told.0.remove(0) } else { told.0[0] };
        Ok(ClientCredentials::new("rotating", secret))
    }
}

/// A sandbox that knows the client `rotating` by the secret `new`.
async fn sandbox() -> Sandbox {
    let client = Client::new(ClientKind::Organization, "rotating", "new");
    Sandbox::builder().client(client).start().await.unwrap()
}

fn source(sandbox: &Sandbox, told: &Told) -> ProviderSource<Told> {
    ProviderSource::new(told.clone(), &asking(sandbox))
}

fn asking(sandbox: &Sandbox) -> TokenClient {
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience()).unwrap();
    TokenClient::builder(ClientCredentials::new("unused", "unused"))
        .endpoint(endpoint)
        .build()
        .unwrap()
}

#[tokio::test]
async fn the_provider_is_asked_before_every_grant() {
    let sandbox = sandbox().await;
    let told = Told::new(&["new"]);
    let cache = TokenCache::new(source(&sandbox, &told));
    let first = cache.token().await.unwrap();
    cache.token().await.unwrap();
    assert_eq!(told.0.lock().unwrap().1, 1);
    cache.replace(&first).await.unwrap();
    assert_eq!((told.0.lock().unwrap().1, sandbox.tokens_granted()), (2, 2));
}

#[tokio::test]
async fn a_refused_secret_is_tried_once_more_if_it_has_changed() {
    let sandbox = sandbox().await;
    let logs = Logs::capture();
    let cache = TokenCache::new(source(&sandbox, &Told::new(&["old", "new"])));
    assert!(cache.token().await.is_ok());
    let text = logs.text();
    assert!(text.contains("credentials changed, retrying token request"), "{text}");
    assert_eq!((sandbox.calls(Api::Token), sandbox.tokens_granted()), (2, 1));
    // Not a third time.
    let cache = TokenCache::new(source(&sandbox, &Told::new(&["old", "older", "new"])));
    assert_eq!(cache.token().await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(sandbox.calls(Api::Token), 4);
}

#[tokio::test]
async fn a_refused_secret_that_stays_is_not_tried_again() {
    let sandbox = sandbox().await;
    let cache = TokenCache::new(source(&sandbox, &Told::new(&["old"])));
    for _ in 0..20 {
        let error = cache.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.retry_after().unwrap() > Duration::from_secs(30));
    }
    assert_eq!(sandbox.calls(Api::Token), 1);
}

#[tokio::test]
async fn new_credentials_open_the_gate() {
    let sandbox = sandbox().await;
    let (told, clock) = (Told::new(&["old"]), ManualClock::new());
    let cache = TokenCache::builder(source(&sandbox, &told)).clock(clock.clone()).build().unwrap();
    assert!(cache.token().await.is_err());
    clock.advance(Duration::from_secs(2));
    assert!(cache.token().await.is_err());
    assert_eq!(sandbox.calls(Api::Token), 1);
    told.tell("new");
    // Looked at once a second, not at every call.
    assert!(cache.token().await.is_err());
    clock.advance(Duration::from_secs(1));
    assert!(cache.token().await.is_ok());
    assert_eq!(sandbox.calls(Api::Token), 2);
}

#[tokio::test]
async fn renewal_goes_on_with_the_new_secret() {
    let sandbox = sandbox().await;
    let (told, clock) = (Told::new(&["new"]), ManualClock::new());
    let cache = TokenCache::builder(source(&sandbox, &told)).clock(clock.clone()).build().unwrap();
    let first = cache.token().await.unwrap();
    // The secret is rotated at the issuer; the mounted file follows later.
    told.tell("old");
    assert_eq!(cache.replace(&first).await.unwrap_err().kind(), ErrorKind::Refused);
    assert!(cache.token().await.is_ok(), "the token held is still good");
    told.tell("new");
    clock.advance(Duration::from_secs(2));
    let second = cache.replace(&first).await.expect("the gate is open");
    assert_ne!(first.fingerprint(), second.fingerprint());
}

#[cfg(unix)]
fn mount(folder: &Path, version: &str, secret: &str) {
    // As Kubernetes does it: a folder per version, and a link that is swapped in one step.
    let data = folder.join(version);
    fs::create_dir(&data).unwrap();
    fs::write(data.join("secret"), secret).unwrap();
    fs::write(data.join("id"), "rotating\n").unwrap();
    std::os::unix::fs::symlink(&data, folder.join("..new")).unwrap();
    fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_mounted_secret_is_read_anew() {
    let (sandbox, folder) = (sandbox().await, tempfile::tempdir().unwrap());
    mount(folder.path(), "1", "old\n");
    let files = FileCredentials::from_files(
        folder.path().join("..data/id"),
        folder.path().join("..data/secret"),
    );
    let clock = ManualClock::new();
    let cache = TokenCache::builder(ProviderSource::new(files, &asking(&sandbox)))
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
fn files_that_are_replaced_together_are_a_pair() {
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
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..150 {
                swap(["2", "1"][round % 2]);
                #[expect(clippy::disallowed_methods, reason = "a thread of its own")]
                std::thread::sleep(Duration::from_millis(3));
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap();
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            let pair = runtime.block_on(files.credentials()).unwrap();
            assert_eq!(pair.client_id(), pair.client_secret().expose_secret());
        }
    });
}

#[tokio::test]
async fn a_file_that_is_missing_is_named_and_waited_for() {
    let (sandbox, folder) = (sandbox().await, tempfile::tempdir().unwrap());
    let path = folder.path().join("client-secret");
    let clock = ManualClock::new();
    let source = ProviderSource::new(FileCredentials::new("rotating", &path), &asking(&sandbox));
    let cache = TokenCache::builder(source).clock(clock.clone()).build().unwrap();
    let error = cache.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(everything_said(&error).contains("client-secret"), "{error:?}");
    fs::write(&path, "new").unwrap();
    clock.advance(Duration::from_secs(2));
    assert!(cache.token().await.is_ok());
}

#[tokio::test]
async fn credentials_themselves_the_environment_and_the_cli_are_providers() {
    let fixed = ClientCredentials::new("id", "secret").credentials().await.unwrap();
    assert_eq!((fixed.client_id(), fixed.client_secret().expose_secret()), ("id", "secret"));
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
