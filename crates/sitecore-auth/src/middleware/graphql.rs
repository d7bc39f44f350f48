//! What a GraphQL answer with status 200 says about the token, and what a GraphQL request may change.
//!
//! Pure functions of bytes. Both are strict, because a request that is sent again must not repeat what was
//! executed.

use std::{borrow::Cow, collections::BTreeMap};

use reqwest::{Body, Method, Request};
use serde::Deserialize;
use serde_json::Value;

/// The code that Authoring gives to a call whose token is missing, expired or for another audience.
const NOT_AUTHENTICATED: &str = "AUTH_NOT_AUTHENTICATED";

/// What the start of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing yet: more must be read.
    Open,
    /// It is no refusal of the token.
    Accepted,
    /// Every field was refused: nothing was executed.
    Refused,
    /// All errors are refusals, but there is no data to show that nothing else was executed.
    RefusedInPart,
}

/// Reads the start of an answer, and decides as soon as what is there allows it.
pub(crate) fn read(start: &[u8]) -> Verdict {
    if !matches!(without_space(start).first(), None | Some(b'{')) {
        return Verdict::Accepted;
    }
    // Not to the end of the text: what stands behind the object changes nothing.
    match Answer::deserialize(&mut serde_json::Deserializer::from_slice(start)) {
        Ok(answer) => answer.verdict(),
        Err(error) if error.is_eof() => Verdict::Open,
        Err(_) => Verdict::Accepted,
    }
}

/// Tells whether the answer's first member is, or can still become, `errors`.
pub(crate) fn may_begin_with_errors(start: &[u8]) -> bool {
    const NAME: &[u8] = b"\"errors\"";
    let is_brace = |start: &[u8]| start.first().is_none_or(|byte| *byte == b'{');
    let start = without_space(start);
    let name = without_space(start.get(1..).unwrap_or_default());
    is_brace(start)
        && name
            .iter()
            .zip(NAME)
            .all(|(byte, expected)| byte == expected)
}

/// Tells whether the request may be a mutation: it is one unless it can be read and the word does not
/// occur in its document.
pub(super) fn may_be_mutation(request: &Request) -> bool {
    // GET executes no mutation (GraphQL over HTTP §6.2).
    if request.method() == Method::GET || request.method() == Method::HEAD {
        return false;
    }
    let body = request.body().and_then(Body::as_bytes).unwrap_or_default();
    serde_json::from_slice(body).map_or(true, |Operation { query }| {
        let is_part = |char: char| char.is_alphanumeric() || char == '_';
        query
            .split(|char| !is_part(char))
            .any(|word| word == "mutation")
    })
}

fn without_space(text: &[u8]) -> &[u8] {
    let space = text.iter().take_while(|byte| b" \t\r\n".contains(byte));
    &text[space.count()..]
}

#[derive(Deserialize)]
struct Operation<'a> {
    #[serde(borrow)]
    query: Cow<'a, str>,
}

/// Fails to be read as soon as it cannot be a refusal any more.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    errors: Vec<NotAuthenticated>,
    /// Members that are null.
    #[serde(default)]
    data: Option<BTreeMap<String, ()>>,
}

/// An error of this code, with the member of `data` that it names.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct NotAuthenticated(Option<String>);

impl Answer {
    fn verdict(&self) -> Verdict {
        let is_named = |member| {
            let names = self.errors.iter().filter_map(|error| error.0.as_ref());
            names.into_iter().any(|name| name == member)
        };
        match &self.data {
            _ if self.errors.is_empty() => Verdict::Accepted,
            None => Verdict::RefusedInPart,
            Some(data) if data.keys().all(is_named) => Verdict::Refused,
            Some(_) => Verdict::Accepted,
        }
    }
}

impl TryFrom<Value> for NotAuthenticated {
    type Error = &'static str;

    fn try_from(error: Value) -> Result<Self, Self::Error> {
        if error.pointer("/extensions/code") != Some(&Value::from(NOT_AUTHENTICATED)) {
            return Err("another code");
        }
        match error.get("path") {
            None | Some(Value::Null) => Ok(Self(None)),
            Some(Value::Array(steps)) => match steps.as_slice() {
                [] => Ok(Self(None)),
                [Value::String(name)] => Ok(Self(Some(name.clone()))),
                _ => Err("below the first step"),
            },
            Some(_) => Err("no path"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &str =
        r#"{"message":"m","path":["a"],"extensions":{"code":"AUTH_NOT_AUTHENTICATED"}}"#;

    #[test]
    fn answers_are_read_strictly() {
        use Verdict::{Accepted, Open, Refused, RefusedInPart};
        let other = ERROR.replace("AUTHENTICATED", "AUTHORIZED");
        let pathless = ERROR.replace(r#""path":["a"],"#, "");
        let below = ERROR.replace(r#"["a"]"#, r#"["a","b"]"#);
        for (text, verdict) in [
            (
                format!(r#"{{"errors":[{ERROR}],"data":{{"a":null}}}}"#),
                Refused,
            ),
            (
                format!(r#"{{"data":{{"a":null}},"errors":[{ERROR}]}}"#),
                Refused,
            ),
            (
                format!(
                    " {{ \"errors\" :\n[{ERROR},{ERROR}],\"extensions\":{{\"x\":[1]}},\"data\":{{}} }} "
                ),
                Refused,
            ),
            (format!(r#"{{"errors":[{ERROR}]}}"#), RefusedInPart),
            (
                format!(r#"{{"errors":[{pathless}],"data":null}}"#),
                RefusedInPart,
            ),
            (
                format!(r#"{{"errors":[{}]}}"#, ERROR.replace(r#"["a"]"#, "[]")),
                RefusedInPart,
            ),
            (
                format!(r#"{{"errors":[{}]}}"#, ERROR.replace(r#"["a"]"#, "null")),
                RefusedInPart,
            ),
            // Decided, whatever comes next.
            (format!(r#"{{"errors":[{other},"#), Accepted),
            (format!(r#"{{"errors":[{below}"#), Accepted),
            (
                format!(r#"{{"errors":[{}"#, ERROR.replace(r#"["a"]"#, "[0]")),
                Accepted,
            ),
            (
                format!(r#"{{"errors":[{}"#, ERROR.replace(r#"["a"]"#, "\"a\"")),
                Accepted,
            ),
            (format!(r#"{{"errors":[{ERROR},{other}"#), Accepted),
            (r#"{"data":{"a":1"#.to_owned() + ",", Accepted),
            (r#"{"data":{"a":{"#.to_owned(), Accepted),
            (r#"{"data":7,"#.to_owned(), Accepted),
            (r#"{"errors":[{"message":"m"}"#.to_owned(), Accepted),
            (r#"{"errors":{}"#.to_owned(), Accepted),
            (r#"{"errors":[]}"#.to_owned(), Accepted),
            (r#"{"data":null}"#.to_owned(), Accepted),
            (r#"{"data":{"a":null}}"#.to_owned(), Accepted),
            (
                format!(r#"{{"errors":[{ERROR}],"data":{{"a":null,"b":null}}}}"#),
                Accepted,
            ),
            (
                format!(r#"{{"errors":[{ERROR}],"data":{{"b":null}}}}"#),
                Accepted,
            ),
            (
                format!(r#"{{"errors":[{pathless}],"data":{{"a":null}}}}"#),
                Accepted,
            ),
            (format!(r#"{{"errors":[{ERROR}],"errors":[]}}"#), Accepted),
            (format!(r#"[{{"errors":[{ERROR}]}}]"#), Accepted),
            (format!(r#"[[{ERROR}]]"#), Accepted),
            ("<html>".to_owned(), Accepted),
            ("\u{feff}{}".to_owned(), Accepted),
            (format!("{{\"errors\":{}", "[".repeat(10_000)), Accepted),
            (String::new(), Open),
            (" \r\n".to_owned(), Open),
            ("{".to_owned(), Open),
            (r#"{"data":nul"#.to_owned(), Open),
            (r#"{"data":{"a":null}"#.to_owned(), Open),
            (format!(r#"{{"errors":[{ERROR}"#), Open),
            (format!(r#"{{"errors":[{ERROR}],"data":{{"a":null}}"#), Open),
        ] {
            assert_eq!(read(text.as_bytes()), verdict, "{text}");
        }
    }

    #[test]
    fn the_first_member_is_known_as_soon_as_it_can_be() {
        for (start, may) in [
            ("", true),
            (" \n", true),
            ("{", true),
            ("{ \"err", true),
            (" {\r\n \"errors\" : [", true),
            ("[", false),
            ("<", false),
            ("{}", false),
            ("{\"d", false),
            ("{\"errors_\"", false),
            ("{\"errorz", false),
        ] {
            assert_eq!(may_begin_with_errors(start.as_bytes()), may, "{start}");
        }
    }

    #[test]
    fn only_what_is_read_and_holds_no_mutation_is_none() {
        let url: url::Url = "https://cm.example/".parse().expect("a URL");
        for (body, may) in [
            (r#"{"query":"{ a }"}"#, false),
            (
                r#"{"query":"query Q { mutations { mutationType } }","variables":{"a":"mutation"}}"#,
                false,
            ),
            (r#"{"query":"mutation { a }"}"#, true),
            (
                r#"{"query":"query A { a } mutation{ b }","operationName":"A"}"#,
                true,
            ),
            (r#"{"query":"\u006dutation { a }"}"#, true),
            (r#"{"query":"\n#c\nmutation($a:Int){a}"}"#, true),
            (r#"[{"query":"{ a }"}]"#, true),
            (r#"{"extensions":{"persistedQuery":{}}}"#, true),
            ("{ a }", true),
            ("", true),
        ] {
            let mut request = Request::new(Method::POST, url.clone());
            *request.body_mut() = Some(body.into());
            assert_eq!(may_be_mutation(&request), may, "{body}");
        }
        assert!(may_be_mutation(&Request::new(Method::POST, url.clone())));
        assert!(!may_be_mutation(&Request::new(Method::GET, url)));
    }
}
