//! The simulated APIs. They stand in for the network behind the middleware.

use std::sync::LazyLock;

use async_trait::async_trait;
use http::Extensions;
use reqwest::{Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use sitecore_auth::{AuthMiddleware, Clock as _, ManualClock, Target, TokenCache};
use url::Url;

use super::{operations::Api, source::Source};

/// Responds to every request, without a network.
struct Apis {
    source: Source,
    clock: ManualClock,
}

impl Api {
    pub(super) fn url(self) -> Url {
        let url = match self {
            Self::Tolerant => "https://tolerant.example/".to_owned(),
            Self::Late => "https://late.example/".to_owned(),
            Self::Strict(number) => format!("https://strict-{number}.example/"),
        };
        url.parse().unwrap()
    }
}

/// Returns a client that gets the tokens for all APIs from this cache.
pub(super) fn client(
    cache: TokenCache,
    source: Source,
    clock: ManualClock,
) -> ClientWithMiddleware {
    let apis = [Api::Tolerant, Api::Late].into_iter().chain(Api::strict());
    let targets = apis.map(|api| Target::origin(api.url()).unwrap());
    let auth = targets.fold(AuthMiddleware::builder(cache), |auth, target| auth.target(target));
    // Building one takes longer than a whole case.
    static NETWORK: LazyLock<reqwest::Client> = LazyLock::new(reqwest::Client::new);
    ClientBuilder::new(NETWORK.clone())
        .with(auth.build().unwrap())
        .with(Apis { source, clock })
        .build()
}

impl Apis {
    fn accepts(&self, request: &Request) -> bool {
        let token = request.headers()["authorization"].to_str().unwrap();
        let name = token.trim_start_matches("Bearer ");
        match request.url().host_str() {
            Some("tolerant.example") => true,
            Some("late.example") => {
                let now = self.clock.now().monotonic();
                let source = self.source.lock();
                // The API already knows the first token.
                name.ends_with("-1")
                    || source.tokens[name].iter().any(|granted| {
                        let age = now.saturating_sub(granted.requested_at.monotonic());
                        granted.age + age >= granted.settling_time()
                    })
            }
            _ => false,
        }
    }
}

#[async_trait]
impl Middleware for Apis {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let status = if self.accepts(&request) { 200 } else { 401 };
        if status == 401 {
            let token = request.headers()["authorization"].to_str().unwrap();
            let name = token.trim_start_matches("Bearer ").to_owned();
            self.source.lock().rejected.insert(name);
        }
        let response = http::Response::builder().status(status).url(request.url().clone());
        Ok(response.body("").unwrap().into())
    }
}
