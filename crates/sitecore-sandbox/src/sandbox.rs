//! The sandbox: its servers, their shared state, and the settings and counters that tests use.

use std::{fmt, io, net::Ipv4Addr, sync::Arc, time::Duration};

use axum::http::StatusCode;
use tokio::{net::TcpListener, task::JoinSet};
use url::Url;

use crate::{
    api::{self, AUTHORING_PATH, DELIVERY_PATH},
    cloud::{Api, Client, ClientKind, Cloud, ENVIRONMENTS, Fault, PRODUCTION, Start},
};

const AUDIENCE: &str = "https://api.sitecorecloud.io";

/// The lifetime in Sitecore's documentation.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A running sandbox. Its servers stop accepting connections when it is dropped.
pub struct Sandbox {
    cloud: Arc<Cloud>,
    origins: [Url; 4],
    clients: [Client; 3],
    _servers: JoinSet<io::Result<()>>,
}

impl Sandbox {
    /// Starts a sandbox with the default settings: three clients, and tokens that last 24 h.
    ///
    /// # Errors
    ///
    /// If it cannot listen on loopback or generate a key.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops everything that it started.
    pub async fn start() -> io::Result<Self> {
        Self::builder().start().await
    }

    /// Creates a builder for a sandbox with other settings.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder {
            token_lifetime: TOKEN_LIFETIME,
            audience: AUDIENCE.to_owned(),
            port: None,
            rejection_status: StatusCode::OK,
            numbered_tokens: true,
            clients: Vec::new(),
        }
    }

    /// Returns the issuer's origin, for `SITECORE_AUTH_AUTHORITY`.
    #[must_use]
    pub fn authority(&self) -> &Url {
        self.origin(Api::Token)
    }

    /// Returns the URL of the token endpoint.
    #[must_use]
    pub fn token_url(&self) -> Url {
        join(self.authority(), "oauth/token")
    }

    /// Returns the audience that token requests must specify.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.cloud.audience
    }

    /// Returns the URL of the Authoring GraphQL API.
    #[must_use]
    pub fn authoring_url(&self) -> Url {
        join(self.origin(Api::Authoring), AUTHORING_PATH)
    }

    /// Returns the URL of Experience Edge's Delivery API.
    #[must_use]
    pub fn delivery_url(&self) -> Url {
        join(self.origin(Api::Edge), DELIVERY_PATH)
    }

    /// Returns an API's origin (scheme, host and port).
    #[must_use]
    pub fn origin(&self, api: Api) -> &Url {
        &self.origins[api as usize]
    }

    /// Returns the URL of a path on an API's origin.
    ///
    /// # Panics
    ///
    /// If `path` is not a valid URL path.
    #[must_use]
    pub fn url(&self, api: Api, path: &str) -> Url {
        join(self.origin(api), path)
    }

    /// Returns the environment automation client.
    #[must_use]
    pub fn environment(&self) -> &Client {
        &self.clients[0]
    }

    /// Returns the organization automation client.
    #[must_use]
    pub fn organization(&self) -> &Client {
        &self.clients[1]
    }

    /// Returns the Edge administration client.
    #[must_use]
    pub fn edge_administration(&self) -> &Client {
        &self.clients[2]
    }

    /// Returns the environment variables for a program that uses the sandbox: the issuer, the
    /// addresses of the APIs, an Edge key, which is created if necessary, and the credentials of
    /// the default clients. `SITECORE_AUTH_CLIENT_ID` and `_SECRET` belong to the organization
    /// automation client; the others start with `SITECORE_ENVIRONMENT` and `SITECORE_EDGE`. Pass
    /// them to [`Command::envs`](std::process::Command::envs).
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = Vec::new();
        let clients = [
            ("SITECORE_AUTH", self.organization()),
            ("SITECORE_ENVIRONMENT", self.environment()),
            ("SITECORE_EDGE", self.edge_administration()),
        ];
        for (prefix, client) in clients {
            variables.push((format!("{prefix}_CLIENT_ID"), client.id().to_owned()));
            variables.push((format!("{prefix}_CLIENT_SECRET"), client.secret().to_owned()));
        }
        let origin = |api| self.origin(api).as_str().trim_end_matches('/').to_owned();
        let others = [
            ("SITECORE_AUTH_AUTHORITY", origin(Api::Token)),
            ("SITECORE_AUTH_AUDIENCE", self.audience().to_owned()),
            ("SITECORE_AUTHORING_URL", self.authoring_url().to_string()),
            ("SITECORE_DEPLOY_URL", origin(Api::Deploy)),
            ("SITECORE_EDGE_URL", origin(Api::Edge)),
            ("SITECORE_EDGE_TOKEN", self.edge_key()),
            ("SITECORE_EDGE_CONTEXT_ID", self.edge_context_id()),
        ];
        variables.extend(others.map(|(name, value)| (name.to_owned(), value)));
        variables
    }

    /// Queues faults for the API's next calls, one each.
    pub fn script(&self, api: Api, faults: impl IntoIterator<Item = Fault>) {
        self.cloud.queue_faults(api, faults);
    }

    /// Applies this fault to every call until [`heal`](Self::heal). Queued faults come first.
    pub fn break_down(&self, api: Api, fault: Fault) {
        self.cloud.add_faults(api, fault, None);
    }

    /// Removes all faults of an API, including queued ones.
    pub fn heal(&self, api: Api) {
        self.cloud.heal(api);
    }

    /// Sets the lifetime of tokens granted from now on.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.cloud.set_token_lifetime(lifetime);
    }

    /// Signs new tokens with a new key. The previous key still verifies tokens; older keys do not.
    ///
    /// # Errors
    ///
    /// If it cannot generate a key.
    pub fn rotate_keys(&self) -> io::Result<()> {
        self.cloud.keys.rotate()
    }

    /// Revokes all tokens granted so far. The APIs reject them.
    ///
    /// A cache replaces the first rejected token at once, but waits before it replaces another one.
    /// To test that again, use a new cache.
    pub fn revoke_tokens(&self) {
        self.cloud.keys.revoke_all();
    }

    /// Revokes all Edge keys created so far. The Delivery API rejects them.
    pub fn revoke_edge_keys(&self) {
        self.cloud.edge_keys.revoke_all();
    }

    /// Returns the Edge key of the production environment, for `SITECORE_EDGE_TOKEN`.
    #[must_use]
    pub fn edge_key(&self) -> String {
        self.cloud.edge_keys.of_environment(PRODUCTION)
    }

    /// Returns the live context id of the production environment, for `SITECORE_EDGE_CONTEXT_ID`.
    #[must_use]
    pub fn edge_context_id(&self) -> String {
        ENVIRONMENTS[0].live_context()
    }

    /// Returns how many times the Edge cache has been cleared.
    #[must_use]
    pub fn cache_clears(&self) -> u64 {
        *self.cloud.cache_clears.lock()
    }

    /// Returns how many tokens have been granted.
    #[must_use]
    pub fn tokens_granted(&self) -> u64 {
        self.cloud.tokens_granted()
    }

    /// Returns how many calls an API has received, successful or not.
    #[must_use]
    pub fn calls(&self, api: Api) -> u64 {
        self.cloud.calls(api)
    }

    /// Returns how many calls an API has rejected. For the issuer, these are the token requests
    /// that it refused. For the others, they are calls without a valid token or key, or whose token
    /// lacks the scope. Scripted faults are not counted.
    #[must_use]
    pub fn rejections(&self, api: Api) -> u64 {
        self.cloud.rejections(api)
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("origins", &self.origins).finish_non_exhaustive()
    }
}

/// Builder for a [`Sandbox`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `start` is called"]
pub struct SandboxBuilder {
    token_lifetime: Duration,
    audience: String,
    port: Option<u16>,
    rejection_status: StatusCode,
    numbered_tokens: bool,
    clients: Vec<Client>,
}

impl SandboxBuilder {
    /// Sets the first of four consecutive ports: for the issuer, Authoring, Deploy and Edge. By
    /// default, the system chooses ports.
    pub fn port(mut self, first: u16) -> Self {
        self.port = Some(first);
        self
    }

    /// Sets the lifetime of tokens; 24 h by default. Fractions of a second are rounded down in
    /// `expires_in` and up in `exp`.
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime = lifetime;
        self
    }

    /// Sets the audience that token requests must specify; Sitecore Cloud's by default.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = audience.into();
        self
    }

    /// Sets the status with which Authoring rejects a token; 200 by default. With another one, the
    /// response has no `data`, as with newer versions of its GraphQL server, which use 500 or 4xx.
    ///
    /// # Panics
    ///
    /// If `status` is not an HTTP status.
    pub fn authoring_rejection_status(mut self, status: u16) -> Self {
        self.rejection_status = StatusCode::from_u16(status).expect("an HTTP status");
        self
    }

    /// Leaves out the `jti` of tokens. Two tokens that a client gets within the same second are
    /// then identical, so the second is revoked if the first is.
    pub fn tokens_without_jti(mut self) -> Self {
        self.numbered_tokens = false;
        self
    }

    /// Adds a client to the three default ones.
    pub fn client(mut self, client: Client) -> Self {
        self.clients.push(client);
        self
    }

    /// Starts the servers on loopback.
    ///
    /// # Errors
    ///
    /// If it cannot listen on loopback or generate a key.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops everything that it started.
    pub async fn start(self) -> io::Result<Sandbox> {
        let clients = [
            Client::new(
                ClientKind::Environment,
                "sandbox-environment",
                "sandbox-environment-secret-0000000000000000000000000000000000001",
            ),
            Client::new(
                ClientKind::Organization,
                "sandbox-organization",
                "sandbox-organization-secret-000000000000000000000000000000000002",
            ),
            Client::new(
                ClientKind::EdgeAdministration,
                "sandbox-edge",
                "sandbox-edge-secret-00000000000000000000000000000000000000000003",
            ),
        ];
        let port = |offset| match self.port {
            Some(first) => first.checked_add(offset).ok_or(io::ErrorKind::InvalidInput),
            None => Ok(0),
        };
        let listeners = [
            listen(port(0)?).await?,
            listen(port(1)?).await?,
            listen(port(2)?).await?,
            listen(port(3)?).await?,
        ];
        let [authority, authoring, deploy, edge] = &listeners;
        let origins = [origin(authority)?, origin(authoring)?, origin(deploy)?, origin(edge)?];
        let cloud = Arc::new(Cloud::new(Start {
            origins: origins.clone(),
            clients: clients.iter().cloned().chain(self.clients).collect(),
            audience: self.audience,
            token_lifetime: self.token_lifetime,
            rejection_status: self.rejection_status,
            numbered_tokens: self.numbered_tokens,
        })?);
        let mut servers = JoinSet::new();
        for (api, listener) in Api::ALL.into_iter().zip(listeners) {
            let router = api::router(api, &cloud);
            servers.spawn(async move { axum::serve(listener, router).await });
        }
        Ok(Sandbox { cloud, origins, clients, _servers: servers })
    }
}

async fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| match port {
        0 => error,
        _ => io::Error::new(error.kind(), format!("cannot listen on port {port}: {error}")),
    })
}

fn origin(listener: &TcpListener) -> io::Result<Url> {
    Url::parse(&format!("http://{}/", listener.local_addr()?)).map_err(io::Error::other)
}

fn join(origin: &Url, path: &str) -> Url {
    origin.join(path).expect("a valid URL path")
}
