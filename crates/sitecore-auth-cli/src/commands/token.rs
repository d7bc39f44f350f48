//! `token`: prints a token.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use chrono::SecondsFormat;
use serde_json::json;
use sitecore_auth::{ErrorKind, Token, TokenCache};

use crate::{
    args::{self, Common, TokenFormat},
    config::Config,
    failure::{Failure, Result, for_shells},
    login::Login,
    terminal::{key_of, note, now, wait_for, words},
};

/// The version of the JSON object. It changes if a member is removed or gets another meaning.
const VERSION: u32 = 1;

const MIN_VALIDITY: Duration = Duration::from_secs(300);

pub(crate) async fn run(options: &args::Token, common: &Common, config: &Config) -> Result<String> {
    let login = Login::find(common, config, None)?;
    let work = async {
        let cache = login.cache(common).await?;
        let token = match options.force {
            true => login.new_token(common).await?,
            false => cache.token().await?,
        };
        lasting(options, &login, &cache, token).await
    };
    let token = wait_for(common, "requesting a token", work).await?;
    if io::stdout().is_terminal() {
        note(common, "the token below is a secret; do not paste it into chats or tickets");
    }
    print(options.format, &token)
}

/// Returns this token if it has enough time left, or else another one.
async fn lasting(
    options: &args::Token,
    login: &Login,
    cache: &TokenCache,
    token: Token,
) -> Result<Token> {
    // For a person's token, the cache counts from now on.
    let claimed = token.claims().and_then(|claims| claims.lifetime());
    let Some(lifetime) = claimed.or_else(|| token.lifetime()) else { return Ok(token) };
    let wanted = options.min_validity.unwrap_or_else(|| MIN_VALIDITY.min(lifetime / 2));
    let left = time_left(&token);
    if left >= wanted {
        return Ok(token);
    }
    if login.is_person() {
        let message =
            format!("the token of the Sitecore CLI's login has only {} left", words(left));
        return Err(
            Failure::config(message).hint("log in again with `dotnet sitecore cloud login`")
        );
    }
    if options.force {
        return Err(Failure::usage(format!("the new token has only {} left", words(left)))
            .hint("ask for less with --min-validity"));
    }
    cache.token_valid_for(wanted).await.map_err(|error| match error.kind() {
        // The issuer's tokens never last that long.
        ErrorKind::Config => Failure::usage(for_shells(&error.cause())),
        _ => Failure::from(error),
    })
}

/// Returns how long it is until the token expires.
pub(crate) fn time_left(token: &Token) -> Duration {
    let left = token.expires_at().map(|at| (at - now()).to_std().unwrap_or_default());
    left.unwrap_or_default()
}

fn print(format: TokenFormat, token: &Token) -> Result<String> {
    let (_, header) = token.header();
    let header = header.to_str().unwrap_or_default();
    let text = header.strip_prefix("Bearer ").unwrap_or(header);
    let expires_at = token.expires_at().map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
    // A bearer token contains no character that would end the quotation marks.
    let assign = |prefix: &str, equals: &str| {
        let expiry = expires_at.as_deref().unwrap_or_default();
        format!(
            "{prefix}SITECORE_ACCESS_TOKEN{equals}'{text}'\n\
             {prefix}SITECORE_ACCESS_TOKEN_EXPIRES_AT{equals}'{expiry}'"
        )
    };
    Ok(match format {
        TokenFormat::Token => text.to_owned(),
        TokenFormat::Header => format!("Authorization: {header}"),
        TokenFormat::Env => assign("export ", "="),
        TokenFormat::Powershell => assign("$env:", " = "),
        TokenFormat::Json => {
            let claims = token.claims();
            let scopes: Option<Vec<_>> =
                claims.as_ref().map(|claims| claims.scopes().map(str::to_owned).collect());
            let kind = claims.as_ref().and_then(sitecore_auth::Claims::client_kind);
            let object = json!({
                "version": VERSION,
                "access_token": text,
                "token_type": "Bearer",
                "expires_at": expires_at,
                "expires_on": token.expires_at().map(|at| at.timestamp()),
                "expires_in": time_left(token).as_secs(),
                "scope": scopes.map(|scopes| scopes.join(" ")),
                "client_kind": kind.map(key_of),
                "fingerprint": token.fingerprint().to_string(),
            });
            object.to_string()
        }
    })
}
