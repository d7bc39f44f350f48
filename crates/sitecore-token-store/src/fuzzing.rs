//! Entry points for the fuzz targets: sealing and reading entries, without a store.

use std::time::Duration;

use sitecore_auth::{Result, Token};

use crate::{entry::Entry, seal::Seal};

fn fixed_seal() -> Seal {
    Seal::derive(&"a-key-of-thirty-two-bytes-and-more".into(), "context")
}

/// Seals a text, always with the same key.
pub fn seal(text: &[u8]) -> Vec<u8> {
    fixed_seal().seal(text)
}

/// Opens a text that was sealed with that key.
pub fn open(sealed: &[u8]) -> Option<Vec<u8>> {
    fixed_seal().open(sealed).map(|text| text.to_vec())
}

/// Reads an entry and returns what a process would adopt from it at this time.
pub fn adopt(text: &[u8], now: Duration, remaining: Option<Duration>) -> Option<Result<Token>> {
    let entry = Entry::decode(text, now, remaining)?;
    match entry.token(None, now) {
        Some(token) => Some(Ok(token)),
        None => entry.failure(now, 1).map(|failure| Err(failure.error)),
    }
}
