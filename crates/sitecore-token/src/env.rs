//! Reads environment variables. An empty one is an error.

use std::env::{VarError, var};

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    text::{check, trim},
};

/// Reads a secret from an environment variable; `None` if it is not set.
///
/// # Errors
///
/// [`Config`](crate::ErrorKind::Config) if it is empty or contains characters that no secret has.
/// The error names the variable and what to do.
#[doc(hidden)]
pub fn secret_from_env(name: &str) -> Result<Option<SecretString>> {
    let value = variable(name)?.map(Zeroizing::new);
    value.map(|value| check(name, &value).map(SecretString::from)).transpose()
}

/// Returns a variable's value without a byte order mark and surrounding white space, or `None` if
/// it is not set.
pub(crate) fn variable(name: &str) -> Result<Option<String>> {
    match var(name) {
        Ok(value) if trim(&value).is_empty() => Err(Error::config(format!(
            "the environment variable {name} is empty; set it or unset it"
        ))),
        Ok(value) => Ok(Some(trim(&value).to_owned())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(Error::config(format!(
            "the environment variable {name} is not valid UTF-8; set it to UTF-8 text"
        ))),
    }
}
