//! Any GraphQL response or request: no panic. A rejection is also one according to an independent parser, and vice
//! versa. The start of a response shows a rejection only if a longer start shows it too, and proves nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sitecore_auth::fuzzing::{is_clearly_query, rejection};

fuzz_target!(|input: &[u8]| {
    let mut was_rejection = false;
    for end in 0..=input.len() {
        let start = rejection(&input[..end], false);
        assert_ne!(start, Some(true), "a proof after {end} bytes");
        assert!(start.is_some() || !was_rejection, "a rejection is gone after {end} bytes");
        was_rejection = start.is_some();
    }
    let whole = rejection(input, true);
    // This parser notices neither a duplicate member nor another encoding.
    let is_plain = ["errors", "data", "hasNext", "incremental", "pending", "\\u"]
        .iter()
        .all(|text| count(input, text) <= usize::from(*text == "errors" || *text == "data"));
    if is_plain && let Ok(value) = serde_json::from_slice::<Value>(input) {
        let occurs_once = |name| count(input, name) == members_named(&value, name);
        if ["extensions", "code", "path"].into_iter().all(occurs_once) {
            assert_eq!(whole, expected(&value));
        }
    }
    // A document that begins with the word is a mutation, whatever else the request says.
    let body = String::from_utf8_lossy(input);
    assert!(!(is_clearly_query(input) && body.starts_with(r#"{"query":"mutation"#)));
});

/// Reads a whole response in another way: whether it proves that nothing was executed, if it is a rejection.
fn expected(body: &Value) -> Option<bool> {
    let responses = match body {
        Value::Array(responses) => responses.clone(),
        other => vec![other.clone()],
    };
    let is_shape = |response: &Value| {
        let errors = response.get("errors").unwrap_or(&Value::Null);
        (response.is_null() && body.is_array() || response.is_object())
            && (errors.is_null() || errors.is_array())
    };
    if !responses.iter().all(is_shape) {
        return None;
    }
    let errors = |response: &Value| response["errors"].as_array().cloned().unwrap_or_default();
    let is_rejection = |error: &Value| {
        error.pointer("/extensions/code").and_then(Value::as_str) == Some("AUTH_NOT_AUTHENTICATED")
    };
    if !responses.iter().flat_map(errors).any(|error| is_rejection(&error)) {
        return None;
    }
    Some(responses.iter().all(|response| {
        let Some(data) = response["data"].as_object() else { return false };
        let mut names = data.keys().filter(|name| *name != "__typename").peekable();
        names.peek().is_some()
            && names.all(|name| {
                let about = |error: &Value| error["path"][0] == **name;
                let about: Vec<_> = errors(response).into_iter().filter(about).collect();
                let exactly = |error: &Value| {
                    is_rejection(error)
                        && error["path"].as_array().is_some_and(|path| path.len() == 1)
                };
                data[name].is_null() && !about.is_empty() && about.iter().all(exactly)
            })
    }))
}

/// Counts the members with this name at any depth.
fn members_named(value: &Value, name: &str) -> usize {
    match value {
        Value::Array(elements) => elements.iter().map(|it| members_named(it, name)).sum(),
        Value::Object(members) => {
            let own = usize::from(members.contains_key(name));
            own + members.values().map(|it| members_named(it, name)).sum::<usize>()
        }
        _ => 0,
    }
}

fn count(text: &[u8], word: &str) -> usize {
    text.windows(word.len()).filter(|window| *window == word.as_bytes()).count()
}
