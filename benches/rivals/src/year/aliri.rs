//! The year of `aliri_tokens`, by the wall clock, with the jitter and backoff of its own example.
//! Its task waits by Tokio's clock, for at most 30 s. It has no way to report a rejected token.

use std::{io, sync::Arc};

use aliri_clock::{Clock, DurationSecs, UnixTime};
use aliri_tokens::{
    TokenWatcher, TokenWithLifetime, backoff::ErrorBackoffConfig, jitter::RandomEarlyJitter,
    sources::AsyncTokenSource,
};
use async_trait::async_trait;
use serde_json::json;

use super::world::{self, DAY, World, WorldClock, Year};

pub(super) async fn year(world: Arc<World>) -> Year {
    let watcher = TokenWatcher::spawn_from_token_source_with_clock(
        Source(Arc::clone(&world)),
        RandomEarlyJitter::new(DurationSecs(60)),
        ErrorBackoffConfig::default(),
        WorldClock(Arc::clone(&world)),
    );
    let watcher = watcher.await.expect("no outage yet");
    world::run(&world, async |url: &str| {
        world.accepts(url, watcher.token().access_token().as_str())
    })
    .await
}

struct Source(Arc<World>);

#[async_trait]
impl AsyncTokenSource for Source {
    type Error = io::Error;

    async fn request_token(&mut self) -> io::Result<TokenWithLifetime> {
        let token = self.0.request_token().await.map_err(io::Error::other)?;
        // What its default `TokenLifetimeConfig` would create if it accepted another clock.
        let issued = self.0.wall().as_secs();
        let token = json!({
            "access_token": token,
            "id_token": null,
            "lifetime": DAY,
            "issued": issued,
            "stale": issued + DAY * 3 / 4,
            "expiry": issued + DAY,
        });
        Ok(serde_json::from_value(token)?)
    }
}

impl Clock for WorldClock {
    fn now(&self) -> UnixTime {
        UnixTime(self.0.wall().as_secs())
    }
}
