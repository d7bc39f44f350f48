//! Parses the JSON of a token response: strictly where it is ambiguous, and leniently where servers
//! are known to differ.

use std::{borrow::Cow, fmt, time::Duration};

use serde::{
    Deserialize, Deserializer as _,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Longest accepted lifetime; 30 days. A misconfigured issuer must not disable refreshing.
pub const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Longest accepted token. Servers reject headers well below this size.
const MAX_TOKEN_BYTES: usize = 32 * 1024;

/// Deepest accepted nesting. A token response has one level.
const MAX_DEPTH: usize = 32;

/// The fields that we use (RFC 6749 §5.1 and §5.2). All others are ignored and not stored.
#[derive(Deserialize)]
pub(crate) struct Fields<'a> {
    #[serde(borrow)]
    pub(crate) access_token: Option<&'a RawValue>,
    pub(crate) token_type: Option<&'a RawValue>,
    pub(crate) expires_in: Option<&'a RawValue>,
    pub(crate) scope: Option<&'a RawValue>,
}

/// The fields of an OAuth error, as far as they can be read. A body with a token is read too, so
/// all copies are overwritten.
#[derive(Default)]
pub(crate) struct ErrorFields {
    pub(crate) code: Option<Zeroizing<String>>,
    pub(crate) description: Option<Zeroizing<String>>,
    /// Should not be there, and must not be shown.
    pub(crate) access_token: Option<Zeroizing<String>>,
}

impl ErrorFields {
    /// Reads what it can. The body may be cut off. The first of duplicate keys counts. Text that is
    /// not UTF-8 is read as Latin-1. Strings may contain line breaks and backslashes that are not
    /// escaped.
    pub(crate) fn read(body: &[u8]) -> Self {
        let mut fields = Self::default();
        let text = escape(&decode(without_bom(body)));
        // An error only means that nothing more can be read.
        let _ = serde_json::Deserializer::from_str(&text).deserialize_map(&mut fields);
        fields
    }
}

impl<'de> Visitor<'de> for &mut ErrorFields {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<Cow<'_, str>>()? {
            let value = members.next_value::<&RawValue>()?;
            let field = match &*name {
                "error" => &mut self.code,
                "error_description" => &mut self.description,
                "access_token" => &mut self.access_token,
                _ => continue,
            };
            if field.is_none() {
                *field = serde_json::from_str(value.get()).ok().map(Zeroizing::new);
            }
        }
        Ok(())
    }
}

/// Decodes text that should be UTF-8, whose last character may be cut off.
fn decode(text: &[u8]) -> Zeroizing<String> {
    // Large enough for any text, because growing would leave a copy.
    let mut decoded = Zeroizing::new(String::with_capacity(2 * text.len()));
    match std::str::from_utf8(text) {
        Ok(text) => decoded.push_str(text),
        Err(error) if error.error_len().is_none() => {
            let valid = std::str::from_utf8(&text[..error.valid_up_to()]);
            decoded.push_str(valid.unwrap_or_default());
        }
        Err(_) => decoded.extend(text.iter().map(|byte| char::from(*byte))),
    }
    decoded
}

/// Makes JSON that was written by hand readable: control characters become spaces, and a backslash
/// that begins no escape stands for itself.
fn escape(json: &str) -> Zeroizing<String> {
    // Large enough for any body, because growing would leave a copy.
    let mut escaped = Zeroizing::new(String::with_capacity(2 * json.len()));
    let mut rest = json.chars();
    while let Some(char) = rest.next() {
        match char {
            '\\' => {
                let next = rest.as_str();
                let is_hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                let is_escape = match next.chars().next() {
                    Some('u') => next.get(1..5).is_some_and(is_hex),
                    next => next.is_some_and(|char| "\"\\/bfnrt".contains(char)),
                };
                escaped.push_str(if is_escape { "\\" } else { "\\\\" });
                if is_escape {
                    escaped.extend(rest.next());
                }
            }
            char if char.is_control() => escaped.push(' '),
            char => escaped.push(char),
        }
    }
    escaped
}

/// Why a body could not be parsed. The parser's own message is discarded, because it can quote the
/// body.
pub(crate) struct ParseError {
    pub(crate) what: &'static str,
    /// The body is truncated or probably not from the issuer, so the next response may be complete.
    pub(crate) transient: bool,
}

impl<'a> Fields<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, ParseError> {
        let json = without_bom(body);
        // Derived code also accepts an array as an object.
        if json.trim_ascii_start().first() == Some(&b'[') {
            return Err(ParseError { what: "is not a JSON object", transient: false });
        }
        if depth(json) > MAX_DEPTH {
            return Err(ParseError { what: "is nested too deeply", transient: false });
        }
        let mut reader = serde_json::Deserializer::from_slice(json);
        let fields = Self::deserialize(&mut reader).map_err(|error| match error.is_data() {
            true => {
                ParseError { what: "has duplicate keys or is not a JSON object", transient: false }
            }
            false => ParseError { what: "is not JSON", transient: true },
        })?;
        let end = reader.end();
        end.map_err(|_| ParseError { what: "has trailing data after the JSON", transient: false })?;
        Ok(fields)
    }
}

/// Returns how deeply brackets are nested outside strings. Not recursive, because the parser skips
/// unknown fields of any depth.
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

pub(crate) fn parse_text<'a>(
    name: &str,
    value: Option<&'a RawValue>,
) -> Result<Option<Cow<'a, str>>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    let Some(value) = value else { return Ok(None) };
    match serde_json::from_str(value.get()) {
        Ok(Text(text)) => Ok(Some(text)),
        Err(_) => Err(Error::malformed(format!("`{name}` in the token response is not a string"))),
    }
}

/// Parses `expires_in`: a number, or a string with a number, as some servers write it. Fractions
/// are rounded down, except below one second, because zero means "not specified".
pub(crate) fn parse_lifetime(value: &RawValue) -> Result<Duration> {
    let text: Option<String> = serde_json::from_str(value.get()).ok();
    let text = text.as_deref().unwrap_or_else(|| value.get()).trim();
    let seconds =
        text.parse::<f64>().ok().filter(|_| text.starts_with(|first: char| first.is_ascii_digit()));
    let seconds = seconds.ok_or_else(|| {
        Error::malformed("`expires_in` in the token response is not a number of seconds")
    })?;
    let whole = if seconds < 1.0 { seconds } else { seconds.floor() };
    Ok(Duration::from_secs_f64(whole.min(MAX_LIFETIME.as_secs_f64())))
}

/// Removes the byte order mark that .NET writes before UTF-8, and white space before it.
pub(crate) fn without_bom(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii_start();
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Checks that a text can be sent as `Authorization: Bearer …`: it must be a `b64token` (RFC 6750
/// §2.1) that is short enough for a header.
///
/// # Errors
///
/// [`Malformed`](crate::ErrorKind::Malformed). The message never contains the text.
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
            "the token has characters that are not allowed in a bearer token (RFC 6750 §2.1)",
        )),
    }
}
