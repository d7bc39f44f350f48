//! Whether a GraphQL response with status 200 rejects the token, and whether a GraphQL request may
//! be a mutation.
//!
//! Pure functions of bytes. Both are strict, because a replay must not repeat what was executed.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use reqwest::{Body, Method, Request};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

/// Authoring's error code for a token that is missing, expired or meant for another audience.
const NOT_AUTHENTICATED: &str = "AUTH_NOT_AUTHENTICATED";

/// What the start of a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Undecided: more must be read.
    Open,
    /// The response does not reject the token.
    Accepted,
    /// Every field was rejected, so nothing was executed.
    Rejected,
    /// All errors are rejections, but there is no `data` to prove that nothing was executed.
    RejectedInPart,
}

/// Reads the start of a response, and decides as soon as possible.
pub(crate) fn read(start: &[u8]) -> Verdict {
    if !matches!(without_space(start).first(), None | Some(b'{')) {
        return Verdict::Accepted;
    }
    // The parser rejects a number that ends in a point or exponent, so that part is left for the
    // next time.
    let cut = start.iter().rev().take_while(|byte| b".eE+-".contains(byte));
    let start = &start[..start.len() - cut.count()];
    match parse(start) {
        Ok(response) => response.verdict(),
        // An unfinished string may already rule out a rejection. Finishing it shows that.
        Err(error) if error.is_eof() => match parse(&[start, b"\""].concat()) {
            Err(error) if error.is_data() => Verdict::Accepted,
            _ => Verdict::Open,
        },
        Err(_) => Verdict::Accepted,
    }
}

/// Ignores what follows the object.
fn parse(start: &[u8]) -> serde_json::Result<GraphqlResponse> {
    GraphqlResponse::deserialize(&mut serde_json::Deserializer::from_slice(start))
}

/// Watches a response arrive, and decides when reading it again can help.
#[derive(Default)]
pub(crate) struct Watch {
    seen: usize,
    depth: u32,
    in_text: bool,
    is_escaped: bool,
    in_literal: bool,
}

impl Watch {
    /// Looks at the new bytes. Returns `false` if they cannot change the verdict, such as white
    /// space or something deep inside an error.
    pub(crate) fn is_decisive(&mut self, start: &[u8]) -> bool {
        let mut is_decisive = false;
        for byte in &start[self.seen..] {
            is_decisive |= self.step(*byte);
        }
        self.seen = start.len();
        is_decisive
    }

    fn step(&mut self, byte: u8) -> bool {
        // The response's own members are at depth 1, those of `data` and the errors at 2.
        if self.in_text {
            self.in_text = self.is_escaped || byte != b'"';
            self.is_escaped = !self.is_escaped && byte == b'\\';
            return self.depth <= 1;
        }
        let was_in_literal = std::mem::replace(&mut self.in_literal, false);
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' | b':' => false,
            b',' => self.depth <= 2,
            b'"' => {
                self.in_text = true;
                self.depth <= 2
            }
            b'{' | b'[' => {
                self.depth += 1;
                self.depth <= 3
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.depth <= 2
            }
            _ => {
                self.in_literal = true;
                !was_in_literal && self.depth <= 2
            }
        }
    }
}

/// Returns `true` if the response's first member is, or can still become, `errors`.
pub(crate) fn may_begin_with_errors(start: &[u8]) -> bool {
    const NAME: &[u8] = b"\"errors\"";
    let is_brace = |start: &[u8]| start.first().is_none_or(|byte| *byte == b'{');
    let start = without_space(start);
    let name = without_space(start.get(1..).unwrap_or_default());
    is_brace(start) && name.iter().zip(NAME).all(|(byte, expected)| byte == expected)
}

/// Returns `true` unless the request's document can be read and does not contain the word
/// `mutation`.
pub(super) fn may_be_mutation(request: &Request) -> bool {
    // GET executes no mutation (GraphQL over HTTP §6.2).
    if request.method() == Method::GET || request.method() == Method::HEAD {
        return false;
    }
    // Some servers take the document from the URL if there is one.
    if request.url().query().is_some() {
        return true;
    }
    let body = request.body().and_then(Body::as_bytes).unwrap_or_default();
    if without_space(body).first() != Some(&b'{') {
        return true;
    }
    serde_json::from_slice(body).map_or(true, |Operation { query }| {
        let is_part = |char: char| char.is_alphanumeric() || char == '_';
        let mut words = query.split(|char| !is_part(char));
        words.any(|word| word == "mutation")
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

/// Parsing fails as soon as the response cannot be a rejection any more.
#[derive(Default)]
struct GraphqlResponse {
    errors: Option<Vec<NotAuthenticated>>,
    /// The members of `data`, all of which are null.
    data: Option<Option<BTreeMap<String, ()>>>,
}

impl<'de> Deserialize<'de> for GraphqlResponse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ResponseVisitor)
    }
}

struct ResponseVisitor;

impl<'de> Visitor<'de> for ResponseVisitor {
    type Value = GraphqlResponse;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a GraphQL response")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<GraphqlResponse, A::Error> {
        let mut response = GraphqlResponse::default();
        while let Some(name) = members.next_key::<Cow<'_, str>>()? {
            let is_duplicate = match &*name {
                "errors" => response.errors.replace(members.next_value()?).is_some(),
                "data" => response.data.replace(members.next_value()?).is_some(),
                _ => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if is_duplicate || !response.can_reject() {
                return Err(A::Error::custom("not a rejection"));
            }
        }
        Ok(response)
    }
}

/// An error with this code, and the member of `data` that it names.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct NotAuthenticated(Option<String>);

impl GraphqlResponse {
    fn verdict(&self) -> Verdict {
        match &self.data {
            _ if self.errors.is_none() => Verdict::Accepted,
            Some(Some(data)) if !data.is_empty() => Verdict::Rejected,
            _ => Verdict::RejectedInPart,
        }
    }

    /// Returns `true` if what has been read is, or can still become, a rejection.
    fn can_reject(&self) -> bool {
        let Some(errors) = &self.errors else {
            return true;
        };
        let is_named = |member| {
            let mut names = errors.iter().filter_map(|error| error.0.as_ref());
            names.any(|name| name == member)
        };
        let mut data = self.data.iter().flatten().flat_map(BTreeMap::keys);
        !errors.is_empty() && data.all(is_named)
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
                _ => Err("not a top-level field"),
            },
            Some(_) => Err("not a path"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &str =
        r#"{"message":"m","path":["a"],"extensions":{"code":"AUTH_NOT_AUTHENTICATED"}}"#;

    #[test]
    fn responses_are_parsed_strictly() {
        use Verdict::{Accepted, Open, Rejected, RejectedInPart};
        let other = ERROR.replace("AUTHENTICATED", "AUTHORIZED");
        let pathless = ERROR.replace(r#""path":["a"],"#, "");
        let below = ERROR.replace(r#"["a"]"#, r#"["a","b"]"#);
        for (text, verdict) in [
            (format!(r#"{{"errors":[{ERROR}],"data":{{"a":null}}}}"#), Rejected),
            (format!(r#"{{"data":{{"a":null}},"errors":[{ERROR}]}}"#), Rejected),
            (
                format!(
                    " {{ \"errors\" :\n[{ERROR},{ERROR}],\"extensions\":{{\"x\":[1]}},\"data\":{{\"a\":null}} }} "
                ),
                Rejected,
            ),
            (format!(r#"{{"errors":[{ERROR}]}}"#), RejectedInPart),
            (format!(r#"{{"errors":[{pathless}],"data":null}}"#), RejectedInPart),
            (format!(r#"{{"errors":[{}]}}"#, ERROR.replace(r#"["a"]"#, "[]")), RejectedInPart),
            (format!(r#"{{"errors":[{}]}}"#, ERROR.replace(r#"["a"]"#, "null")), RejectedInPart),
            (format!(r#"{{"errors":[{ERROR}],"data":{{}}}}"#), RejectedInPart),
            // Decided, no matter what follows.
            (r#"{"errors":[]"#.to_owned(), Accepted),
            (format!(r#"{{"errors":[{ERROR}],"data":{{"a":null,"b":null}}"#), Accepted),
            (format!(r#"{{"data":{{"b":null}},"errors":[{ERROR}]"#), Accepted),
            (r#"{"data":"x"#.to_owned(), Accepted),
            (r#"{"data":{"a":"x"#.to_owned(), Accepted),
            (r#"{"errors":"#.to_owned() + "\"x", Accepted),
            (format!(r#"{{"errors":[{other},"#), Accepted),
            (format!(r#"{{"errors":[{below}"#), Accepted),
            (format!(r#"{{"errors":[{}"#, ERROR.replace(r#"["a"]"#, "[0]")), Accepted),
            (format!(r#"{{"errors":[{}"#, ERROR.replace(r#"["a"]"#, "\"a\"")), Accepted),
            (format!(r#"{{"errors":[{ERROR},{other}"#), Accepted),
            (r#"{"data":{"a":1"#.to_owned() + ",", Accepted),
            (r#"{"data":{"a":{"#.to_owned(), Accepted),
            (r#"{"data":7,"#.to_owned(), Accepted),
            (r#"{"errors":[{"message":"m"}"#.to_owned(), Accepted),
            (r#"{"errors":{}"#.to_owned(), Accepted),
            (r#"{"errors":[]}"#.to_owned(), Accepted),
            (r#"{"data":null}"#.to_owned(), Accepted),
            (r#"{"data":{"a":null}}"#.to_owned(), Accepted),
            (format!(r#"{{"errors":[{ERROR}],"data":{{"a":null,"b":null}}}}"#), Accepted),
            (format!(r#"{{"errors":[{ERROR}],"data":{{"b":null}}}}"#), Accepted),
            (format!(r#"{{"errors":[{pathless}],"data":{{"a":null}}}}"#), Accepted),
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
            (r#"{"extensions":{"cost":1."#.to_owned(), Open),
            (r#"{"extensions":{"cost":-"#.to_owned(), Open),
            (r#"{"extensions":{"cost":2e+"#.to_owned(), Open),
            (r#"{"errors":[{"cost":2.5E"#.to_owned(), Open),
        ] {
            assert_eq!(read(text.as_bytes()), verdict, "{text}");
            let mut watch = Watch::default();
            let mut before = read(b"");
            // Nesting that is too deep for the parser is noticed later.
            for end in 1..=text.len().min(100 + text.find("[[[").unwrap_or(1_000)).min(text.len()) {
                let start = &text.as_bytes()[..end];
                let now = read(start);
                assert!(watch.is_decisive(start) || now == before, "{text}, {end}");
                before = now;
            }
        }
    }

    #[test]
    fn a_response_is_read_again_only_where_that_can_decide() {
        // The response's own names, brackets down to an error's, and values of `data`, but nothing
        // inside errors.
        let (text, expected) = (
            r#" {"errors":[ {"message":"a{\"b","n":12}],"data":{"a":null,"b": 12 } }"#,
            r#" ^^^^^^^^^ ^ ^                        ^^^^^^^^^ ^^   ^   ^^    ^  ^ ^"#,
        );
        let mut watch = Watch::default();
        let marks = (1..=text.len()).map(|end| watch.is_decisive(&text.as_bytes()[..end]));
        let marks: String = marks.map(|is_decisive| if is_decisive { '^' } else { ' ' }).collect();
        assert_eq!(marks, expected, "\n{text}\n{marks}");
    }

    #[test]
    fn the_first_member_is_known_as_early_as_possible() {
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
    fn only_a_readable_document_without_the_word_is_not_a_mutation() {
        let url: url::Url = "https://cm.example/".parse().expect("a URL");
        for (body, may) in [
            (r#"{"query":"{ a }"}"#, false),
            (
                r#"{"query":"query Q { mutations { mutationType } }","variables":{"a":"mutation"}}"#,
                false,
            ),
            (r#"{"query":"mutation { a }"}"#, true),
            (r#"{"query":"query A { a } mutation{ b }","operationName":"A"}"#, true),
            (r#"{"query":"\u006dutation { a }"}"#, true),
            (r#"{"query":"\n#c\nmutation($a:Int){a}"}"#, true),
            (r#"[{"query":"{ a }"}]"#, true),
            (r#"["{ a }"]"#, true),
            (r#"{"extensions":{"persistedQuery":{}}}"#, true),
            ("{ a }", true),
            ("", true),
        ] {
            let mut request = Request::new(Method::POST, url.clone());
            *request.body_mut() = Some(body.into());
            assert_eq!(may_be_mutation(&request), may, "{body}");
        }
        let mut request =
            Request::new(Method::POST, url.join("?query=mutation{a}").expect("a URL"));
        *request.body_mut() = Some(r#"{"query":"{ a }"}"#.into());
        assert!(may_be_mutation(&request));
        assert!(may_be_mutation(&Request::new(Method::POST, url.clone())));
        assert!(!may_be_mutation(&Request::new(Method::GET, url)));
    }
}
