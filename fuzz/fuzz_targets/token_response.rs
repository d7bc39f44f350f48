//! Any response of a token endpoint: no panic, no token that a header cannot carry, and no secret in an error. The
//! input is the status, a line with the content type, and the body.
#![no_main]

use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use libfuzzer_sys::fuzz_target;
use secrecy::ExposeSecret;

const SECRET: &str = "sentinel";

fuzz_target!(|input: &[u8]| {
    let [status, rest @ ..] = input else { return };
    let statuses = [200, 200, 200, 201, 302, 400, 401, 403, 404, 429, 500, 503];
    let status = StatusCode::from_u16(statuses[usize::from(*status) % statuses.len()]).unwrap();
    let line = rest.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (content_type, body) = rest.split_at(line);
    let mut headers = HeaderMap::new();
    if let Ok(content_type) = HeaderValue::from_bytes(content_type) {
        headers.insert(CONTENT_TYPE, content_type);
    }
    match sitecore_token::fuzzing::interpret(status, &headers, body, SECRET) {
        Ok(response) => {
            assert_eq!(status, 200);
            let token = response.access_token().expose_secret();
            assert!(HeaderValue::from_str(&format!("Bearer {token}")).is_ok());
            assert!(!token.is_empty() && !token.contains(' '));
            assert!(response.expires_in().is_none_or(
                |lifetime| !lifetime.is_zero() && lifetime <= sitecore_token::MAX_LIFETIME
            ));
            let _ = (response.claims(), response.scopes().count());
        }
        Err(error) => {
            let text = format!("{error}{error:?}{:?}", error.refusal()).to_ascii_lowercase();
            assert!(!text.contains(SECRET), "{text}");
        }
    }
});
