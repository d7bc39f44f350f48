//! The year of `aws-smithy-runtime`, by the wall clock, called as by its own SDK. It has no way to
//! report a rejected token.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_smithy_runtime::expiring_cache::ExpiringCache;

use super::world::{self, DAY, World, Year};

pub(super) async fn year(world: Arc<World>) -> Year {
    let cache = ExpiringCache::<String, &'static str>::new(Duration::from_secs(10));
    world::run(&world, async |url: &str| {
        let now = || SystemTime::UNIX_EPOCH + world.wall();
        let token = match cache.yield_or_clear_if_expired(now()).await {
            Some(token) => Ok(token),
            None => {
                let load = || async {
                    let token = world.request_token().await?;
                    Ok((token, now() + Duration::from_secs(DAY)))
                };
                cache.get_or_load(load).await
            }
        };
        token.is_ok_and(|token| world.accepts(url, &token))
    })
    .await
}
