//! Removes secrets from text that comes from a server.

use std::ops::Range;

use url::form_urlencoded;
use zeroize::Zeroizing;

/// Removes a request's secrets from what the server said in its response.
#[derive(Clone)]
pub(crate) struct Redactor {
    pub(crate) secrets: Vec<Zeroizing<String>>,
}

impl Redactor {
    /// The longest text that is quoted from a server.
    const MAX_CHARS: usize = 300;

    /// The shortest secret of which a part, or another spelling, is recognized.
    const MIN_LETTERS: usize = 5;

    /// How many letters and digits of a secret in a row reveal it.
    const REVEALING: usize = 8;

    /// Returns a redactor that also removes `secret`.
    pub(crate) fn and(&self, secret: Zeroizing<String>) -> Self {
        let mut redactor = self.clone();
        redactor.secrets.push(secret);
        redactor
    }

    /// Returns a server's text in a form that is fit for a message: without secrets and control
    /// characters, and of limited length.
    ///
    /// A secret is removed both in plain and in percent-encoded form. If the text still contains a
    /// part of it, or the whole in another spelling, the whole text is removed.
    pub(crate) fn sanitize(&self, text: &str) -> String {
        // What is far behind the last character that can be shown is not searched.
        let shown = text.chars().filter(|&char| is_shown(char));
        let text: String = shown.take(4 * Self::MAX_CHARS).collect();
        let mut found = Vec::new();
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            // Always searched in the original text, because secrets may overlap.
            let own = occurrences(&text, secret);
            if Self::reveals(&without(&text, &own, "\n"), secret) {
                return "[redacted]".to_owned();
            }
            found.extend(own);
        }
        let shown = without(&text, &merged(found), "[redacted]");
        shown.chars().take(Self::MAX_CHARS).collect()
    }

    /// Returns `true` if a text contains a part of a secret. Only letters and digits count, without
    /// regard to case and to percent-encoding.
    fn reveals(text: &str, secret: &str) -> bool {
        let secret = Zeroizing::new(letters(secret));
        if secret.len() < Self::MIN_LETTERS {
            return false;
        }
        // `&` and `=` would separate the names and values of a form.
        let text = text.replace(['&', '='], " ");
        let decoded: String =
            form_urlencoded::parse(text.as_bytes()).map(|(text, _)| text).collect();
        let length = secret.len().min(Self::REVEALING);
        [&text, &decoded].into_iter().any(|text| {
            text.split('\n').any(|part| {
                let part = letters(part);
                part.windows(length).any(|run| secret.windows(length).any(|window| window == run))
            })
        })
    }
}

/// Returns `false` for characters that are invisible, control a terminal or change the direction of
/// writing.
fn is_shown(char: char) -> bool {
    !char.is_control()
        && !matches!(char, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Returns where a secret is in a text, in plain or in percent-encoded form.
fn occurrences(text: &str, secret: &str) -> Vec<Range<usize>> {
    let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let find = |spelling: &str| -> Vec<_> {
        text.match_indices(spelling).map(|(start, found)| start..start + found.len()).collect()
    };
    merged([find(secret), find(&encoded)].concat())
}

/// Joins ranges that overlap.
fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Replaces ranges of a text, which are in order and do not overlap.
fn without(text: &str, ranges: &[Range<usize>], replacement: &str) -> String {
    let mut shown = String::new();
    let mut end = 0;
    for range in ranges {
        shown.push_str(&text[end..range.start]);
        shown.push_str(replacement);
        end = range.end;
    }
    shown + &text[end..]
}

/// Returns the ASCII letters, in lower case, and digits of a text.
fn letters(text: &str) -> Vec<u8> {
    text.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase()).collect()
}
