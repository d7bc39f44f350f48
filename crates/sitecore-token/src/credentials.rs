//! A client id and its secret, always from the same place.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use crate::{
    env::variable,
    error::{Error, Result},
};

/// The id and the secret of an automation client.
///
/// `Debug` shows the id but never the secret. The secret is overwritten in memory when the last
/// copy is dropped.
#[derive(Clone)]
pub struct ClientCredentials {
    client_id: String,
    client_secret: SecretString,
}

impl ClientCredentials {
    /// Creates credentials from an id and a secret. Trailing line breaks, which secrets read from
    /// files often have, are removed from both.
    ///
    /// An empty id or secret is reported when a client is built.
    pub fn new(client_id: impl Into<String>, client_secret: impl Into<SecretString>) -> Self {
        let (client_id, secret) = (client_id.into(), client_secret.into());
        let line_breaks = ['\r', '\n'];
        Self {
            client_id: client_id.trim_end_matches(line_breaks).to_owned(),
            client_secret: match secret.expose_secret().trim_end_matches(line_breaks) {
                trimmed if trimmed.len() < secret.expose_secret().len() => trimmed.into(),
                _ => secret,
            },
        }
    }

    /// Reads `SITECORE_AUTH_CLIENT_ID` and `SITECORE_AUTH_CLIENT_SECRET`; if neither is set,
    /// `SITECORE_CLIENT_ID` and `SITECORE_CLIENT_SECRET`.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if a variable is missing or empty. The error names it.
    /// An incomplete pair is never completed from the other one.
    pub fn from_env() -> Result<Self> {
        const PAIRS: [[&str; 2]; 2] = [
            ["SITECORE_AUTH_CLIENT_ID", "SITECORE_AUTH_CLIENT_SECRET"],
            ["SITECORE_CLIENT_ID", "SITECORE_CLIENT_SECRET"],
        ];
        for [id_name, secret_name] in PAIRS {
            return match (variable(id_name)?, variable(secret_name)?.map(SecretString::from)) {
                (Some(id), Some(secret)) => Ok(Self::new(id.trim(), secret)),
                (Some(_), None) => Err(incomplete_pair(id_name, secret_name)),
                (None, Some(_)) => Err(incomplete_pair(secret_name, id_name)),
                (None, None) => continue,
            };
        }
        Err(Error::config(
            "no credentials in the environment; set SITECORE_AUTH_CLIENT_ID and SITECORE_AUTH_CLIENT_SECRET (or SITECORE_CLIENT_ID and SITECORE_CLIENT_SECRET)",
        ))
    }

    /// Returns the client id, which is not secret.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Returns the secret, in a type that does not print it.
    #[must_use]
    pub fn client_secret(&self) -> &SecretString {
        &self.client_secret
    }

    pub(crate) fn check(&self) -> Result<()> {
        let missing = match (&*self.client_id, self.client_secret.expose_secret()) {
            (id, _) if id.trim().is_empty() => "id",
            (_, secret) if secret.trim().is_empty() => "secret",
            _ => return Ok(()),
        };
        Err(Error::config(format!(
            "the client {missing} is empty; use the one that Sitecore displayed when the automation client was created"
        )))
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentials")
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

fn incomplete_pair(present: &str, missing: &str) -> Error {
    Error::config(format!("{present} is set but {missing} is not; set both or neither"))
}
