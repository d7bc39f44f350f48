//! What a token shows, and what it can consist of.

use sitecore_auth::{Error, ErrorKind, Token};

use crate::support::{DAY, HOUR, PausedClock, ScriptedSource, cache_of};

#[tokio::test(start_paused = true)]
async fn a_token_shows_its_expiry_but_not_its_text() {
    let clock = PausedClock::new();
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, clock);
    let token = cache.token().await.unwrap();
    let (name, value) = token.header();
    assert_eq!((name.as_str(), value.is_sensitive()), ("authorization", true));
    assert_eq!(value.as_bytes(), b"Bearer token-1");
    assert_eq!(token.lifetime(), Some(DAY));
    let expires = token.expires_at().expect("an expiry").timestamp();
    assert_eq!(expires, 1_800_000_000 + 100_000 + 86_400);
    let again = Token::bearer("token-1", HOUR).unwrap();
    assert_eq!(token.fingerprint(), again.fingerprint());
    assert_ne!(token.fingerprint(), Token::bearer("token-2", DAY).unwrap().fingerprint());
    for shown in [format!("{token:?}{token:#?}"), format!("{cache:?}{cache:#?}")] {
        assert!(
            shown.contains(&token.fingerprint().to_string()) && !shown.contains("token-1"),
            "{shown}"
        );
    }
}

#[test]
fn text_that_does_not_fit_a_header_is_not_a_token() {
    for bad in ["", "two words", "line\nend", "ü"] {
        let error: Error = Token::bearer(bad, HOUR).expect_err(bad);
        assert_eq!(error.kind(), ErrorKind::Malformed);
        let error = Token::api_key("sc_apikey".parse().unwrap(), bad).expect_err(bad);
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
}
