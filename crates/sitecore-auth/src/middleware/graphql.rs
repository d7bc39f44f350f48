//! Whether a GraphQL response rejects the token, and whether a GraphQL request is clearly a query.
//!
//! Pure functions of bytes. A replay must not repeat what was executed, so they do not guess.

use std::{borrow::Cow, fmt, mem, sync::LazyLock};

use memchr::{
    memchr,
    memmem::{self, Finder},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

/// Authoring's error code for a token that is missing, expired or meant for another audience.
const NOT_AUTHENTICATED: &str = "AUTH_NOT_AUTHENTICATED";

/// A member of `data` that every type has. It says nothing about what was executed.
const TYPENAME: &str = "__typename";

/// The members of a response that is delivered in parts.
const INCREMENTAL: [&str; 3] = ["hasNext", "incremental", "pending"];

/// What a response that rejects the token says about the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Executed {
    /// It proves that nothing was executed.
    Nothing,
    /// It does not prove that.
    Unknown,
}

/// Returns what a response that rejects the token says about the operation; `None` if it does not
/// reject the token. `is_whole` says whether `text` is the whole body rather than its start.
///
/// `text` may be a single response or a batch. It rejects the token if any of its errors has the
/// code.
pub(crate) fn rejection(text: &[u8], is_whole: bool) -> Option<Executed> {
    if !may_contain_code(text) {
        return None;
    }
    let (responses, is_complete) = Responses::read(text);
    if !responses.reject_token() || (is_whole && !is_complete) {
        return None;
    }
    let is_proved = is_whole && responses.prove_nothing_executed();
    Some(if is_proved { Executed::Nothing } else { Executed::Unknown })
}

/// Returns `true` if this start of a response says anything about an operation: it contains errors
/// or data.
pub(crate) fn is_response(start: &[u8]) -> bool {
    let (responses, _) = Responses::read(start);
    responses.0.iter().any(|response| !response.errors.is_empty() || !response.data.is_empty())
}

/// Returns `true` if this start of a response begins with `errors` and contains the code, as a long
/// rejection does.
pub(crate) fn begins_like_rejection(start: &[u8]) -> bool {
    let text = without_space(start);
    let text = without_space(text.strip_prefix(b"[").unwrap_or(text));
    let members = text.strip_prefix(b"{").map(without_space);
    members.is_some_and(|members| members.starts_with(b"\"errors\"")) && may_contain_code(text)
}

/// Returns `true` if the code occurs in the text, as it is or with escape sequences.
fn may_contain_code(text: &[u8]) -> bool {
    // Building it takes longer than searching a short response.
    static CODE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(NOT_AUTHENTICATED));
    // Its characters are escaped as `\u004x` or `\u005x`.
    let is_escape = |at: usize| matches!(text.get(at + 4), Some(b'4' | b'5'));
    let has_escapes =
        || memchr(b'\\', text).is_some() && memmem::find_iter(text, b"\\u00").any(is_escape);
    CODE.find(text).is_some() || has_escapes()
}

/// Returns `true` if the body of a `POST` is clearly not a mutation: each document can be read,
/// contains an operation, and does not contain the word `mutation`. An operation that is named by
/// an id does not count as clear, even if there is a document too. (`extensions.persistedQuery`
/// contains the hash of the document, not a name.)
pub(crate) fn is_clearly_query(body: &[u8]) -> bool {
    let body = without_space(body);
    match body.first() {
        Some(b'[') => {
            let batch = serde_json::from_slice::<Vec<&RawValue>>(body).unwrap_or_default();
            !batch.is_empty() && batch.into_iter().all(is_clear_operation)
        }
        Some(_) => serde_json::from_slice(body).is_ok_and(is_clear_operation),
        None => false,
    }
}

fn is_clear_operation(operation: &RawValue) -> bool {
    let members = Members::of(operation);
    let mut queries = members.named("query");
    let (Some(query), None) = (queries.next(), queries.next()) else { return false };
    let Ok(Text(document)) = serde_json::from_str(query.get()) else { return false };
    let mut others = members.all.iter().filter(|(name, _)| name != "query");
    let is_persisted = others.any(|(name, value)| may_name_document(name) && value.get() != "null");
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    let mut words = document.split(|char| !is_part(char));
    members.is_complete
        && !is_persisted
        && has_operation(&document)
        && words.all(|word| word != "mutation")
}

/// Skips a byte order mark and white space.
fn without_space(text: &[u8]) -> &[u8] {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let space = text.iter().take_while(|byte| b" \t\r\n".contains(byte));
    &text[space.count()..]
}

/// Returns `true` if an API may find a document by this member or parameter. It may ignore the case
/// of names, or look a stored document up.
#[doc(hidden)]
#[must_use]
pub fn may_name_document(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "");
    ["query", "id", "queryid", "documentid", "docid"].contains(&&*name)
}

/// Returns `true` if the document's first token can begin an operation. A document may consist of
/// comments alone.
fn has_operation(document: &str) -> bool {
    let mut rest = document.trim_start_matches(is_ignored);
    while let Some(comment) = rest.strip_prefix('#') {
        let end = comment.find(['\n', '\r']).unwrap_or(comment.len());
        rest = comment[end..].trim_start_matches(is_ignored);
    }
    ["{", "query", "subscription", "fragment"].iter().any(|start| rest.starts_with(start))
}

/// White space, commas and byte order marks are ignored between tokens (GraphQL §2.1).
fn is_ignored(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\r' | '\n' | ',' | '\u{feff}')
}

/// What matters in a body, which is a single response or a batch. It is recorded during parsing, so
/// that it is not lost if the text ends early.
#[derive(Default)]
struct Responses(Vec<Response>);

#[derive(Default)]
struct Response {
    errors: Vec<FieldError>,
    /// The members of `data`, and whether each is null.
    data: Vec<(String, bool)>,
    /// `errors` or `data` occurs twice, `data` cannot be read, or this is only a part of a
    /// response.
    is_ambiguous: bool,
}

/// An error of a response.
struct FieldError {
    is_not_authenticated: bool,
    /// The member of `data` that its path begins with.
    member: Option<String>,
    /// Whether the path ends there.
    is_at_member: bool,
}

impl Responses {
    /// Reads what it can. Also returns whether this is the whole text.
    fn read(text: &[u8]) -> (Self, bool) {
        // An error may quote text in another encoding.
        let text = String::from_utf8_lossy(without_space(text));
        let mut responses = Self::default();
        let mut parser = serde_json::Deserializer::from_str(&text);
        let parsed = responses.deserialize(&mut parser).and_then(|()| parser.end());
        (responses, parsed.is_ok())
    }

    fn reject_token(&self) -> bool {
        self.0.iter().flat_map(|response| &response.errors).any(|error| error.is_not_authenticated)
    }

    fn prove_nothing_executed(&self) -> bool {
        self.0.iter().all(Response::proves_nothing_executed)
    }
}

impl Response {
    /// Returns `true` if every member of `data` is null because its field was rejected, and not
    /// because of something below it, which runs after the field.
    fn proves_nothing_executed(&self) -> bool {
        let mut members = self.data.iter().filter(|(name, _)| name != TYPENAME).peekable();
        !self.is_ambiguous
            && members.peek().is_some()
            && members.all(|(name, is_null)| *is_null && self.is_rejected(name))
    }

    fn read_data(&mut self, data: &RawValue) {
        if data.get() == "null" {
            return;
        }
        let members = Members::of(data);
        self.is_ambiguous |= !members.is_complete;
        let is_null = |value: &RawValue| value.get() == "null";
        self.data.extend(
            members.all.into_iter().map(|(name, value)| (name.into_owned(), is_null(value))),
        );
    }

    fn is_rejected(&self, member: &str) -> bool {
        let is_named = |error: &&FieldError| error.member.as_deref() == Some(member);
        let mut errors = self.errors.iter().filter(is_named).peekable();
        errors.peek().is_some()
            && errors.all(|error| error.is_not_authenticated && error.is_at_member)
    }
}

impl FieldError {
    /// Reads only the parts that matter, so that nothing else in the error can hide a rejection.
    fn parse(error: &RawValue) -> Self {
        let error = Members::of(error);
        let mut codes = error.named("extensions").flat_map(|it| Members::of(it).all);
        let is_code = |(name, value): (Cow<'_, str>, &RawValue)| {
            let is_same = |code: Text<'_>| code.0 == NOT_AUTHENTICATED;
            name == "code" && serde_json::from_str(value.get()).is_ok_and(is_same)
        };
        let mut paths = error.named("path");
        // Of two paths, neither proves anything.
        let path = paths.next().filter(|_| paths.next().is_none());
        let path = path.and_then(|path| serde_json::from_str::<Vec<Value>>(path.get()).ok());
        let path = path.unwrap_or_default();
        Self {
            is_not_authenticated: codes.any(is_code),
            member: path.first().and_then(Value::as_str).map(str::to_owned),
            is_at_member: path.len() == 1,
        }
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The members of an object, up to the first that cannot be read. Names may occur twice.
#[derive(Default)]
struct Members<'a> {
    all: Vec<(Cow<'a, str>, &'a RawValue)>,
    is_complete: bool,
}

impl<'a> Members<'a> {
    fn of(object: &'a RawValue) -> Self {
        let mut members = Self::default();
        let read = serde_json::Deserializer::from_str(object.get()).deserialize_map(&mut members);
        members.is_complete = read.is_ok();
        members
    }

    fn named(&self, wanted: &'static str) -> impl Iterator<Item = &'a RawValue> {
        self.all.iter().filter(move |(name, _)| name == wanted).map(|(_, value)| *value)
    }
}

impl<'de> Visitor<'de> for &mut Members<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some((Text(name), value)) = members.next_entry()? {
            self.all.push((name, value));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Responses {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Responses {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a GraphQL response")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.push(Response::default());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut batch: A) -> Result<(), A::Error> {
        while batch.next_element_seed(&mut *self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let at = self.0.len();
        self.0.push(Response::default());
        let response = &mut self.0[at];
        let (mut has_errors, mut has_data) = (false, false);
        while let Some(name) = members.next_key::<Cow<'_, str>>()? {
            match &*name {
                "errors" => {
                    response.is_ambiguous |= mem::replace(&mut has_errors, true);
                    members.next_value_seed(Errors(&mut response.errors))?;
                }
                "data" => {
                    response.is_ambiguous |= mem::replace(&mut has_data, true);
                    response.read_data(members.next_value()?);
                }
                other => {
                    // A part of a response proves nothing about the rest.
                    response.is_ambiguous |= INCREMENTAL.contains(&other);
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Errors<'a>(&'a mut Vec<FieldError>);

impl<'de> DeserializeSeed<'de> for Errors<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Errors<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of errors")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut errors: A) -> Result<(), A::Error> {
        while let Some(error) = errors.next_element::<&RawValue>()? {
            self.0.push(FieldError::parse(error));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
