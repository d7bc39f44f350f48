//! Reads whatever a store may return. An altered entry never opens. An entry of any content never
//! makes a token younger than it can be, and never causes a panic.
#![no_main]

use std::{sync::LazyLock, time::Duration};

use libfuzzer_sys::fuzz_target;
use sitecore_token_store::fuzzing::{adopt, open, seal};

const TEXT: &[u8] = br#"{"written_at":1,"keep":2,"token":null,"failure":null}"#;
static SEALED: LazyLock<Vec<u8>> = LazyLock::new(|| seal(TEXT));
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3_600);

fuzz_target!(|input: &[u8]| {
    assert_eq!(open(&SEALED).as_deref(), Some(TEXT));
    assert!(open(input).is_none() || input == *SEALED);
    alter(input);

    let mut numbers = input.chunks_exact(8).map(|bytes| {
        let number = u64::from_le_bytes(bytes.try_into().unwrap());
        // Most of them are close together.
        if number % 8 == 0 { number } else { 1_800_000_000_000 + number % 100_000_000 }
    });
    let mut number = || numbers.next().unwrap_or(0);
    let text = format!(
        r#"{{"written_at":{},"keep":{},"token":{{"header":"authorization","value":"t","issued_at":{},"lifetime":{}}},
        "failure":{{"kind":"refused","message":"m","count":{},"failed_at":{},"retry_at":{},"by_issuer":{},"saved_by":2}}}}"#,
        number(),
        number(),
        number(),
        number() % (1 << 40),
        number() % (1 << 32),
        number(),
        number(),
        number() % 2 == 0,
    );
    let now = Duration::from_millis(number());
    let remaining = number();
    let remaining = (remaining % 2 == 0).then(|| Duration::from_millis(remaining));
    for text in [text.as_bytes(), input] {
        match adopt(text, now, remaining) {
            Some(Ok(token)) => {
                if let Some(lifetime) = token.lifetime() {
                    assert!(lifetime <= MONTH && token.age() < lifetime);
                }
            }
            Some(Err(error)) => {
                assert!(error.retry_after().is_none_or(|wait| wait <= HOUR + MINUTE))
            }
            None => {}
        }
    }
});

/// Truncates, extends and changes a valid entry.
fn alter(input: &[u8]) {
    let mut altered = SEALED.clone();
    for change in input.chunks_exact(3) {
        let position = usize::from(u16::from_le_bytes([change[0], change[1]]));
        let length = altered.len();
        match position.checked_sub(length) {
            None => altered[position] ^= change[2],
            Some(0) => altered.push(change[2]),
            Some(more) => altered.truncate(more % (length + 1)),
        }
        assert!(altered == *SEALED || open(&altered).is_none());
        if altered.is_empty() {
            break;
        }
    }
}
