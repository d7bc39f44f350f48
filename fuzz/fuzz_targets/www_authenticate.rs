//! Any `WWW-Authenticate` values, one challenge per line: no panic. `insufficient_scope` and an additional Bearer
//! challenge are always recognized.
#![no_main]

use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};
use libfuzzer_sys::fuzz_target;
use sitecore_auth::fuzzing::rejects_token;

fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    assert!(rejects_token(&headers));
    for line in input.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(WWW_AUTHENTICATE, value);
        }
    }
    let text = String::from_utf8_lossy(input);
    let names_scope = text.contains("insufficient_scope") || text.contains('\\');
    let is_other_scheme =
        !text.to_ascii_lowercase().contains("bearer") && text.starts_with("Basic r");
    if is_other_scheme && input.iter().all(|byte| (b' '..0x7f).contains(byte)) {
        assert!(!rejects_token(&headers));
    }
    headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    assert!(names_scope || rejects_token(&headers));
    let scope = HeaderValue::from_static("Bearer error=\"insufficient_scope\"");
    headers.append(WWW_AUTHENTICATE, scope);
    assert!(!rejects_token(&headers));
});
