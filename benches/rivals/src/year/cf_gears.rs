//! The year of `cf-gears-toolkit-auth`, by Tokio's monotonic clock, called as by its two tower
//! services. The refreshing one drops the token after a 401 and repeats the call with another. It
//! is not used itself, because it allows one drop in 15 min by std's clock, which cannot be paused.
//! Calls as rare as these hardly ever reach that limit.

use std::sync::Arc;

use toolkit_auth::{OAuthClientConfig, SecretString, TokenProvider};
use url::Url;

use super::{
    loopback,
    world::{self, World, Year},
};

/// Calls these APIs as the refreshing service does, and the others as the plain one does.
pub(super) async fn year(world: Arc<World>, refreshing: &[&str]) -> Year {
    let token_url = loopback::serve(&world).await;
    let config = OAuthClientConfig {
        token_endpoint: Some(Url::parse(&token_url).expect("a URL")),
        client_id: "client".to_owned(),
        client_secret: SecretString::new("secret"),
        ..OAuthClientConfig::default()
    };
    let provider = TokenProvider::new(config).expect("a provider");
    world::run(&world, async |url: &str| {
        let Ok(token) = provider.get().await else {
            return false;
        };
        if world.accepts(url, token.expose()) {
            return true;
        }
        if !refreshing.contains(&url) || provider.invalidate().await.is_err() {
            return false;
        }
        let other = provider.get().await;
        other.is_ok_and(|other| world.accepts(url, other.expose()))
    })
    .await
}
