//! A client id and its secret, always from the same place.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::{
    env::variable,
    error::{Error, Result},
    text::check,
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
    /// Creates credentials from an id and a secret, which are used unchanged.
    ///
    /// An empty id or secret is reported when a client is built.
    pub fn new(client_id: impl Into<String>, client_secret: impl Into<SecretString>) -> Self {
        Self { client_id: client_id.into(), client_secret: client_secret.into() }
    }

    /// Reads `SITECORE_AUTH_CLIENT_ID` and `SITECORE_AUTH_CLIENT_SECRET`; if neither is set,
    /// `SITECORE_CLIENT_ID` and `SITECORE_CLIENT_SECRET`.
    ///
    /// A byte order mark and surrounding white space are removed.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if a variable is missing or empty, is enclosed in
    /// quotation marks, or contains a character other than printable ASCII. The error names the
    /// variable and the character. An incomplete pair is never completed from the other pair.
    pub fn from_env() -> Result<Self> {
        match pair("SITECORE_AUTH")? {
            Some(credentials) => Ok(credentials),
            None => pair("SITECORE")?.ok_or_else(|| missing_pair(
                "SITECORE_AUTH_CLIENT_ID and SITECORE_AUTH_CLIENT_SECRET (or SITECORE_CLIENT_ID and SITECORE_CLIENT_SECRET)",
            )),
        }
    }

    /// Reads `<prefix>_CLIENT_ID` and `<prefix>_CLIENT_SECRET`, such as `SITECORE_EDGE_CLIENT_ID`
    /// for the prefix `SITECORE_EDGE`. Use it in programs with several clients.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub fn from_env_prefix(prefix: impl AsRef<str>) -> Result<Self> {
        let prefix = prefix.as_ref();
        pair(prefix)?
            .ok_or_else(|| missing_pair(&format!("{prefix}_CLIENT_ID and {prefix}_CLIENT_SECRET")))
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

    pub(crate) fn check_present(&self) -> Result<()> {
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

/// Reads a pair of variables; `None` if neither is set.
fn pair(prefix: &str) -> Result<Option<ClientCredentials>> {
    let (id_name, secret_name) = (format!("{prefix}_CLIENT_ID"), format!("{prefix}_CLIENT_SECRET"));
    let incomplete = |present: &str, missing: &str| {
        Err(Error::config(format!("{present} is set but {missing} is not; set both or neither")))
    };
    match (variable(&id_name)?, variable(&secret_name)?.map(Zeroizing::new)) {
        (Some(id), Some(secret)) => {
            Ok(Some(ClientCredentials::new(check(&id_name, &id)?, check(&secret_name, &secret)?)))
        }
        (Some(_), None) => incomplete(&id_name, &secret_name),
        (None, Some(_)) => incomplete(&secret_name, &id_name),
        (None, None) => Ok(None),
    }
}

fn missing_pair(names: &str) -> Error {
    Error::config(format!("no credentials in the environment; set {names}"))
}
