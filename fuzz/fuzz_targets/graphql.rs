//! Whatever a GraphQL server answers: no panic; what the start decides, the rest does not change; a refusal
//! is one by an independent reading of the whole text, and the other way round.
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
        // Where it is decided first, it is looked at; a literal is looked at when it has ended.
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
            // A number that is cut off behind its first digit is no null already.
            Some((false, _)) if whole.is_none() => {}
            decided => assert_eq!(whole, decided, "after {end} bytes"),
        }
        assert!(may_begin_with_errors(start) || !may_begin_with_errors(input));
    }
    let mut values = serde_json::Deserializer::from_slice(input).into_iter::<Value>();
    let value = values.next().and_then(Result::ok);
    let read = value.as_ref().map(refusal);
    match whole {
        Some((true, of_all)) => assert_eq!(read, Some(Some(of_all))),
        // A member that stands twice is no refusal, and this reading does not notice.
        _ if ["errors", "data"].iter().any(|name| count(input, name) > 1) => {}
        _ if count(input, "\\u") > 0 => {}
        _ => assert!(!matches!(read, Some(Some(_)))),
    }
});

/// Reads an answer as a whole: `Some` if it is a refusal, and whether of all.
fn refusal(answer: &Value) -> Option<bool> {
    let errors = answer.as_object()?.get("errors")?.as_array()?;
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
    match answer.get("data").unwrap_or(&Value::Null) {
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
