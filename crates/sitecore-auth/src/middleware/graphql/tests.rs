//! Tables of requests, and of responses that Authoring and other servers could send. Also compares
//! the reader with an independent one on random responses.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};

use super::{
    Executed::{Nothing, Unknown},
    begins_like_rejection, is_clearly_query, rejection,
};

const CODE: &str = "AUTH_NOT_AUTHENTICATED";

fn error(code: &str, path: Value) -> Value {
    json!({"message": "m", "path": path, "extensions": {"code": code}})
}

fn rejected(member: &str) -> Value {
    error(CODE, json!([member]))
}

#[test]
fn a_response_is_a_rejection_wherever_the_code_is() {
    let a = || rejected("a");
    let other = |path| error("AUTH_NOT_AUTHORIZED", path);
    let without_path = json!({"extensions": {"code": CODE}});
    let null = Value::Null;
    for (response, expected) in [
        (json!({"errors": [a()], "data": {"a": null}}), Some(Nothing)),
        (
            json!({"errors": [a(), a()], "data": {"a": null}, "extensions": {"x": [1]}}),
            Some(Nothing),
        ),
        (json!({"errors": [a()], "data": {"a": null, "__typename": "Mutation"}}), Some(Nothing)),
        // Alongside other errors, with or without a path.
        (json!({"errors": [a(), {"message": "m"}], "data": {"a": null}}), Some(Nothing)),
        (
            json!({"errors": [other(json!(["b"])), a()], "data": {"a": null, "b": null}}),
            Some(Unknown),
        ),
        // Without proof that nothing was executed.
        (json!({"errors": [a()]}), Some(Unknown)),
        (json!({"errors": [a()], "data": null}), Some(Unknown)),
        (json!({"errors": [a()], "data": {}}), Some(Unknown)),
        (json!({"errors": [a()], "data": {"__typename": "Mutation"}}), Some(Unknown)),
        (json!({"errors": [a()], "data": {"b": null}}), Some(Unknown)),
        (json!({"errors": [a()], "data": {"a": null, "b": null}}), Some(Unknown)),
        (json!({"errors": [a()], "data": {"a": null, "b": 1}}), Some(Unknown)),
        (json!({"errors": [a()], "data": {"a": false}}), Some(Unknown)),
        (json!({"errors": [without_path], "data": {"a": null}}), Some(Unknown)),
        (json!({"errors": [error(CODE, json!([]))], "data": {"a": null}}), Some(Unknown)),
        (json!({"errors": [error(CODE, json!([0]))], "data": {"a": null}}), Some(Unknown)),
        (json!({"errors": [error(CODE, json!("a"))], "data": {"a": null}}), Some(Unknown)),
        // The field itself was executed, and something below it was rejected.
        (json!({"errors": [error(CODE, json!(["a", "b"]))], "data": {"a": null}}), Some(Unknown)),
        (
            json!({"errors": [a(), error(CODE, json!(["a", "b"]))], "data": {"a": null}}),
            Some(Unknown),
        ),
        (json!({"errors": [a(), other(json!(["a"]))], "data": {"a": null}}), Some(Unknown)),
        // Batches.
        (json!([{"errors": [a()], "data": {"a": null}}]), Some(Nothing)),
        (json!([{"errors": [a()], "data": {"a": null}}, {"data": {"b": 1}}]), Some(Unknown)),
        (json!([{"data": {"b": 1}}, {"errors": [a()]}]), Some(Unknown)),
        // Odd data and odd elements do not hide a rejection.
        (json!({"errors": [a()], "data": 7}), Some(Unknown)),
        (json!({"errors": [a()], "data": ""}), Some(Unknown)),
        (json!({"data": [], "errors": [a()]}), Some(Unknown)),
        (json!({"errors": [null, "x", 7, {"extensions": null}, a()], "data": null}), Some(Unknown)),
        // No rejections.
        (json!({"errors": [other(json!(["a"]))], "data": {"a": null}}), None),
        (json!({"errors": [{"message": CODE}], "data": {"a": null}}), None),
        (json!({"errors": [{"extensions": {"code": [CODE]}}]}), None),
        (json!({"errors": [{"code": CODE}]}), None),
        (json!({"errors": [], "data": {"a": CODE}}), None),
        (json!({"errors": null, "data": {"errors": [a()]}}), None),
        (json!({"extensions": {"errors": [a()]}}), None),
        (json!({"errors": a()}), None),
        (json!([[a()]]), None),
        (json!([a()]), None),
        (json!([]), None),
        (json!(CODE), None),
        (null, None),
    ] {
        let text = response.to_string();
        assert_eq!(rejection(text.as_bytes(), true), expected, "{text}");
        let pretty =
            format!("\u{feff} \r\n\t{}\n", serde_json::to_string_pretty(&response).expect("JSON"));
        assert_eq!(rejection(pretty.as_bytes(), true), expected, "{pretty}");
    }
}

#[test]
fn the_order_and_the_spelling_of_a_response_do_not_matter() {
    let error = rejected("a").to_string();
    let escaped = error.replace("AUTH_", "AUTH\\u005f");
    for (text, expected) in [
        (format!(r#"{{"data":{{"a":null}},"errors":[{error}]}}"#), Some(Nothing)),
        (format!(r#"{{"data":{{"a":null}},"errors":[{escaped}]}}"#), Some(Nothing)),
        (format!(r#"{{"\u0065rrors":[{error}],"data":{{"a":null}}}}"#), Some(Nothing)),
        // Whatever else an error contains does not hide the code.
        (
            format!(
                r#"{{"data":{{"a":null}},"errors":[{}]}}"#,
                error.replace(r#""m""#, r#""\ud83d""#)
            ),
            Some(Nothing),
        ),
        (
            format!(
                r#"{{"data":{{"a":null}},"errors":[{}]}}"#,
                error.replace(
                    r#""m""#,
                    &format!("1e999,\"x\":{}{}", "[".repeat(200), "]".repeat(200))
                )
            ),
            Some(Nothing),
        ),
        (format!(r#"[null,{{"errors":[{error}],"data":{{"a":null}}}}]"#), Some(Unknown)),
        (format!(r#"{{"data":{{"\ud800":null}},"errors":[{error}]}}"#), Some(Unknown)),
        (
            format!(
                r#"{{"errors":[{}],"data":{{"a":null}}}}"#,
                error.replace(r#""path":["a"]"#, r#""path":["a"],"path":["a"]"#)
            ),
            Some(Unknown),
        ),
        (
            format!(
                r#"{{"errors":[{}],"data":{{"a":null}}}}"#,
                error.replace(r#""message":"m""#, r#""message":"m","message":"n","extensions":1"#)
            ),
            Some(Nothing),
        ),
        // A part of a response proves nothing.
        (format!(r#"{{"errors":[{error}],"data":{{"a":null}},"hasNext":true}}"#), Some(Unknown)),
        // What occurs twice proves nothing.
        (format!(r#"{{"data":{{"a":1}},"errors":[{error}],"data":{{"a":null}}}}"#), Some(Unknown)),
        (format!(r#"{{"data":{{"a":1,"a":null}},"errors":[{error}]}}"#), Some(Unknown)),
        (format!(r#"{{"errors":[{error}],"errors":[],"data":{{"a":null}}}}"#), Some(Unknown)),
        // Not JSON.
        (format!(r#"{{"errors":[{error}]}} x"#), None),
        (format!(r#"{{"errors":[{error}]"#), None),
        (format!("<html>{error}</html>"), None),
        (String::new(), None),
    ] {
        assert_eq!(rejection(text.as_bytes(), true), expected, "{text}");
    }
}

#[test]
fn a_text_in_another_encoding_does_not_hide_a_rejection() {
    let response = format!(r#"{{"errors":[{}],"data":{{"a":null}}}}"#, rejected("a"));
    let mut text = response.replace(r#""m""#, "\"?\"").into_bytes();
    let at = text.iter().position(|byte| *byte == b'?').expect("a message");
    text[at] = 0xe9;
    assert_eq!(rejection(&text, true), Some(Nothing));
}

#[test]
fn the_start_of_a_response_shows_a_rejection_but_proves_nothing() {
    let response = format!(r#"{{"errors":[{0},{0}],"data":{{"a":null}}}}"#, rejected("a"));
    let first_error = response.find("},{").expect("JSON") + 1;
    for end in 0..=response.len() {
        let expected = (end >= first_error).then_some(Unknown);
        assert_eq!(rejection(&response.as_bytes()[..end], false), expected, "{end}");
    }
}

#[test]
fn a_long_response_is_read_on_only_if_it_begins_like_a_rejection() {
    let errors = format!(r#""errors":[{}"#, rejected("a"));
    for (start, expected) in [
        (format!("{{{errors}"), true),
        (format!("\u{feff} {{ \n{errors}"), true),
        (format!("[ {{{errors}"), true),
        (format!(r#"{{"data":null,{errors}"#), false),
        (r#"{"errors":[{"message":"m"}"#.to_owned(), false),
        (r#"{"errors":[{"message":"it\u2019s 20\u00b0"}"#.to_owned(), false),
        (r#"{"errors":[{"extensions":{"code":"AUTH\u005fNOT_AUTHENTICATED"}}"#.to_owned(), true),
        (r#"{"errors":[{"extensions":{"code":"\u0041UTH_NOT_AUTHENTICATED"}}"#.to_owned(), true),
        (format!("<p>{errors}"), false),
        (String::new(), false),
    ] {
        assert_eq!(begins_like_rejection(start.as_bytes()), expected, "{start}");
    }
}

#[test]
fn only_a_document_that_can_be_read_is_clearly_a_query() {
    for (body, expected) in [
        (json!({"query": "{ a }"}), true),
        (
            json!({"query": "query Q { mutations { mutationType } }", "variables": {"a": "mutation"}}),
            true,
        ),
        (json!({"query": "\u{feff} # a\r# b\n,query { a }", "operationName": null}), true),
        (json!({"query": "fragment F on T { a } query { ...F }"}), true),
        (json!({"query": "subscription { a }"}), true),
        (json!([{"query": "{ a }"}, {"query": "{ b }"}]), true),
        (
            json!({"query": "{ a }", "id": null, "extensions": {"persistedQuery": {"version": 1}}}),
            true,
        ),
        (json!({"query": "mutation { a }"}), false),
        (json!({"query": "query A { a } mutation{ b }", "operationName": "A"}), false),
        (json!({"query": "\n#c\nmutation($a:Int){a}"}), false),
        // Persisted operations, whose text is missing or may not count.
        (json!({"query": "", "id": "persisted-mutation"}), false),
        (json!({"query": " \n# nothing here", "extensions": {"persistedQuery": {}}}), false),
        (json!({"extensions": {"persistedQuery": {}}}), false),
        (json!({"query": null}), false),
        (json!({"query": "{ a }", "id": "x"}), false),
        (json!({"query": "{ a }", "documentId": "x"}), false),
        (json!({"query": "{ a }", "document_id": "x"}), false),
        (json!({"query": "{ a }", "query_id": 1}), false),
        (json!({"query": "{ a }", "DocId": "x", "id": null}), false),
        (json!({"query": "{ a }", "Query": "mutation { b }"}), false),
        (json!({"query": "{ a }", "id": null, "key": 1, "variables": {"id": [[{}]]}}), true),
        (json!([{"query": "{ a }"}, {"query": "mutation { b }"}]), false),
        (json!([{"query": "{ a }"}, {"id": "x"}]), false),
        (json!([]), false),
        (json!(["{ a }"]), false),
        (json!({"query": ["{ a }"]}), false),
        (json!("{ a }"), false),
    ] {
        let body = body.to_string();
        assert_eq!(is_clearly_query(body.as_bytes()), expected, "{body}");
    }
    for (body, expected) in [
        (r#"{"query":"\u006dutation { a }"}"#, false),
        (r#"{"query":"{ a }","query":"mutation { a }"}"#, false),
        (r#"{"query":"{ a }","id":"x","id":null}"#, false),
        ("{ a }", false),
        ("", false),
    ] {
        assert_eq!(is_clearly_query(body.as_bytes()), expected, "{body}");
    }
}

/// An independent reader, for comparison. Returns whether nothing was executed.
fn expected(body: &Value) -> Option<bool> {
    let responses = body.as_array().cloned().unwrap_or_else(|| vec![body.clone()]);
    let errors = |response: &Value| response["errors"].as_array().cloned().unwrap_or_default();
    let is_rejection = |error: &Value| error["extensions"]["code"] == CODE;
    if !responses.iter().flat_map(errors).any(|error| is_rejection(&error)) {
        return None;
    }
    Some(responses.iter().all(|response| {
        let Some(data) = response["data"].as_object() else { return false };
        let names: Vec<_> = data.keys().filter(|name| *name != "__typename").collect();
        !names.is_empty()
            && names.iter().all(|name| {
                let about = |error: &Value| error["path"][0] == ***name;
                let about: Vec<_> = errors(response).into_iter().filter(about).collect();
                let exactly = |error: &Value| is_rejection(error) && error["path"] == json!([name]);
                data[*name].is_null() && !about.is_empty() && about.iter().all(exactly)
            })
    }))
}

fn any_error() -> impl Strategy<Value = Value> {
    let code = select(vec![json!(CODE), json!(CODE), json!("OTHER"), json!(null), json!(7)]);
    let path = vec(select(vec![json!("a"), json!("b"), json!(0)]), 0..3);
    let odd = select(vec![json!(null), json!("x"), json!([]), json!({"message": CODE})]);
    prop_oneof![
        6 => (code, option::of(path)).prop_map(|(code, path)| error(code.as_str().unwrap_or("7"), json!(path))),
        1 => odd,
    ]
}

fn any_response() -> impl Strategy<Value = Value> {
    let name = select(vec!["a", "b", "__typename"]);
    let value = select(vec![json!(null), json!(null), json!(null), json!({"x": [1]}), json!(CODE)]);
    let data = prop_oneof![
        4 => vec((name, value), 0..3).prop_map(|members| members.into_iter().collect::<Value>()),
        1 => Just(Value::Null),
    ];
    (option::of(vec(any_error(), 0..4)), option::of(data)).prop_map(|(errors, data)| {
        let mut response = json!({"extensions": {"cost": 1.5e3}});
        if let Some(errors) = errors {
            response["errors"] = Value::Array(errors);
        }
        if let Some(data) = data {
            response["data"] = data;
        }
        response
    })
}

proptest! {
    #[test]
    fn a_random_response_is_read_as_an_independent_reader_does(
        body in prop_oneof![
            any_response(),
            vec(any_response(), 0..3).prop_map(Value::Array),
        ]
    ) {
        let text = body.to_string();
        let read = rejection(text.as_bytes(), true);
        prop_assert_eq!(read.map(|executed| executed == Nothing), expected(&body), "{}", text);
    }
}
