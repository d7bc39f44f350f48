//! `edge-key`: manages the keys for the Delivery API.

use std::io::{self, BufRead as _, IsTerminal as _};

use secrecy::ExposeSecret as _;
use serde_json::json;
use sitecore_auth::{
    TokenCache,
    edge::{EdgeKeySource, TokenApi},
};

use super::graphql::pretty;
use crate::{
    api::{origin, prepare},
    args::{Api, Common, EdgeKey, Format},
    config::Config,
    failure::{Failure, Result},
    terminal::wait_for,
};

pub(crate) async fn run(command: &EdgeKey, common: &Common, config: &Config) -> Result<String> {
    if let EdgeKey::Get { environment } = command {
        let ready = prepare(Api::Deploy, None, common, config)?;
        let source = EdgeKeySource::deploy_api(ready.client, environment);
        let cache = TokenCache::new(source.with_origin(origin(&ready.url))?);
        let key = async { cache.token().await.map_err(Failure::from_api) };
        let key = wait_for(common, "getting a key", key).await?;
        return Ok(key.header().1.to_str().unwrap_or_default().to_owned());
    }
    if let EdgeKey::Revoke { hash, yes: false } = command {
        confirm(hash)?;
    }
    let ready = prepare(Api::Edge, None, common, config)?;
    let api = TokenApi::new(ready.client).with_origin(origin(&ready.url))?;
    let call = async { call(command, &api).await.map_err(Failure::from_api) };
    wait_for(common, "waiting for the Token API", call).await
}

async fn call(command: &EdgeKey, api: &TokenApi) -> sitecore_auth::Result<String> {
    match command {
        EdgeKey::Create { label } => Ok(api.create_key(label).await?.expose_secret().to_owned()),
        EdgeKey::Rename { hash, label } => {
            api.rename_key(hash, label).await?;
            Ok(String::new())
        }
        EdgeKey::Revoke { hash, .. } => {
            api.revoke_key(hash).await?;
            Ok(String::new())
        }
        EdgeKey::List { label, output } => {
            let keys = api.list_keys(label.as_deref()).await?;
            if output.format == Format::Json {
                let keys = keys.iter().map(|key| {
                    json!({
                        "hash": key.hash, "label": key.label, "created_by": key.created_by,
                        "created": key.created, "scopes": key.scopes,
                    })
                });
                return Ok(pretty(&keys.collect()));
            }
            let lines =
                keys.iter().map(|key| format!("{}  {}  {}", key.hash, key.created, key.label));
            Ok(lines.collect::<Vec<_>>().join("\n"))
        }
        EdgeKey::Get { .. } => Ok(String::new()),
    }
}

/// Asks before a key is revoked for good.
fn confirm(hash: &str) -> Result<()> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("revoking a key cannot be undone").hint("confirm it with --yes"));
    }
    anstream::eprint!("Revoke the key {hash}? This cannot be undone. [y/N] ");
    let mut reply = String::new();
    io::stdin().lock().read_line(&mut reply)?;
    match reply.trim().eq_ignore_ascii_case("y") {
        true => Ok(()),
        false => Err(Failure::usage("nothing was revoked")),
    }
}
