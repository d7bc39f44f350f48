//! Whatever stands in `WWW-Authenticate`, a line a challenge: no panic; what is said about the scope is heard;
//! a challenge of our own scheme beside it counts.
#![no_main]

use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};
use libfuzzer_sys::fuzz_target;
use sitecore_auth::fuzzing::refuses_token;

fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    assert!(refuses_token(&headers));
    for line in input.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(WWW_AUTHENTICATE, value);
        }
    }
    let text = String::from_utf8_lossy(input);
    let names_scope = text.contains("insufficient_scope") || text.contains('\\');
    let is_others = !text.to_ascii_lowercase().contains("bearer") && text.starts_with("Basic r");
    if is_others && input.iter().all(|byte| (b' '..0x7f).contains(byte)) {
        assert!(!refuses_token(&headers));
    }
    headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    assert!(names_scope || refuses_token(&headers));
    let scope = HeaderValue::from_static("Bearer error=\"insufficient_scope\"");
    headers.append(WWW_AUTHENTICATE, scope);
    assert!(!refuses_token(&headers));
});
