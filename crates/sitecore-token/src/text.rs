//! Checks text that people copy into files and variables: ids and secrets.

use crate::error::{Error, Result};

/// Returns a text without its byte order mark, which .NET and PowerShell write, and without
/// surrounding white space.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// Trims an id or a secret from a file, a variable or standard input, and checks its characters.
/// `place` says where it comes from.
///
/// # Errors
///
/// [`Config`](crate::ErrorKind::Config) if it is empty, is enclosed in quotation marks, or contains
/// anything but printable ASCII ([RFC 6749 appendix A]). Such a character is usually a mistake in
/// copying, and the issuer would refuse the client for it.
///
/// [RFC 6749 appendix A]: https://www.rfc-editor.org/rfc/rfc6749#appendix-A
#[doc(hidden)]
pub fn check<'a>(place: &str, text: &'a str) -> Result<&'a str> {
    let text = trim(text);
    let invalid = |what: &str| Err(Error::config(format!("{place} {what}")));
    let enclosed_in =
        |quote: char| text.strip_prefix(quote).is_some_and(|rest| rest.ends_with(quote));
    if text.is_empty() {
        return invalid("is empty; put the value there");
    }
    if enclosed_in('"') || enclosed_in('\'') {
        return invalid("is enclosed in quotation marks; remove them");
    }
    match text.char_indices().find(|(_, char)| !(' '..='~').contains(char)) {
        None => Ok(text),
        Some((at, char)) => invalid(&format!(
            "contains the character {char:?} (U+{:04X}) at byte {at}; copy the value again, because only printable ASCII is allowed",
            u32::from(char)
        )),
    }
}
