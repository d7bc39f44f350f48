//! The year of `google-cloud-auth`, by Tokio's monotonic clock. It has no way to report a rejected
//! token.

use std::sync::Arc;

use google_cloud_auth::credentials::{CacheableResource, user_account::Builder};
use http::{Extensions, header::AUTHORIZATION};
use serde_json::json;

use super::{
    loopback,
    world::{self, World, Year},
};

pub(super) async fn year(world: Arc<World>) -> Year {
    let user = json!({
        "type": "authorized_user",
        "client_id": "client",
        "client_secret": "secret",
        "refresh_token": "refresh",
    });
    let builder = Builder::new(user).with_token_uri(loopback::serve(&world).await);
    let credentials = builder.build().expect("credentials");
    world::run(&world, async |url: &str| {
        let headers = credentials.headers(Extensions::new()).await;
        let Ok(CacheableResource::New { data, .. }) = headers else {
            return false;
        };
        let header = data.get(AUTHORIZATION);
        let header = header.and_then(|header| header.to_str().ok());
        header.is_some_and(|header| world.accepts(url, header))
    })
    .await
}
