//! `store`: shows or clears the stored token.

use std::time::Duration;

use serde_json::json;
use sitecore_auth::{Error, ErrorKind, FetchContext, SharingKey, Token, TokenClient, TokenSource};
use sitecore_token_store::{FileStore, SharedSource};

use crate::{
    args::{Common, Format, Store},
    config::Config,
    failure::{Failure, Result, for_shells},
    login::Login,
    terminal::{bar, note, wait_for, words},
};

/// Has the sharing key of a client, but makes no token request.
struct Offline(TokenClient);

#[async_trait::async_trait]
impl TokenSource for Offline {
    async fn fetch(&self, _: FetchContext<'_>) -> sitecore_auth::Result<Token> {
        Err(Error::new(ErrorKind::Config, "no token is stored"))
    }

    async fn sharing_key(&self) -> sitecore_auth::Result<Option<SharingKey>> {
        self.0.sharing_key().await
    }
}

pub(crate) async fn run(
    command: &Store,
    format: Format,
    common: &Common,
    config: &Config,
) -> Result<String> {
    if common.no_store {
        return Err(Failure::usage("`store` cannot be used with --no-store"));
    }
    let login = Login::find(common, config, None)?;
    let shared = SharedSource::new(Offline(login.token_client()?), FileStore::new()?)?;
    let work = async {
        shared.check().await.map_err(|error| Failure::config(for_shells(&error.cause())))?;
        match command {
            Store::Status => status(format, &shared).await,
            Store::Clear => {
                shared.forget().await?;
                note(common, "nothing is stored for these credentials now");
                Ok(String::new())
            }
        }
    };
    wait_for(common, "reading the store", work).await
}

async fn status(format: Format, shared: &SharedSource) -> Result<String> {
    let name = shared.entry_name().await?;
    let token = shared.fetch(FetchContext::new(Duration::from_secs(2))).await.ok();
    let age = token.as_ref().map(Token::age).unwrap_or_default();
    let lifetime = token.as_ref().and_then(Token::lifetime).unwrap_or_default();
    let left = lifetime.saturating_sub(age);
    if format == Format::Json {
        let object = json!({
            "version": 1,
            "entry": name,
            "is_stored": token.is_some(),
            "age": token.as_ref().map(|_| age.as_secs()),
            "expires_in": token.as_ref().map(|_| left.as_secs()),
            "fingerprint": token.as_ref().map(|token| token.fingerprint().to_string()),
        });
        return Ok(object.to_string());
    }
    let Some(token) = token else {
        return Ok(format!("entry        {name}\nno token is stored for these credentials"));
    };
    let part = left.as_secs_f64() / lifetime.as_secs_f64().max(1.0);
    Ok(format!(
        "entry        {name}\nage          {}\ntime left    {} {} of {}\nfingerprint  {}",
        words(age),
        bar(part, 20),
        words(left),
        words(lifetime),
        token.fingerprint()
    ))
}
