//! Reads environment variables. An empty one is an error.

use std::env::{VarError, var};

use crate::{
    error::{Error, Result},
    text::trim,
};

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
