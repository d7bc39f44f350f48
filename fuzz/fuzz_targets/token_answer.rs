//! Whatever a token endpoint answers: no panic, no token that no header can carry, no secret in what is
//! said. The input is the status, a line of content type, and the body.
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
    match sitecore_token::fuzzing::answer(status, &headers, body, SECRET) {
        Ok(answer) => {
            assert_eq!(status, 200);
            let token = answer.access_token().expose_secret();
            assert!(HeaderValue::from_str(&format!("Bearer {token}")).is_ok());
            assert!(!token.is_empty() && !token.contains(' '));
            assert!(
                answer
                    .expires_in()
                    .is_none_or(|life| !life.is_zero() && life <= sitecore_token::MAX_LIFETIME)
            );
            let _ = (answer.claims(), answer.scopes().count());
        }
        Err(error) => {
            let said = format!("{error}{error:?}{:?}", error.refusal()).to_ascii_lowercase();
            assert!(!said.contains(SECRET), "{said}");
        }
    }
});
