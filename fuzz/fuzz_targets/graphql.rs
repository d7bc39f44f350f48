//! Any GraphQL response: no panic. The rest of a response does not change what its start has decided. A rejection is
//! also one according to an independent parser of the whole text, and vice versa.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sitecore_auth::fuzzing::{graphql, may_begin_with_errors, watch};

fuzz_target!(|input: &[u8]| {
    let whole = graphql(input);
    let is_json = serde_json::from_slice::<Value>(input).is_ok();
    let decisive = watch(input);
    for end in 0..input.len() {
        let start = &input[..end];
        // The byte that decides must be marked as decisive. A literal is marked when it has ended.
        if is_json
            && end > 0
            && !input[end - 1].is_ascii_alphanumeric()
            && graphql(start).is_some()
            && graphql(&input[..end - 1]).is_none()
        {
            assert!(decisive[end - 1], "after {end} bytes");
        }
        match graphql(start) {
            None => {}
            // A number that is cut off after its first digit already is not null.
            Some((false, _)) if whole.is_none() => {}
            decided => assert_eq!(whole, decided, "after {end} bytes"),
        }
        assert!(may_begin_with_errors(start) || !may_begin_with_errors(input));
    }
    let mut values = serde_json::Deserializer::from_slice(input).into_iter::<Value>();
    let value = values.next().and_then(Result::ok);
    let parsed = value.as_ref().map(rejection);
    match whole {
        Some((true, nothing_executed)) => assert_eq!(parsed, Some(Some(nothing_executed))),
        // A duplicate member rules out a rejection, but this parser does not notice it.
        _ if ["errors", "data"].iter().any(|name| count(input, name) > 1) => {}
        _ if count(input, "\\u") > 0 => {}
        _ => assert!(!matches!(parsed, Some(Some(_)))),
    }
});

/// Parses a whole response: `Some` if it is a rejection, and whether nothing was executed.
fn rejection(response: &Value) -> Option<bool> {
    let errors = response.as_object()?.get("errors")?.as_array()?;
    let mut names = Vec::new();
    for error in errors {
        let code = error.as_object()?.get("extensions")?.as_object()?.get("code")?;
        if code != "AUTH_NOT_AUTHENTICATED" {
            return None;
        }
        match error.get("path").unwrap_or(&Value::Null) {
            Value::Null => {}
            Value::Array(path) if path.is_empty() => {}
            Value::Array(path) if path.len() == 1 => names.push(path[0].as_str()?),
            _ => return None,
        }
    }
    if errors.is_empty() {
        return None;
    }
    match response.get("data").unwrap_or(&Value::Null) {
        Value::Null => Some(false),
        Value::Object(data) if data.is_empty() => Some(false),
        Value::Object(data) => data
            .iter()
            .all(|(name, value)| value.is_null() && names.contains(&name.as_str()))
            .then_some(true),
        _ => None,
    }
}

fn count(text: &[u8], word: &str) -> usize {
    text.windows(word.len()).filter(|window| *window == word.as_bytes()).count()
}
