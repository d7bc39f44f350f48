//! `edge-key`: manages the keys for the Delivery API.

use std::io::{self, BufRead as _, IsTerminal as _};

use secrecy::ExposeSecret as _;
use serde_json::json;
use sitecore_auth::{
    ErrorKind, TokenCache,
    edge::{EdgeKeySource, TokenApi},
};

use super::graphql::pretty;
use crate::{
    api::{Ready, origin, prepare},
    args::{Api, Common, EdgeKey, Format},
    config::Config,
    failure::{Failure, Result},
    terminal::{error_line, printable, wait_for},
};

pub(crate) async fn run(
    command: &EdgeKey,
    format: Format,
    common: &Common,
    config: &Config,
) -> Result<String> {
    match command {
        EdgeKey::Get { environment } => check_id("environment's id", environment)?,
        EdgeKey::Rename { hash, .. } | EdgeKey::Revoke { hash, .. } => check_hash(hash)?,
        // The API never returns it again.
        EdgeKey::Create { .. } if is_stdout_discarded() => {
            return Err(Failure::usage("stdout is discarded, so the new key would be lost")
                .hint("print it, or redirect it to a file"));
        }
        EdgeKey::Create { .. } | EdgeKey::List { .. } => {}
    }
    if let EdgeKey::Revoke { hash, yes: false } = command {
        confirm(hash)?;
    }
    let mut may_exist = false;
    let call = async {
        let is_get = matches!(command, EdgeKey::Get { .. });
        let api = if is_get { Api::Deploy } else { Api::Edge };
        let ready = prepare(api, None, common, config).await?;
        // Gets the token first, so that a later failure is the API's.
        ready.cache.token().await?;
        may_exist = true;
        let result = call(command, format, ready).await;
        // Other errors say that nothing was created.
        may_exist = matches!(&result, Err(error) if is_uncertain(error.kind()));
        result.map_err(Failure::from_api)
    };
    let result = wait_for(common, "waiting for the API", call).await;
    match command {
        EdgeKey::Create { label } if may_exist => result.map_err(|failure| {
            failure.hint(format!(
                "a key may have been created; look for the label {label} in `edge-key list`"
            ))
        }),
        _ => result,
    }
}

/// Returns `true` if the API may have done what it was asked to do.
fn is_uncertain(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Malformed | ErrorKind::Timeout)
}

async fn call(command: &EdgeKey, format: Format, ready: Ready) -> sitecore_auth::Result<String> {
    let origin = origin(&ready.url);
    if let EdgeKey::Get { environment } = command {
        let source = EdgeKeySource::deploy_api(ready.client, environment).with_origin(origin)?;
        let key = TokenCache::new(source).token().await?;
        return Ok(shown(key.header().1.to_str().unwrap_or_default(), format));
    }
    let api = TokenApi::new(ready.client).with_origin(origin)?;
    match command {
        EdgeKey::Create { label } => {
            Ok(shown(api.create_key(label).await?.expose_secret(), format))
        }
        EdgeKey::Rename { hash, label } => {
            api.rename_key(hash, label).await?;
            Ok(String::new())
        }
        EdgeKey::Revoke { hash, .. } => {
            api.revoke_key(hash).await?;
            Ok(String::new())
        }
        EdgeKey::List { label } => {
            let keys = api.list_keys(label.as_deref()).await?;
            if format == Format::Json {
                let keys = keys.iter().map(|key| {
                    json!({
                        "hash": key.hash, "label": key.label, "created_by": key.created_by,
                        "created": key.created, "scopes": key.scopes,
                    })
                });
                return Ok(pretty(&keys.collect()));
            }
            let row = |hash: &str, created: &str, label: &str| {
                printable(&format!("{hash:<34} {created:<22} {label}"))
            };
            let rows = keys.iter().map(|key| row(&key.hash, &key.created, &key.label));
            let rows = std::iter::once(row("HASH", "CREATED", "LABEL")).chain(rows);
            Ok(rows.collect::<Vec<_>>().join("\n"))
        }
        EdgeKey::Get { .. } => Ok(String::new()),
    }
}

fn shown(key: &str, format: Format) -> String {
    match format {
        Format::Text => key.to_owned(),
        Format::Json => json!({ "key": key }).to_string(),
    }
}

/// Returns `true` if stdout is closed, or is `/dev/null`.
#[cfg(unix)]
fn is_stdout_discarded() -> bool {
    use std::{
        fs::{File, metadata},
        os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    };

    // Rust opens `/dev/null` in place of a closed stdout.
    let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let stdout = stdout.and_then(|stdout| stdout.metadata());
    matches!((stdout, metadata("/dev/null")), (Ok(it), Ok(null)) if it.rdev() == null.rdev())
}

#[cfg(not(unix))]
fn is_stdout_discarded() -> bool {
    false
}

fn check_id(what: &str, id: &str) -> Result<()> {
    let is_valid = !id.is_empty()
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    match is_valid {
        true => Ok(()),
        false => Err(Failure::usage(format!("this is not an {what}"))),
    }
}

fn check_hash(hash: &str) -> Result<()> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+=:".contains(&byte);
    match hash.len() >= 16 && hash.bytes().all(is_part) {
        true => Ok(()),
        false => Err(Failure::usage("this is not the hash of a key")
            .hint("`edge-key list` shows the hashes; a label is not enough")),
    }
}

/// Asks before a key is revoked for good.
fn confirm(hash: &str) -> Result<()> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("revoking a key cannot be undone").hint("confirm it with --yes"));
    }
    error_line(&format!("Revoke the key {hash}? This cannot be undone. [y/N]"));
    let mut reply = String::new();
    io::stdin().lock().read_line(&mut reply)?;
    match reply.trim().eq_ignore_ascii_case("y") {
        true => Ok(()),
        false => Err(Failure::usage("nothing was revoked")),
    }
}
