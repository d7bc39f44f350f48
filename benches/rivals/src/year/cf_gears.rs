//! The year of `cf-gears-toolkit-auth`, by Tokio's monotonic clock. Called as its layers call it: that which refreshes
//! drops the token at a 401, and makes the call once more with another. The layer itself has a limit of its own, of one
//! drop in 15 min by std's clock, which cannot be paused; calls so seldom as these do not come to it.

use std::sync::Arc;

use toolkit_auth::{OAuthClientConfig, SecretString, TokenProvider};
use url::Url;

use super::{World, Year, live, loopback};

/// The layer that refreshes is before these APIs, the plain one before the others.
pub(super) async fn year(world: Arc<World>, refreshing: &[&str]) -> Year {
    let token_url = loopback::serve(&world).await;
    let config = OAuthClientConfig {
        token_endpoint: Some(Url::parse(&token_url).expect("a URL")),
        client_id: "client".to_owned(),
        client_secret: SecretString::new("secret"),
        ..OAuthClientConfig::default()
    };
    let provider = TokenProvider::new(config).expect("a provider");
    live(&world, async |url: &str| {
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
