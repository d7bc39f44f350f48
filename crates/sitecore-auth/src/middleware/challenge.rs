//! Whether an answer 401 says that the token is no good.

use http::{HeaderMap, header::WWW_AUTHENTICATE};

/// Reads the challenges of an answer 401 ([RFC 9110 §11.6.1]).
///
/// It is a refusal of the token if there is no challenge at all, as with Sitecore's own APIs, or one for
/// Bearer; but not one of `insufficient_scope` ([RFC 6750 §3.1]), which no other token would mend. If all
/// challenges are of other schemes, the server did not look at the token.
///
/// [RFC 9110 §11.6.1]: https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1
/// [RFC 6750 §3.1]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1
pub(crate) fn refuses_token(headers: &HeaderMap) -> bool {
    let (mut others, mut bearer) = (false, false);
    for line in headers.get_all(WWW_AUTHENTICATE) {
        for challenge in challenges(&String::from_utf8_lossy(line.as_bytes())) {
            if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                others = true;
            } else if challenge.error == "insufficient_scope" {
                return false;
            } else {
                bearer = true;
            }
        }
    }
    bearer || !others
}

struct Challenge<'a> {
    scheme: &'a str,
    /// The parameter `error`, empty if there is none.
    error: String,
}

/// Reads one line of challenges: schemes, each with parameters or a token68. Lenient: a forgotten comma or
/// a stray character ends nothing but itself.
fn challenges(line: &str) -> Vec<Challenge<'_>> {
    let mut challenges: Vec<Challenge<'_>> = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let word = &rest[..span(rest, is_word)];
        rest = &rest[word.len()..];
        if word.is_empty() {
            let skipped = if rest.starts_with('"') { quoted(rest).1 } else { first_char(rest) };
            rest = &rest[skipped..];
            continue;
        }
        let after = rest.trim_start_matches([' ', '\t']);
        if let Some(value) = after.strip_prefix('=') {
            let value = value.trim_start_matches([' ', '\t']);
            let (text, length) = if value.starts_with('"') {
                quoted(value)
            } else {
                let length = span(value, is_word);
                (value[..length].to_owned(), length)
            };
            if let Some(challenge) =
                challenges.last_mut().filter(|_| word.eq_ignore_ascii_case("error"))
            {
                challenge.error = text;
            }
            rest = &value[length..];
        } else {
            challenges.push(Challenge { scheme: word, error: String::new() });
            rest = after;
        }
    }
    challenges
}

/// Returns the text of a quoted string, and how long it is with its quotes; one that does not end goes to
/// the end of the line.
fn quoted(text: &str) -> (String, usize) {
    let (mut unquoted, mut escaped) = (String::new(), false);
    for (at, char) in text.char_indices().skip(1) {
        match char {
            _ if escaped => {
                unquoted.push(char);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (unquoted, at + 1),
            _ => unquoted.push(char),
        }
    }
    (unquoted, text.len())
}

fn span(text: &str, belongs: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|byte| belongs(*byte)).count()
}

fn first_char(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

/// The characters of a token (RFC 9110 §5.6.2), and the slash, with which they are also those of a token68
/// (§11.2) but for the `=` at its end: it counts as a scheme of its own or a parameter, and as no Bearer.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn challenges_are_read_as_they_are_written() {
        for (lines, refused) in [
            (&[][..], true),
            (&[""], true),
            (&[" , ,"], true),
            (&["Bearer"], true),
            (&["bearer realm=\"a, Basic b\""], true),
            (&["Bearer error=\"invalid_token\", error_description=\"x \\\" Basic\""], true),
            (&["Basic realm=\"a\"", "Bearer"], true),
            (&["Basic realm=\"a, b\", Bearer realm=c"], true),
            (&["Negotiate YWJj==, Bearer error=\"invalid_token\""], true),
            (&["Basic realm=\"a\" charset=\"UTF-8\", Bearer error=invalid_token"], true),
            (&[", Bearer abc=="], true),
            (&["Basic realm=\"a\""], false),
            (&["Negotiate"], false),
            (&["Negotiate YWJj=="], false),
            (&["Negotiate YW/bearer=="], false),
            (&["Negotiate YW/bearer/b"], false),
            (&["B\u{e4}sic realm=\"a\""], false),
            (&["Basic realm=\"\\\", Bearer \""], false),
            (&["Basic realm=\"Bearer\", Digest nonce=\"Bearer x\""], false),
            (&["Basic realm=\"Gesch\u{fffd}tzt\""], false),
            (&["Basic realm=\"never ends, Bearer"], false),
            (&["Bearer error=\"insufficient_scope\", scope=\"a\""], false),
            (&["Bearer realm=\"x\" error=\"insufficient_scope\""], false),
            (&["bearer  ERROR = insufficient_scope"], false),
            (&["Bearer realm=\"\u{fc}\", error=\"insufficient\\_scope\""], false),
            (&["Bearer", "Bearer error=\"insufficient_scope\""], false),
        ] {
            let value = |line: &&str| HeaderValue::from_bytes(line.as_bytes()).expect("a value");
            let headers = lines.iter().map(|line| (WWW_AUTHENTICATE, value(line)));
            assert_eq!(refuses_token(&headers.collect()), refused, "{lines:?}");
        }
    }
}
