//! The cache, on paused time with scripted sources and without sockets.

mod attempts;
mod clocks;
mod concurrency;
mod context;
mod cooldown;
mod credentials_rotation;
mod keep_fresh;
mod late;
mod lifecycle;
mod newer_token;
mod panics;
mod policy;
mod replace;
mod runtimes;
mod simulation;
mod status;
mod token;
mod valid_for;

use sitecore_auth::TokenCache;
use tokio::time::advance;

use crate::support::{DAY, HOUR, PausedClock, ScriptedSource, Step, cache_of, text};

/// Returns a cache whose 24-hour token is 20 hours old: stale, but usable for another 3 h 59 min.
/// Every later call of the source does `then`.
async fn stale_cache(then: Step) -> (ScriptedSource, TokenCache) {
    let source = ScriptedSource::new([Step::Grant(DAY)], then);
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.unwrap();
    advance(20 * HOUR).await;
    (source, cache)
}

/// Returns the text of the token that a caller gets.
async fn token_text(cache: &TokenCache) -> String {
    text(&cache.token().await.expect("a token"))
}
