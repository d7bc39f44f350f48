//! `huskarl`: a certified OAuth2 client, with a cache that refreshes tokens while callers wait.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header::AUTHORIZATION};
use huskarl::{
    authorizer::HttpAuthorizer,
    cache::{GrantTokenSource, InMemoryRefreshTokenStore, InMemoryTokenCache},
    core::{
        EndpointUrl, Error,
        client_auth::ClientSecret,
        http::{HttpClient, HttpResponse, Idempotency},
        platform::MaybeSendBoxFuture,
        secrets::ProvidedSecret,
    },
    grant::client_credentials::{ClientCredentialsGrant, ClientCredentialsGrantParameters},
};

use super::{Rival, text_of};
use crate::issuer::Issuer;

pub struct Huskarl {
    authorizer: HttpAuthorizer,
    uri: Uri,
}

impl Rival for Huskarl {
    const NAME: &'static str = "huskarl 0.11.10";
    const SETUP: &'static str = "In process: an `HttpClient` for a `ClientCredentialsGrant`, in \
                                 the `HttpAuthorizer` of its caching guide.";

    const STALE: Result<(Duration, Duration), &'static str> =
        Err("draws its refresh time at random from the whole refresh window");

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        let token_endpoint = EndpointUrl::try_from(issuer.token_url()).map_err(text_of)?;
        let grant = ClientCredentialsGrant::builder()
            .client_id("client")
            .client_auth(ClientSecret::new(ProvidedSecret::new("secret".into())))
            .token_endpoint(token_endpoint)
            .http_client(Transport(issuer.clone()))
            .build();
        let source = GrantTokenSource::builder()
            .grant(grant)
            .grant_parameters(ClientCredentialsGrantParameters::builder().build())
            .refresh_store(InMemoryRefreshTokenStore::default())
            .build();
        let cache = InMemoryTokenCache::builder().source(source).build();
        Ok(Self {
            authorizer: HttpAuthorizer::builder().cache(cache).build(),
            uri: Uri::from_static("https://api.example.com/"),
        })
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        let headers = self.authorizer.get_headers(&Method::GET, &self.uri);
        let header = headers.await.map_err(text_of)?.remove(AUTHORIZATION);
        header.ok_or_else(|| "no authorization".to_owned())
    }
}

/// Passes the token request to the issuer without a network.
struct Transport(Issuer);

impl HttpClient for Transport {
    fn execute(
        &self,
        _request: Request<Bytes>,
        _idempotency: Idempotency,
    ) -> MaybeSendBoxFuture<'_, Result<HttpResponse, Error>> {
        Box::pin(async {
            let (status, body) = match self.0.request_token_json().await {
                Ok(response) => (StatusCode::OK, Bytes::from(response.to_string())),
                Err(_) => (StatusCode::SERVICE_UNAVAILABLE, Bytes::new()),
            };
            Ok(HttpResponse { status, headers: HeaderMap::new(), body })
        })
    }
}
