//! `inspect`: shows whom the token belongs to.

use chrono::SecondsFormat;
use serde_json::json;
use sitecore_auth::Claims;

use super::token::time_left;
use crate::{
    args::{Common, Format, Inspect},
    config::Config,
    failure::Result,
    login::Login,
    terminal::{bar, key_of, printable, wait_for, words},
};

pub(crate) async fn run(options: &Inspect, common: &Common, config: &Config) -> Result<String> {
    let login = Login::find(common, config, None)?;
    let token = async { Ok(login.cache(common).await?.token().await?) };
    let token = wait_for(common, "requesting a token", token).await?;
    // A token that is not a JWT says nothing about itself.
    let claims = token.claims().unwrap_or_default();
    let kind = claims.client_kind();
    let left = time_left(&token);
    let lifetime = claims.lifetime().or_else(|| token.lifetime()).unwrap_or_default();
    let expires_at = token.expires_at().map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
    let named = |name: &str, id: &str| match (claims.sitecore(name), claims.sitecore(id)) {
        (Some(name), Some(id)) => Some(format!("{name} ({id})")),
        (name, id) => name.or(id).map(str::to_owned),
    };
    let organization = named("org_name", "org_id");
    // An environment is a tenant in Sitecore's claims.
    let environment = named("tenant_name", "tenant_id");
    if options.output.format == Format::Json {
        let object = json!({
            "version": 1,
            "source": login.place,
            "client_kind": kind.map(key_of),
            "client_id": claims.client_id(),
            "organization_id": claims.sitecore("org_id"),
            "organization": claims.sitecore("org_name"),
            "tenant_id": claims.sitecore("tenant_id"),
            "tenant": claims.sitecore("tenant_name"),
            "scopes": claims.scopes().collect::<Vec<_>>(),
            "audiences": claims.audiences().collect::<Vec<_>>(),
            "expires_at": expires_at,
            "expires_on": token.expires_at().map(|at| at.timestamp()),
            "expires_in": left.as_secs(),
            "lifetime": lifetime.as_secs(),
            "fingerprint": token.fingerprint().to_string(),
        });
        return Ok(object.to_string());
    }
    let part = left.as_secs_f64() / lifetime.as_secs_f64().max(1.0);
    let kind_text = kind.map_or_else(unknown, |kind| kind.to_string());
    let mut rows = vec![
        ("client", kind_text),
        ("client id", claims.client_id().map_or_else(unknown, str::to_owned)),
        ("organization", organization.unwrap_or_else(none)),
        ("environment", environment.unwrap_or_else(none)),
        ("scopes", scopes(&claims)),
        ("time left", format!("{} {} of {}", bar(part, 20), words(left), words(lifetime))),
        ("expires", expires_at.unwrap_or_else(unknown)),
        ("fingerprint", token.fingerprint().to_string()),
        ("credentials", login.place),
    ];
    if token.claims().is_none() {
        rows.push(("note", "the token is not a JWT, so it says nothing about itself".to_owned()));
    } else if kind.is_none() {
        let note = "if this is an editing host's client, it has access to none of these APIs";
        rows.push(("note", note.to_owned()));
    }
    let lines = rows.iter().map(|(name, value)| format!("{name:<13} {}", printable(value)));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn scopes(claims: &Claims) -> String {
    let scopes: Vec<_> = claims.scopes().collect();
    if scopes.is_empty() { none() } else { scopes.join(" ") }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn none() -> String {
    "none in the token".to_owned()
}
