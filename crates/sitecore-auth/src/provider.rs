//! Credentials that can change while the program runs: they are asked for before every grant.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use sitecore_token::{ClientCredentials, TokenClient};
use tokio::task::spawn_blocking;
use tracing::info;

use crate::{
    Error, ErrorKind, Result, Token, TokenSource,
    source::{Identity, token_of},
};

/// Gives the credentials in force.
#[async_trait]
pub trait CredentialsProvider: Send + Sync + 'static {
    /// Gives the credentials in force. Called before every grant, and once more after a refusal.
    ///
    /// # Errors
    ///
    /// Why there are none: a failed refresh, like any other.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when a refresh is out of time.
    async fn credentials(&self) -> Result<ClientCredentials>;
}

/// The same for ever.
#[async_trait]
impl CredentialsProvider for ClientCredentials {
    async fn credentials(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

/// The environment's, as [`ClientCredentials::from_env`] reads it.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing to add: it is its own name")]
pub struct EnvironmentCredentials;

#[async_trait]
impl CredentialsProvider for EnvironmentCredentials {
    async fn credentials(&self) -> Result<ClientCredentials> {
        Ok(ClientCredentials::from_env()?)
    }
}

/// A client id, and a secret in a file that is read anew each time: a mounted Kubernetes secret, say.
/// A line end behind the secret is dropped.
#[derive(Clone, Debug)]
pub struct FileCredentials {
    client_id: Id,
    secret: PathBuf,
}

#[derive(Clone, Debug)]
enum Id {
    Fixed(String),
    File(PathBuf),
}

impl FileCredentials {
    /// Reads the secret from a file.
    pub fn new(client_id: impl Into<String>, secret: impl Into<PathBuf>) -> Self {
        Self { client_id: Id::Fixed(client_id.into()), secret: secret.into() }
    }

    /// Reads id and secret from a file each.
    pub fn from_files(client_id: impl Into<PathBuf>, secret: impl Into<PathBuf>) -> Self {
        Self { client_id: Id::File(client_id.into()), secret: secret.into() }
    }

    fn read(&self) -> Result<ClientCredentials> {
        let secret = SecretString::from(read(&self.secret)?);
        match &self.client_id {
            Id::Fixed(id) => Ok(ClientCredentials::new(id, secret)),
            Id::File(path) => Ok(ClientCredentials::new(read(path)?, secret)),
        }
    }
}

#[async_trait]
impl CredentialsProvider for FileCredentials {
    async fn credentials(&self) -> Result<ClientCredentials> {
        let files = self.clone();
        blocking(move || {
            // Files that are replaced together are not read together: twice the same is a pair.
            let mut pair = files.read()?;
            for _ in 0..3 {
                let again = files.read()?;
                if is_same(&pair, &again) {
                    break;
                }
                pair = again;
            }
            Ok(pair)
        })
        .await
    }
}

/// The Sitecore CLI's login, as [`ClientCredentials::from_sitecore_cli`] reads it. The issuer in that file
/// is not looked at: the [`TokenClient`] has its own.
#[derive(Clone, Debug)]
pub struct SitecoreCliCredentials {
    start_dir: PathBuf,
}

impl SitecoreCliCredentials {
    /// Looks for the file in `start_dir` and above.
    pub fn new(start_dir: impl Into<PathBuf>) -> Self {
        Self { start_dir: start_dir.into() }
    }
}

#[async_trait]
impl CredentialsProvider for SitecoreCliCredentials {
    async fn credentials(&self) -> Result<ClientCredentials> {
        let start_dir = self.start_dir.clone();
        blocking(move || Ok(ClientCredentials::from_sitecore_cli(start_dir)?.0)).await
    }
}

/// A source whose credentials can change: it asks a provider before every grant.
///
/// If the issuer refuses and the provider has other credentials by then, the grant is tried once more
/// with those.
///
/// ```no_run
/// # fn main() -> Result<(), sitecore_auth::Error> {
/// use sitecore_auth::{ClientCredentials, FileCredentials, ProviderSource, TokenCache, TokenClient};
///
/// let provider = FileCredentials::new("my-client-id", "/var/run/secrets/sitecore/client-secret");
/// // Endpoint, time limit and HTTP client come from this one; its credentials are not used.
/// let client = TokenClient::new(ClientCredentials::new("my-client-id", "unused"))?;
/// let cache = TokenCache::new(ProviderSource::new(provider, &client));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ProviderSource<P> {
    provider: P,
    client: TokenClient,
    refused: Mutex<Option<ClientCredentials>>,
}

impl<P: CredentialsProvider> ProviderSource<P> {
    /// Makes a source of a provider and of the client that asks, with all its settings but the
    /// credentials.
    pub fn new(provider: P, client: &TokenClient) -> Self {
        Self { provider, client: client.clone(), refused: Mutex::new(None) }
    }

    async fn grant(&self, credentials: ClientCredentials) -> Result<Token> {
        let client = self.client.with_credentials(credentials.clone())?;
        let answer = client.fetch().await.map_err(Error::from);
        let refused = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Refused);
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) =
            refused.then_some(credentials);
        token_of(&answer?)
    }

    /// Returns the credentials in force if they are not the refused ones.
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
    async fn fetch(&self, _replacing: Option<&Token>) -> Result<Token> {
        let error = match self.grant(self.provider.credentials().await?).await {
            Err(error) if error.kind() == ErrorKind::Refused => error,
            granted => return granted,
        };
        match self.other_credentials().await {
            Some(credentials) => {
                info!("the credentials changed: the grant is tried once more");
                self.grant(credentials).await
            }
            None => Err(error),
        }
    }

    async fn identity(&self) -> Result<Option<Identity>> {
        let credentials = self.provider.credentials().await?;
        let client = self.client.with_credentials(credentials)?;
        Ok(Some(Identity::of(&client)))
    }

    async fn has_new_credentials(&self) -> bool {
        self.other_credentials().await.is_some()
    }
}

fn is_same(one: &ClientCredentials, other: &ClientCredentials) -> bool {
    one.client_id() == other.client_id()
        && one.client_secret().expose_secret() == other.client_secret().expose_secret()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| {
        let message = format!("{} cannot be read: {error}", path.display());
        Error::new(ErrorKind::Config, io::Error::new(error.kind(), message))
    })
}

/// Runs what may wait for a disk where that hurts nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work).await.map_err(|error| Error::new(ErrorKind::Unavailable, error))?
}
