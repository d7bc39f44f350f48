//! The year of `aliri_tokens`, by the wall clock, with the jitter and backoff of its own example; its task's waits are
//! Tokio's, of 30 s at most. It is told nothing of refusals: it has no call for that.

use std::{io, sync::Arc};

use aliri_clock::{Clock, DurationSecs, UnixTime};
use aliri_tokens::{
    TokenWatcher, TokenWithLifetime, backoff::ErrorBackoffConfig, jitter::RandomEarlyJitter,
    sources::AsyncTokenSource,
};
use async_trait::async_trait;
use serde_json::json;

use super::{DAY, World, WorldClock, Year, live};

pub(super) async fn year(world: Arc<World>) -> Year {
    let watcher = TokenWatcher::spawn_from_token_source_with_clock(
        Source(Arc::clone(&world)),
        RandomEarlyJitter::new(DurationSecs(60)),
        ErrorBackoffConfig::default(),
        WorldClock(Arc::clone(&world)),
    );
    let watcher = watcher.await.expect("no outage yet");
    live(&world, async |url: &str| world.accepts(url, watcher.token().access_token().as_str()))
        .await
}

struct Source(Arc<World>);

#[async_trait]
impl AsyncTokenSource for Source {
    type Error = io::Error;

    async fn request_token(&mut self) -> io::Result<TokenWithLifetime> {
        let token = self.0.grant().await.map_err(io::Error::other)?;
        // What its default `TokenLifetimeConfig` would make, if it took a clock of ours.
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
