//! Credentials that can change while the program runs: they are read before every token request.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use secrecy::ExposeSecret;
use sitecore_token::{
    Claims, ClientCredentials, TokenClient, access_token_from_sitecore_cli, read_credential,
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};
use tracing::info;

use crate::{
    clock::{Clock as _, SystemClock},
    error::{Error, ErrorKind, Result},
    source::{FetchContext, SharingKey, TokenSource, token_from},
    token::Token,
};

/// How long reading a file may take. A network mount can hang forever.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a CLI login without an expiry is used before it is read again.
const UNKNOWN_LIFETIME: Duration = Duration::from_secs(300);

/// How many reads of one provider run at once. A read that hangs occupies its thread forever.
const MAX_READS: usize = 4;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Provides the current credentials.
#[async_trait]
pub trait CredentialsProvider: Send + Sync + 'static {
    /// Returns the current credentials.
    ///
    /// Called before every token request, and again if the issuer refuses them. During the cooldown
    /// that follows, it is called at most once a second, and only if there are callers. A store
    /// calls it to find its entry. Keep it cheap.
    ///
    /// # Errors
    ///
    /// The reason why there are none. The refresh then fails.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the refresh reaches its time limit, or after 2 s if the call only
    /// checks for new credentials.
    async fn credentials(&self) -> Result<ClientCredentials>;
}

#[async_trait]
impl<P: CredentialsProvider + ?Sized> CredentialsProvider for Arc<P> {
    async fn credentials(&self) -> Result<ClientCredentials> {
        (**self).credentials().await
    }
}

#[async_trait]
impl<P: CredentialsProvider + ?Sized> CredentialsProvider for Box<P> {
    async fn credentials(&self) -> Result<ClientCredentials> {
        (**self).credentials().await
    }
}

/// Static credentials.
#[async_trait]
impl CredentialsProvider for ClientCredentials {
    async fn credentials(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

/// Reads the environment, like [`ClientCredentials::from_env`].
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "marker type")]
pub struct EnvironmentCredentials;

#[async_trait]
impl CredentialsProvider for EnvironmentCredentials {
    async fn credentials(&self) -> Result<ClientCredentials> {
        Ok(ClientCredentials::from_env()?)
    }
}

/// Reads the secret, and optionally the client id, from files before each token request. The files
/// can belong to a mounted Kubernetes secret.
///
/// A byte order mark and surrounding white space are removed. A path that is not a regular file, a
/// file over 1 MiB, and a value that is empty, quoted or not printable ASCII are
/// [`Config`](crate::ErrorKind::Config) errors. A read that takes longer than 5 s is an
/// [`Unavailable`](crate::ErrorKind::Unavailable) error.
#[derive(Clone, Debug)]
pub struct FileCredentials {
    client_id: Id,
    secret: PathBuf,
    reader: Reader,
}

#[derive(Clone, Debug)]
enum Id {
    Fixed(String),
    File(PathBuf),
}

impl FileCredentials {
    /// Creates a provider with a fixed client id that reads the secret from a file.
    pub fn new(client_id: impl Into<String>, secret: impl Into<PathBuf>) -> Self {
        Self {
            client_id: Id::Fixed(client_id.into()),
            secret: secret.into(),
            reader: Reader::default(),
        }
    }

    /// Creates a provider that reads the client id and the secret from one file each.
    pub fn from_files(client_id: impl Into<PathBuf>, secret: impl Into<PathBuf>) -> Self {
        Self {
            client_id: Id::File(client_id.into()),
            secret: secret.into(),
            reader: Reader::default(),
        }
    }

    fn read(&self) -> Result<ClientCredentials> {
        let secret = read_credential(&self.secret)?;
        Ok(match &self.client_id {
            Id::Fixed(id) => ClientCredentials::new(id, secret),
            Id::File(path) => {
                ClientCredentials::new(read_credential(path)?.expose_secret(), secret)
            }
        })
    }
}

#[async_trait]
impl CredentialsProvider for FileCredentials {
    async fn credentials(&self) -> Result<ClientCredentials> {
        let files = self.clone();
        let read = move || {
            // The files may be replaced between the two reads. A pair that is read twice is
            // consistent.
            let mut pair = files.read()?;
            for _ in 0..3 {
                let again = files.read()?;
                if is_same(&pair, &again) {
                    break;
                }
                pair = again;
            }
            Ok(pair)
        };
        self.reader.run(&self.secret.display().to_string(), read).await
    }
}

/// Reads the Sitecore CLI's login, like [`ClientCredentials::from_sitecore_cli`]. The issuer in
/// that file is ignored, because the [`TokenClient`] has its own.
#[derive(Clone, Debug)]
pub struct SitecoreCliCredentials {
    start_dir: PathBuf,
    reader: Reader,
}

impl SitecoreCliCredentials {
    /// Creates a provider that looks for the file in `start_dir` and its parent folders.
    pub fn new(start_dir: impl Into<PathBuf>) -> Self {
        Self { start_dir: start_dir.into(), reader: Reader::default() }
    }
}

#[async_trait]
impl CredentialsProvider for SitecoreCliCredentials {
    async fn credentials(&self) -> Result<ClientCredentials> {
        let start_dir = self.start_dir.clone();
        let read = move || Ok(ClientCredentials::from_sitecore_cli(start_dir)?.0);
        self.reader.run(&self.start_dir.display().to_string(), read).await
    }
}

/// A source that uses the access token of an interactive login with the Sitecore CLI
/// (`dotnet sitecore cloud login`) until it expires.
///
/// The token stands for a person, and it cannot be refreshed from here: log in again when it has
/// expired. Use it for scripts on a developer's machine. For programs, use
/// [`ClientCredentials::from_sitecore_cli`] or other credentials.
///
/// ```no_run
/// # fn main() -> Result<(), sitecore_auth::Error> {
/// use sitecore_auth::{AuthMiddleware, SitecoreCliLogin, Target, TokenCache};
///
/// let cache = TokenCache::new(SitecoreCliLogin::new("."));
/// let auth = AuthMiddleware::builder(cache).target(Target::deploy()).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SitecoreCliLogin {
    start_dir: PathBuf,
    reader: Reader,
}

impl SitecoreCliLogin {
    /// Creates a source that looks for `.sitecore/user.json` in `start_dir` and its parent folders,
    /// each time it is called.
    pub fn new(start_dir: impl Into<PathBuf>) -> Self {
        Self { start_dir: start_dir.into(), reader: Reader::default() }
    }
}

#[async_trait]
impl TokenSource for SitecoreCliLogin {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
        const LOG_IN: &str = "log in again with `dotnet sitecore cloud login`";
        let start_dir = self.start_dir.clone();
        let read = move || Ok(access_token_from_sitecore_cli(start_dir)?);
        let text = self.reader.run(&self.start_dir.display().to_string(), read).await?;
        let claims = Claims::decode(text.expose_secret());
        let expires_at = claims.and_then(|claims| claims.expires_at());
        let now = SystemClock.now().wall();
        let left = expires_at.map(|expires_at| expires_at.saturating_sub(now));
        if left.is_some_and(|left| left.is_zero()) {
            let message = format!("the token of the Sitecore CLI's login has expired; {LOG_IN}");
            return Err(Error::new(ErrorKind::Config, message));
        }
        // A token that says nothing about its expiry is looked up again after some minutes.
        let token = Token::bearer(text, left.unwrap_or(UNKNOWN_LIFETIME))?;
        if context.rejected() && context.replacing().is_some_and(|other| other.is_same(&token)) {
            let message = format!("an API rejects the token of the Sitecore CLI's login; {LOG_IN}");
            return Err(Error::new(ErrorKind::Refused, message));
        }
        Ok(token)
    }
}

/// Runs blocking reads of files, each on a thread of its own. On Tokio's blocking threads, a read
/// that hangs would keep the runtime from shutting down.
#[derive(Clone, Debug)]
struct Reader(Arc<Semaphore>);

impl Default for Reader {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_READS)))
    }
}

impl Reader {
    async fn run<T: Send + 'static>(
        &self,
        place: &str,
        read: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let unavailable = |error: BoxError| Error::new(ErrorKind::Unavailable, error);
        let result = async {
            let permit = Arc::clone(&self.0).acquire_owned().await;
            let (sender, result) = oneshot::channel();
            let work = move || {
                let _permit = permit;
                // It does not matter if the result is no longer awaited.
                let _ = sender.send(read());
            };
            let thread = thread::Builder::new().name("sitecore-auth-read".to_owned());
            thread.spawn(work).map_err(|error| unavailable(error.into()))?;
            result.await.map_err(|error| unavailable(error.into()))?
        };
        timeout(READ_TIMEOUT, result).await.unwrap_or_else(|_elapsed| {
            let message =
                format!("reading {place} took longer than {READ_TIMEOUT:?}; check its file system");
            Err(unavailable(message.into()))
        })
    }
}

/// A source whose credentials can change: it reads them from a provider before every token request.
///
/// If the issuer refuses the client and the provider has other credentials by then, the token
/// request is repeated once with those.
///
/// ```no_run
/// # fn main() -> Result<(), sitecore_auth::Error> {
/// use sitecore_auth::{ClientCredentials, FileCredentials, ProviderSource, TokenCache, TokenClient};
///
/// let provider = FileCredentials::new("my-client-id", "/var/run/secrets/sitecore/client-secret");
/// // Provides the endpoint, the timeout and the HTTP client. Its credentials are not used.
/// let client = TokenClient::new(ClientCredentials::new("my-client-id", "unused"))?;
/// let cache = TokenCache::new(ProviderSource::new(provider, &client));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ProviderSource<P> {
    provider: P,
    client: TokenClient,
    /// The credentials that the issuer refused or rate-limited last.
    refused: Mutex<Option<ClientCredentials>>,
}

impl<P: CredentialsProvider> ProviderSource<P> {
    /// Creates a source from a provider and a client. The client's credentials are not used, but
    /// all its other settings are.
    pub fn new(provider: P, client: &TokenClient) -> Self {
        Self { provider, client: client.clone(), refused: Mutex::new(None) }
    }

    async fn request(&self, credentials: ClientCredentials) -> Result<Token> {
        let client = self.client.with_credentials(credentials.clone())?;
        let response = client.fetch().await.map_err(Error::from);
        let kind = response.as_ref().map_err(Error::kind).err();
        if let Some(ErrorKind::Refused | ErrorKind::RateLimited) = kind {
            // Not cleared after a success, because another cache may still be in a cooldown for
            // these credentials.
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(credentials);
        }
        token_from(&response?)
    }

    /// Returns the current credentials if they differ from the refused ones.
    async fn other_credentials(&self) -> Option<ClientCredentials> {
        let credentials = self.provider.credentials().await.ok()?;
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused
            .as_ref()
            .is_some_and(|refused| !is_same(refused, &credentials))
            .then_some(credentials)
    }
}

#[async_trait]
impl<P: CredentialsProvider> TokenSource for ProviderSource<P> {
    async fn fetch(&self, _context: FetchContext<'_>) -> Result<Token> {
        let error = match self.request(self.provider.credentials().await?).await {
            Err(error) if error.kind() == ErrorKind::Refused => error,
            result => return result,
        };
        match self.other_credentials().await {
            Some(credentials) => {
                info!("credentials changed, retrying token request");
                self.request(credentials).await
            }
            None => Err(error),
        }
    }

    async fn sharing_key(&self) -> Result<Option<SharingKey>> {
        let credentials = self.provider.credentials().await?;
        let client = self.client.with_credentials(credentials)?;
        Ok(Some(SharingKey::of(&client)))
    }

    async fn has_new_credentials(&self) -> bool {
        self.other_credentials().await.is_some()
    }
}

fn is_same(one: &ClientCredentials, other: &ClientCredentials) -> bool {
    one.client_id() == other.client_id()
        && one.client_secret().expose_secret() == other.client_secret().expose_secret()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::time::Instant;

    use super::*;

    #[test]
    fn hanging_reads_are_given_up_and_bounded_and_do_not_hold_the_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let reader = Reader::default();
        let mut release = Vec::new();
        for _ in 0..MAX_READS {
            let (sender, hang) = mpsc::channel::<()>();
            release.push(sender);
            let read = move || {
                let _ = hang.recv();
                Ok(())
            };
            let (result, waited) = runtime.block_on(async {
                let started = Instant::now();
                (reader.run("the-file", read).await, started.elapsed())
            });
            assert_eq!(waited, Duration::from_secs(5));
            let error = result.expect_err("a hang");
            assert!(error.cause().contains("reading the-file took longer than 5s"), "{error:?}");
        }
        let error = runtime.block_on(reader.run("the-file", || Ok(()))).expect_err("no thread");
        assert!(error.is_transient());
        // The threads still hang, and yet this returns.
        drop(runtime);
        drop(release);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime
            .expect("a runtime")
            .block_on(reader.run("the-file", || Ok(())))
            .expect("a free thread");
    }
}
