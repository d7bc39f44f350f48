//! The year of `aws-smithy-runtime`, by the wall clock, as its own SDK calls it. It is told nothing of refusals: it has
//! no call for that.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_smithy_runtime::expiring_cache::ExpiringCache;

use super::{DAY, World, Year, live};

pub(super) async fn year(world: Arc<World>) -> Year {
    let cache = ExpiringCache::<String, &'static str>::new(Duration::from_secs(10));
    live(&world, async |url: &str| {
        let now = || SystemTime::UNIX_EPOCH + world.wall();
        let token = match cache.yield_or_clear_if_expired(now()).await {
            Some(token) => Ok(token),
            None => {
                let load = || async {
                    let token = world.grant().await?;
                    Ok((token, now() + Duration::from_secs(DAY)))
                };
                cache.get_or_load(load).await
            }
        };
        token.is_ok_and(|token| world.accepts(url, &token))
    })
    .await
}
