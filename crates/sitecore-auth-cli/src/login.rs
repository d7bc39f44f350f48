//! Whose tokens a command uses: the credentials, their cache, and the store.

use std::{collections::HashMap, env, path::Path, sync::OnceLock};

use secrecy::SecretString;
use sitecore_auth::{
    ClientCredentials, Endpoint, FetchContext, RefreshPolicy, SitecoreCliLogin, Token, TokenCache,
    TokenClient, TokenSource as _, edge::EdgeKey,
};
use sitecore_token_store::{FileStore, SharedSource};

use crate::{
    args::{Api, Common},
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
    /// Looks up the credentials for a call to an API, or for a command that calls none.
    pub(crate) fn find(common: &Common, config: &Config, api: Option<Api>) -> Result<Self> {
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
        let from_file = match api {
            // The only credentials may be assigned to another API.
            Some(api) if config.assigns_credentials() => api.assigned(config),
            _ => config.only_credentials(),
        };
        if let Some(name) = from_file {
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
        Self::of_sitecore_cli(config, api)
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
            (Some(authority), audience) => {
                let setting = format!("{place}: authority");
                Endpoint::of_authority(&setting, authority, audience.as_deref())?
            }
            (None, Some(audience)) => {
                let default = Endpoint::from_env()?;
                let authority = default.token_url().as_str().trim_end_matches("oauth/token");
                let setting = format!("{place}: audience");
                Endpoint::of_authority(&setting, authority, Some(audience))?
            }
            (None, None) => Endpoint::from_env()?,
        };
        Ok(Self::client(place, ClientCredentials::new(&found.client_id, secret), endpoint))
    }

    fn of_sitecore_cli(config: &Config, api: Option<Api>) -> Result<Self> {
        let here = Path::new(".");
        let place = ".sitecore/user.json".to_owned();
        match ClientCredentials::from_sitecore_cli(here) {
            Ok((credentials, endpoint)) => Ok(Self::client(place, credentials, endpoint)),
            Err(_) if sitecore_token::access_token_from_sitecore_cli(here).is_ok() => {
                Ok(Self { place: format!("{place} (an interactive login)"), kind: Kind::Person })
            }
            Err(error) => Err(not_found(config, api, &error)),
        }
    }

    /// Returns a cache that shares its token with other invocations, unless that is impossible or
    /// not wanted.
    pub(crate) async fn cache(&self, common: &Common) -> Result<TokenCache> {
        if let Kind::Person = self.kind {
            return Ok(TokenCache::new(SitecoreCliLogin::new(".")));
        }
        let cache = match self.store(common).await? {
            Some(shared) => TokenCache::builder(shared),
            None => TokenCache::builder(self.token_client()?),
        };
        let mut policy = RefreshPolicy::default();
        // Ends before the command gives up, and so can say why there is no token.
        let limit = common.timeout - common.timeout / 10;
        policy.refresh_timeout = policy.refresh_timeout.min(limit);
        Ok(cache.policy(policy).build()?)
    }

    /// Requests a new token.
    pub(crate) async fn new_token(&self, common: &Common) -> Result<Token> {
        if self.is_person() {
            let message = "the token of an interactive login cannot be replaced here";
            return Err(
                Failure::config(message).hint("log in again with `dotnet sitecore cloud login`")
            );
        }
        let cache = self.cache(common).await?;
        let result = cache.token().await;
        let is_new = cache.status().token_requests() > 0;
        let stored = if is_new { None } else { self.store(common).await? };
        let Some(shared) = stored else { return Ok(result?) };
        let Ok(token) = result else {
            // The failure of an earlier token request was stored, but no usable token.
            shared.forget().await?;
            return Ok(self.cache(common).await?.token().await?);
        };
        // The store keeps the stored token until there is a newer one.
        let context = FetchContext::new(common.timeout).with_replacing(&token, false);
        match shared.fetch(context).await.map_err(Failure::from) {
            Ok(_) => Ok(self.cache(common).await?.token().await?),
            Err(failure) if failure.is_stored() => {
                let token = TokenCache::new(self.token_client()?).token().await?;
                shared.forget().await?;
                Ok(token)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Returns `true` for a person's login, whose token cannot be refreshed here.
    pub(crate) fn is_person(&self) -> bool {
        matches!(self.kind, Kind::Person)
    }

    /// Returns the source that shares tokens. Says why, if that is impossible.
    async fn store(&self, common: &Common) -> Result<Option<SharedSource>> {
        if common.no_store {
            return Ok(None);
        }
        let client = self.token_client()?;
        let shared = FileStore::new().and_then(|store| SharedSource::new(client, store));
        let checked = match shared {
            Ok(shared) => shared.check().await.map(|()| shared),
            Err(error) => Err(error),
        };
        match checked {
            Ok(shared) => Ok(Some(shared)),
            Err(error) => {
                let reason = Failure::from(error);
                terminal::note(common, &format!("tokens are not shared: {reason}"));
                Ok(None)
            }
        }
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
}

/// One cache for each set of credentials, so that one client makes one token request.
pub(crate) struct Caches<'a> {
    common: &'a Common,
    config: &'a Config,
    known: HashMap<String, TokenCache>,
}

impl<'a> Caches<'a> {
    pub(crate) fn new(common: &'a Common, config: &'a Config) -> Self {
        Self { common, config, known: HashMap::new() }
    }

    /// Returns the cache for an API, and where its credentials come from.
    pub(crate) async fn get(&mut self, api: Api) -> Result<(TokenCache, String)> {
        if api == Api::Delivery {
            let place = "SITECORE_EDGE_TOKEN".to_owned();
            return Ok((TokenCache::new(EdgeKey::from_env()?), place));
        }
        let login = Login::find(self.common, self.config, Some(api))?;
        let cache = match self.known.get(&login.place) {
            Some(cache) => cache.clone(),
            None => login.cache(self.common).await?,
        };
        self.known.insert(login.place.clone(), cache.clone());
        Ok((cache, login.place))
    }
}

/// Says where credentials were looked up, and what to do.
fn not_found(config: &Config, api: Option<Api>, error: &sitecore_token::Error) -> Failure {
    let error = error.to_string();
    let (error, login) = match error.rsplit_once("; ") {
        Some((error, advice)) if advice.starts_with("run `dotnet") => (error, advice),
        _ => (&*error, "log in with the Sitecore CLI"),
    };
    let Some(names) = config.names() else {
        let message =
            format!("no credentials found: SITECORE_AUTH_CLIENT_ID is not set, and {error}");
        return Failure::config(message).hint(format!(
            "set SITECORE_AUTH_CLIENT_ID and SITECORE_AUTH_CLIENT_SECRET, create sitecore-auth.toml, or {login}"
        ));
    };
    let reason = match api.filter(|_| config.assigns_credentials()) {
        Some(api) => {
            let api = api.name();
            format!("sitecore-auth.toml assigns none of its credentials ({names}) to {api}")
        }
        None => format!("sitecore-auth.toml contains several sets ({names})"),
    };
    Failure::config(format!("cannot choose credentials: {reason}, and {error}"))
        .hint("choose one with --credentials")
}

/// Reads a secret from a file, or from standard input.
fn read_secret(file: &Path) -> Result<SecretString> {
    if file != Path::new("-") {
        return Ok(sitecore_token::read_credential(file)?);
    }
    static FROM_STDIN: OnceLock<SecretString> = OnceLock::new();
    if let Some(secret) = FROM_STDIN.get() {
        return Ok(secret.clone());
    }
    let text = String::from_utf8(terminal::read_stdin()?)
        .map_err(|_| Failure::config("the secret from stdin is not UTF-8"))?;
    let secret = sitecore_token::check_credential("the secret from stdin", &text)?;
    Ok(FROM_STDIN.get_or_init(|| secret.into()).clone())
}
