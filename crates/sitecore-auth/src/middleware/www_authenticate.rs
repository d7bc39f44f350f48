//! Whether the challenges of a 401 or 403 reject the token.

use http::{HeaderMap, header::WWW_AUTHENTICATE};

/// Returns `true` if a 401 with these headers rejects the token ([RFC 9110 §11.6.1]).
///
/// It does if there is no challenge at all, as with Sitecore's own APIs, or a challenge for Bearer.
/// It does not if every Bearer challenge says `insufficient_scope` ([RFC 6750 §3.1]), because
/// another token would not help. If all challenges are for other schemes, the server has not looked
/// at the token.
///
/// [RFC 9110 §11.6.1]: https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1
/// [RFC 6750 §3.1]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1
pub(crate) fn rejects_token(headers: &HeaderMap) -> bool {
    let challenges = challenges(headers);
    let mut bearer = challenges.iter().filter(|challenge| challenge.is_bearer());
    challenges.is_empty() || bearer.any(|challenge| challenge.error != "insufficient_scope")
}

/// Returns `true` if a challenge says `invalid_token` ([RFC 6750 §3.1]), as some servers do with a
/// 403.
///
/// [RFC 6750 §3.1]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1
pub(crate) fn says_invalid_token(headers: &HeaderMap) -> bool {
    let says_so = |it: &Challenge| it.is_bearer() && it.error == "invalid_token";
    challenges(headers).iter().any(says_so)
}

struct Challenge {
    scheme: String,
    /// The parameter `error`, empty if there is none.
    error: String,
}

impl Challenge {
    fn is_bearer(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("bearer")
    }
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let lines = headers.get_all(WWW_AUTHENTICATE).iter();
    lines.flat_map(|line| parse(&String::from_utf8_lossy(line.as_bytes()))).collect()
}

/// Parses one line of challenges, each a scheme with parameters or a token68. A missing comma or a
/// stray character does not invalidate what follows.
fn parse(line: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let word = &rest[..prefix_len(rest, is_token_char)];
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
                // Some servers do not quote URLs.
                let length = prefix_len(value, |byte| !b",; \t".contains(&byte));
                (value[..length].trim_matches('\'').to_owned(), length)
            };
            if let Some(challenge) =
                challenges.last_mut().filter(|_| word.eq_ignore_ascii_case("error"))
            {
                challenge.error = text;
            }
            rest = &value[length..];
        } else {
            challenges.push(Challenge { scheme: word.to_owned(), error: String::new() });
            rest = after;
        }
    }
    challenges
}

/// Returns the unquoted text of a quoted string, and the length of the string with its quotes. A
/// missing end quote is implied at the end of the line.
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

fn prefix_len(text: &str, belongs: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|byte| belongs(*byte)).count()
}

fn first_char(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

/// The characters of a token (RFC 9110 §5.6.2) and the slash. Together they also cover a token68
/// (§11.2) without its trailing `=`, which is then parsed as another scheme or a parameter, but
/// never as Bearer.
fn is_token_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn challenges_are_parsed_leniently() {
        for (lines, rejected) in [
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
            (&["Bearer realm=https://x.example/a, error=\"insufficient_scope\""], false),
            (&["Basic realm=https://x.example/Bearer/a"], false),
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
            (&["Bearer error='insufficient_scope'"], false),
            (&["Bearer realm=a;error=insufficient_scope; scope=x"], false),
            (&["Bearer realm=\"\u{fc}\", error=\"insufficient\\_scope\""], false),
            (&["Bearer error=insufficient_scope", "Bearer error=insufficient_scope"], false),
            (&["Bearer", "Bearer error=\"insufficient_scope\""], true),
            (&["Bearer error=insufficient_scope, Bearer error=invalid_token"], true),
        ] {
            let value = |line: &&str| HeaderValue::from_bytes(line.as_bytes()).expect("a value");
            let headers = lines.iter().map(|line| (WWW_AUTHENTICATE, value(line)));
            assert_eq!(rejects_token(&headers.collect()), rejected, "{lines:?}");
        }
    }

    #[test]
    fn a_challenge_can_say_that_the_token_is_invalid() {
        for (line, expected) in [
            ("Bearer error=\"invalid_token\"", true),
            ("Basic realm=a, bearer realm=https://x.example/a, error=invalid_token", true),
            ("Bearer realm=a; error='invalid_token'; x=y", true),
            ("Bearer error=\"insufficient_scope\"", false),
            ("Basic error=\"invalid_token\"", false),
            ("Bearer", false),
        ] {
            let value = HeaderValue::from_static(line);
            let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, value)]);
            assert_eq!(says_invalid_token(&headers), expected, "{line}");
        }
    }
}
