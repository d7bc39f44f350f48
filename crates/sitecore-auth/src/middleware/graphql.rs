//! What a GraphQL answer with status 200 says about the token, and what a GraphQL request may change.
//!
//! Pure functions of bytes. Both are strict, because a request that is sent again must not repeat what was
//! executed.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use reqwest::{Body, Method, Request};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
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
    // A number that is cut off at its point or exponent is none to the parser: it is left for the next look.
    let cut = start.iter().rev().take_while(|byte| b".eE+-".contains(byte));
    let start = &start[..start.len() - cut.count()];
    match parse(start) {
        Ok(answer) => answer.verdict(),
        // If a text is what has not ended, it can be too much already: that shows when it is ended.
        Err(error) if error.is_eof() => match parse(&[start, b"\""].concat()) {
            Err(error) if error.is_data() => Verdict::Accepted,
            _ => Verdict::Open,
        },
        Err(_) => Verdict::Accepted,
    }
}

/// Not to the end of the text: what stands behind the object changes nothing.
fn parse(start: &[u8]) -> serde_json::Result<Answer> {
    Answer::deserialize(&mut serde_json::Deserializer::from_slice(start))
}

/// Watches an answer come in, and tells when it makes sense to read it again.
#[derive(Default)]
pub(crate) struct Watch {
    seen: usize,
    depth: u32,
    in_text: bool,
    is_escaped: bool,
    in_literal: bool,
}

impl Watch {
    /// Looks at what is new. `false` if it cannot decide: blanks, or something in the depth of an error.
    pub(crate) fn is_decisive(&mut self, start: &[u8]) -> bool {
        let mut is_decisive = false;
        for byte in &start[self.seen..] {
            is_decisive |= self.step(*byte);
        }
        self.seen = start.len();
        is_decisive
    }

    fn step(&mut self, byte: u8) -> bool {
        // The answer's own members are at depth 1, those of `data` and the errors at 2.
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

/// Tells whether the answer's first member is, or can still become, `errors`.
pub(crate) fn may_begin_with_errors(start: &[u8]) -> bool {
    const NAME: &[u8] = b"\"errors\"";
    let is_brace = |start: &[u8]| start.first().is_none_or(|byte| *byte == b'{');
    let start = without_space(start);
    let name = without_space(start.get(1..).unwrap_or_default());
    is_brace(start) && name.iter().zip(NAME).all(|(byte, expected)| byte == expected)
}

/// Tells whether the request may be a mutation: it is one unless it can be read and the word does not
/// occur in its document.
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

/// Fails to be read as soon as it cannot be a refusal any more.
#[derive(Default)]
struct Answer {
    errors: Option<Vec<NotAuthenticated>>,
    /// The members of `data`, which are null.
    data: Option<Option<BTreeMap<String, ()>>>,
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AnswerVisitor)
    }
}

struct AnswerVisitor;

impl<'de> Visitor<'de> for AnswerVisitor {
    type Value = Answer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a GraphQL answer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Answer, A::Error> {
        let mut answer = Answer::default();
        while let Some(name) = members.next_key::<Cow<'_, str>>()? {
            let again = match &*name {
                "errors" => answer.errors.replace(members.next_value()?).is_some(),
                "data" => answer.data.replace(members.next_value()?).is_some(),
                _ => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if again || !answer.can_refuse() {
                return Err(A::Error::custom("no refusal"));
            }
        }
        Ok(answer)
    }
}

/// An error of this code, with the member of `data` that it names.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct NotAuthenticated(Option<String>);

impl Answer {
    fn verdict(&self) -> Verdict {
        match &self.data {
            _ if self.errors.is_none() => Verdict::Accepted,
            Some(Some(data)) if !data.is_empty() => Verdict::Refused,
            _ => Verdict::RefusedInPart,
        }
    }

    /// Tells whether what has been read is, or can still become, a refusal.
    fn can_refuse(&self) -> bool {
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
            (format!(r#"{{"errors":[{ERROR}],"data":{{"a":null}}}}"#), Refused),
            (format!(r#"{{"data":{{"a":null}},"errors":[{ERROR}]}}"#), Refused),
            (
                format!(
                    " {{ \"errors\" :\n[{ERROR},{ERROR}],\"extensions\":{{\"x\":[1]}},\"data\":{{\"a\":null}} }} "
                ),
                Refused,
            ),
            (format!(r#"{{"errors":[{ERROR}]}}"#), RefusedInPart),
            (format!(r#"{{"errors":[{pathless}],"data":null}}"#), RefusedInPart),
            (format!(r#"{{"errors":[{}]}}"#, ERROR.replace(r#"["a"]"#, "[]")), RefusedInPart),
            (format!(r#"{{"errors":[{}]}}"#, ERROR.replace(r#"["a"]"#, "null")), RefusedInPart),
            (format!(r#"{{"errors":[{ERROR}],"data":{{}}}}"#), RefusedInPart),
            // Decided, whatever comes next.
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
            // What is too deep for the parser is noticed later.
            for end in 1..=text.len().min(100 + text.find("[[[").unwrap_or(1_000)).min(text.len()) {
                let start = &text.as_bytes()[..end];
                let now = read(start);
                assert!(watch.is_decisive(start) || now == before, "{text}, {end}");
                before = now;
            }
        }
    }

    #[test]
    fn an_answer_is_read_again_only_where_it_can_decide() {
        // The answer's own names, brackets down to an error's, values of `data`: no text and no error within.
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
