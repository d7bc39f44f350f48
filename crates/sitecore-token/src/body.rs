//! Reads the JSON of a token answer: strictly, where two readings are possible; leniently, where servers
//! are known to differ.

use std::{borrow::Cow, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Error, Result, sitecore_cli::without_bom};

/// Longest life that is believed: beyond it somebody mistyped, and renewal must still happen.
pub const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Longest token: servers reject headers well below this size.
const MAX_TOKEN_BYTES: usize = 32 * 1024;

/// Deepest nesting; a token response has one level.
const MAX_DEPTH: usize = 32;

/// The members that mean something (RFC 6749 §5.1 and §5.2); others are skipped and not kept.
#[derive(Deserialize)]
pub(crate) struct Members<'a> {
    #[serde(borrow)]
    pub(crate) access_token: Option<&'a RawValue>,
    pub(crate) token_type: Option<&'a RawValue>,
    pub(crate) expires_in: Option<&'a RawValue>,
    pub(crate) scope: Option<&'a RawValue>,
    pub(crate) error: Option<&'a RawValue>,
    pub(crate) error_description: Option<&'a RawValue>,
}

/// Why a body could not be read. The parser's own words are not kept: they can quote the body.
pub(crate) struct Unreadable {
    pub(crate) what: &'static str,
    /// Probably not the issuer's, or torn: the next answer may be whole.
    pub(crate) may_pass: bool,
}

impl<'a> Members<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Unreadable> {
        let json = without_bom(body);
        // Derived code takes an array for an object.
        if json.trim_ascii_start().first() == Some(&b'[') {
            return Err(Unreadable { what: "is no JSON object", may_pass: false });
        }
        if depth(json) > MAX_DEPTH {
            return Err(Unreadable { what: "is nested too deeply", may_pass: false });
        }
        let mut reader = serde_json::Deserializer::from_slice(json);
        let members = Self::deserialize(&mut reader).map_err(|error| match error.is_data() {
            true => {
                Unreadable { what: "is no JSON object, or names a member twice", may_pass: false }
            }
            false => Unreadable { what: "is not JSON", may_pass: true },
        })?;
        let end = reader.end();
        end.map_err(|_| Unreadable { what: "goes on behind its JSON", may_pass: false })?;
        Ok(members)
    }
}

/// Returns how deep brackets nest outside strings, without recursion: the parser skips unknown members
/// however deep they are.
fn depth(json: &[u8]) -> usize {
    let (mut open, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

pub(crate) fn text<'a>(name: &str, value: Option<&'a RawValue>) -> Result<Option<Cow<'a, str>>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    let Some(value) = value else { return Ok(None) };
    match serde_json::from_str(value.get()) {
        Ok(Text(text)) => Ok(Some(text)),
        Err(_) => Err(Error::malformed(format!("`{name}` in the token answer is not a string"))),
    }
}

/// Reads `expires_in`: a number, or a text that holds one, as some servers write it. Fractions are floored,
/// but a fraction alone is not zero, which would mean "not said".
pub(crate) fn lifetime(value: &RawValue) -> Result<Duration> {
    let said = value.get().trim_matches('"').trim();
    let seconds =
        said.parse::<f64>().ok().filter(|_| said.starts_with(|first: char| first.is_ascii_digit()));
    let seconds = seconds.ok_or_else(|| {
        Error::malformed("`expires_in` in the token answer is not a number of seconds")
    })?;
    let whole = if seconds < 1.0 { seconds } else { seconds.floor() };
    Ok(Duration::from_secs_f64(whole.min(MAX_LIFETIME.as_secs_f64())))
}

/// Checks that a text can be sent as `Authorization: Bearer …`: RFC 6750's `b64token`, of bearable size.
///
/// # Errors
///
/// [`Malformed`](crate::ErrorKind::Malformed); the text itself is never part of the message.
pub fn check_bearer(token: &str) -> Result<()> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Error::malformed(format!(
            "the token is {} bytes long, more than the {MAX_TOKEN_BYTES} that a header can carry",
            token.len()
        )));
    }
    let body = token.trim_end_matches('=');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    match body.bytes().all(allowed) {
        _ if body.is_empty() => Err(Error::malformed("the token is empty")),
        true => Ok(()),
        false => Err(Error::malformed(
            "the token has characters that no bearer token may have (RFC 6750 §2.1)",
        )),
    }
}
