//! Any `Retry-After` and quota headers: no panic, and no wait of zero. Each line of the input is the value of one of
//! the headers, in turn.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let names = ["date", "retry-after", "auth0-client-quota-limit", "x-ratelimit-reset"];
    let mut headers = HeaderMap::new();
    for (line, name) in input.split(|byte| *byte == b'\n').zip(names.into_iter().cycle()).take(16) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    assert!(sitecore_token::fuzzing::wait(&headers).is_none_or(|wait| !wait.is_zero()));
});
