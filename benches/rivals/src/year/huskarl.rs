//! The year of `huskarl`, by the wall clock, with a monotonic clock for its circuit breaker, which
//! a 503 does not open. As in its guide, it processes the response that rejects a token, and the
//! call is then repeated.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use huskarl::{
    authorizer::HttpAuthorizer,
    cache::{GrantTokenSource, InMemoryRefreshTokenStore, InMemoryTokenCache},
    core::{
        Error,
        client_auth::ClientSecret,
        http::{HttpClient, HttpResponse, Idempotency},
        platform::MaybeSendBoxFuture,
        secrets::ProvidedSecret,
        time::{Clock, MonotonicInstant, Timer, TimerDomain},
    },
    grant::client_credentials::{ClientCredentialsGrant, ClientCredentialsGrantParameters},
};
use serde_json::json;

use super::world::{self, CHALLENGE, DAY, World, WorldClock, Year};

/// Only rejections by these APIs are reported.
pub(super) async fn year(world: Arc<World>, by: &[&str]) -> Year {
    let endpoint = "https://issuer.example/token".parse();
    let grant = ClientCredentialsGrant::builder()
        .client_id("client")
        .client_auth(ClientSecret::new(ProvidedSecret::new("secret".into())))
        .token_endpoint(endpoint.expect("a URL"))
        .http_client(Transport(Arc::clone(&world)))
        .clock(WorldClock(Arc::clone(&world)))
        .timer(WorldTimer(Arc::clone(&world), TimerDomain::new()))
        .build();
    let source = GrantTokenSource::builder()
        .grant(grant)
        .grant_parameters(ClientCredentialsGrantParameters::builder().build())
        .refresh_store(InMemoryRefreshTokenStore::default())
        .build();
    let cache = InMemoryTokenCache::builder().source(source).build();
    let authorizer = HttpAuthorizer::builder().cache(cache).build();
    let rejection = HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE))]);
    let send = async |url: &str| {
        let uri: Uri = url.parse().expect("a URI");
        let headers = authorizer.get_headers(&Method::GET, &uri).await.ok()?;
        let is_accepted = world.accepts(url, headers.get(AUTHORIZATION)?.to_str().ok()?);
        if !is_accepted && by.contains(&url) {
            authorizer.process_response(&uri, &rejection);
        }
        Some(is_accepted)
    };
    world::run(&world, async |url: &str| match send(url).await {
        Some(false) => send(url).await == Some(true),
        first => first == Some(true),
    })
    .await
}

/// Passes the token request to the issuer.
struct Transport(Arc<World>);

impl HttpClient for Transport {
    fn execute(
        &self,
        _request: Request<Bytes>,
        _idempotency: Idempotency,
    ) -> MaybeSendBoxFuture<'_, Result<HttpResponse, Error>> {
        Box::pin(async {
            let (status, body) = match self.0.request_token().await {
                Ok(token) => {
                    let response =
                        json!({"access_token": token, "token_type": "Bearer", "expires_in": DAY});
                    (StatusCode::OK, Bytes::from(response.to_string()))
                }
                Err(_) => (StatusCode::SERVICE_UNAVAILABLE, Bytes::new()),
            };
            Ok(HttpResponse { status, headers: HeaderMap::new(), body })
        })
    }
}

impl Clock for WorldClock {
    fn now(&self) -> jiff::Timestamp {
        let wall = SystemTime::UNIX_EPOCH + self.0.wall();
        wall.try_into().expect("a timestamp")
    }
}

#[derive(Debug)]
struct WorldTimer(Arc<World>, TimerDomain);

impl Timer for WorldTimer {
    fn now(&self) -> MonotonicInstant {
        MonotonicInstant::from_duration_since_origin(self.1, self.0.started.elapsed())
    }

    fn sleep_until(&self, deadline: MonotonicInstant) -> MaybeSendBoxFuture<'_, ()> {
        deadline.assert_same_domain(self.1);
        let deadline = self.0.started + deadline.duration_since_origin();
        Box::pin(tokio::time::sleep_until(deadline))
    }
}
