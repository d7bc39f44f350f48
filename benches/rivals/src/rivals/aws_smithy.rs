//! `aws-smithy-runtime`: the cache inside the AWS SDK's identity cache.

use std::time::{Duration, SystemTime};

use aws_smithy_runtime::expiring_cache::ExpiringCache;
use http::HeaderValue;

use super::{Rival, bearer, text_of};
use crate::issuer::Issuer;

/// The default of the SDK's `LazyCacheBuilder`.
const BUFFER_TIME: Duration = Duration::from_secs(10);

pub struct AwsSmithy {
    cache: ExpiringCache<HeaderValue, String>,
    issuer: Issuer,
}

impl Rival for AwsSmithy {
    const NAME: &'static str = "aws-smithy-runtime 1.16.2";
    const SETUP: &'static str =
        "In process: a future for `ExpiringCache::get_or_load` that builds the header.";

    // Within the buffer time of 10 s.
    const STALE: Result<(Duration, Duration), &'static str> =
        Ok((Duration::from_millis(16_000), Duration::from_millis(6_200)));

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        Ok(Self { cache: ExpiringCache::new(BUFFER_TIME), issuer: issuer.clone() })
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        // Reads the clock and makes the same two calls as the SDK's `LazyCache`.
        let now = SystemTime::now();
        if let Some(header) = self.cache.yield_or_clear_if_expired(now).await {
            return Ok(header);
        }
        let load = || async {
            let granted = self.issuer.request_token().await.map_err(text_of)?;
            Ok((bearer(&granted.token)?, SystemTime::now() + granted.lifetime))
        };
        self.cache.get_or_load(load).await
    }
}
