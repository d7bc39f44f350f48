//! Whose tokens a command uses: the credentials, their cache, and the store.

use std::{env, io::Read as _, path::Path};

use secrecy::SecretString;
use sitecore_auth::{ClientCredentials, Endpoint, SitecoreCliLogin, TokenCache, TokenClient};
use sitecore_token_store::{FileStore, SharedSource};

use crate::{
    args::Common,
    config::Config,
    failure::{Failure, Result},
    terminal,
};

/// Credentials, and where they come from.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) place: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Client(ClientCredentials, Endpoint),
    /// A person's login with the Sitecore CLI.
    Person,
}

impl Login {
    /// Looks the credentials up. `assigned` names those that the configuration file assigns to the
    /// API that is called.
    pub(crate) fn find(common: &Common, config: &Config, assigned: Option<&str>) -> Result<Self> {
        if let Some(name) = &common.credentials {
            return Self::named(name, config);
        }
        if let (Some(id), Some(file)) = (&common.client_id, &common.secret_file) {
            let secret = read_secret(file)?;
            let place = format!("--client-id and --secret-file {}", file.display());
            return Ok(Self::client(
                place,
                ClientCredentials::new(id, secret),
                Endpoint::from_env()?,
            ));
        }
        if let Some(name) = assigned {
            return Self::named(name, config);
        }
        let variables = ["SITECORE_AUTH", "SITECORE"].into_iter().find(|prefix| {
            ["ID", "SECRET"]
                .iter()
                .any(|part| env::var_os(format!("{prefix}_CLIENT_{part}")).is_some())
        });
        if let Some(prefix) = variables {
            let place = format!("{prefix}_CLIENT_ID and {prefix}_CLIENT_SECRET");
            return Ok(Self::client(place, ClientCredentials::from_env()?, Endpoint::from_env()?));
        }
        Self::of_sitecore_cli()
    }

    fn client(place: String, credentials: ClientCredentials, endpoint: Endpoint) -> Self {
        Self { place, kind: Kind::Client(credentials, endpoint) }
    }

    fn named(name: &str, config: &Config) -> Result<Self> {
        let (found, place) = config.credentials(name)?;
        let secret = match (&found.secret_file, &found.secret_variable) {
            (Some(file), None) => sitecore_token::read_credential(&config.resolve(file))?,
            (None, Some(variable)) => {
                sitecore_token::secret_from_env(variable)?.ok_or_else(|| {
                    Failure::config(format!("{place}: the variable {variable} is not set"))
                })?
            }
            _ => {
                let message = format!("{place} needs either secret_file or secret_variable");
                return Err(Failure::config(message));
            }
        };
        let endpoint = match (&found.authority, &found.audience) {
            (None, None) => Endpoint::from_env()?,
            (authority, audience) => {
                let default = Endpoint::sitecore_cloud();
                let default = default.token_url().origin().ascii_serialization();
                let authority = authority.as_deref().unwrap_or(&default);
                Endpoint::of_authority(
                    &format!("{place}: authority"),
                    authority,
                    audience.as_deref(),
                )?
            }
        };
        Ok(Self::client(place, ClientCredentials::new(&found.client_id, secret), endpoint))
    }

    fn of_sitecore_cli() -> Result<Self> {
        let here = Path::new(".");
        let place = ".sitecore/user.json".to_owned();
        match ClientCredentials::from_sitecore_cli(here) {
            Ok((credentials, endpoint)) => Ok(Self::client(place, credentials, endpoint)),
            Err(_) if sitecore_token::access_token_from_sitecore_cli(here).is_ok() => {
                Ok(Self { place: format!("{place} (an interactive login)"), kind: Kind::Person })
            }
            Err(error) => {
                let hint = "set SITECORE_AUTH_CLIENT_ID and SITECORE_AUTH_CLIENT_SECRET, create sitecore-auth.toml, or log in with the Sitecore CLI";
                Err(Failure::config(format!("no credentials found: {error}")).hint(hint))
            }
        }
    }

    /// Returns a cache that shares its token with other invocations, unless that is impossible or
    /// not wanted.
    pub(crate) fn cache(&self, common: &Common) -> Result<TokenCache> {
        Ok(match &self.kind {
            Kind::Person => TokenCache::new(SitecoreCliLogin::new(".")),
            Kind::Client(..) if common.no_store => TokenCache::new(self.token_client()?),
            Kind::Client(..) => match self.shared()? {
                Ok(shared) => TokenCache::new(shared),
                Err(error) => {
                    terminal::note(common, &format!("tokens are not shared: {}", error.cause()));
                    TokenCache::new(self.token_client()?)
                }
            },
        })
    }

    /// Removes the stored token, so that the next one is new.
    pub(crate) async fn forget(&self, common: &Common) -> Result<()> {
        if !common.no_store
            && let Kind::Client(..) = self.kind
            && let Ok(shared) = self.shared()?
        {
            shared.forget().await?;
        }
        Ok(())
    }

    /// Returns the client that makes token requests, if this is not a person's login.
    pub(crate) fn token_client(&self) -> Result<TokenClient> {
        match &self.kind {
            Kind::Client(credentials, endpoint) => {
                let client = TokenClient::builder(credentials.clone()).endpoint(endpoint.clone());
                Ok(client.build()?)
            }
            Kind::Person => Err(Failure::config(
                "a person's login is not stored here; its token is in .sitecore/user.json",
            )),
        }
    }

    /// Returns the shared source, or why tokens cannot be shared.
    fn shared(&self) -> Result<sitecore_auth::Result<SharedSource>> {
        let client = self.token_client()?;
        Ok(FileStore::new().and_then(|store| SharedSource::new(client, store)))
    }
}

/// Reads a secret from a file, or from standard input.
fn read_secret(file: &Path) -> Result<SecretString> {
    if file != Path::new("-") {
        return Ok(sitecore_token::read_credential(file)?);
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::config(format!("cannot read the secret from stdin: {error}")))?;
    let secret = text.trim_start_matches('\u{feff}').trim();
    let is_valid = !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_valid {
        let message = "the secret from stdin is empty or contains characters that no secret has";
        return Err(Failure::config(message));
    }
    Ok(secret.into())
}
