//! The sandbox: its servers, their shared state, and the settings and counters that tests use.

use std::{
    collections::HashMap,
    fmt, io, iter,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};
use url::Url;

use crate::{
    Client, ClientKind, Fault, authoring,
    content::Tree,
    control, delivery,
    deploy::{self, Deployment},
    edge,
    edge_keys::EdgeKeys,
    fault::Script,
    issuer,
    keys::{Claims, Keys},
    publishing::Publish,
    shared::Shared,
};

const AUDIENCE: &str = "https://api.sitecorecloud.io";

/// The audience in the Sitecore CLI's settings. Its tokens are short-lived, and only CMs accept
/// them.
pub(crate) const CM_AUDIENCE: &str = "https://xmcloud-cm.sitecorecloud.io";

/// The lifetime in Sitecore's documentation.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A running sandbox. Its servers stop accepting connections when it is dropped.
pub struct Sandbox {
    world: Arc<World>,
    origins: [Url; 4],
    clients: [Client; 3],
    _servers: JoinSet<io::Result<()>>,
}

/// The sandbox's APIs. Each has its own origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Api {
    /// The issuer, `auth.sitecorecloud.io`: token endpoint, signing keys and discovery. Not to be
    /// confused with Edge's Token API.
    Token,
    /// The Authoring and Management GraphQL API of one CM instance.
    Authoring,
    /// The Deploy API, `xmclouddeploy-api.sitecorecloud.io`.
    Deploy,
    /// Experience Edge, `edge.sitecorecloud.io`: Admin, Token and Delivery API.
    Edge,
}

impl Api {
    pub(crate) const ALL: [Self; 4] = [Self::Token, Self::Authoring, Self::Deploy, Self::Edge];

    /// Returns the API's name for the command line and for tests over HTTP.
    #[doc(hidden)]
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Authoring => "authoring",
            Self::Deploy => "deploy",
            Self::Edge => "edge",
        }
    }

    /// Returns the API with this name.
    #[doc(hidden)]
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.name() == name)
    }
}

/// The state that the servers share.
pub(crate) struct World {
    pub(crate) keys: Keys,
    pub(crate) clients: Shared<Vec<Client>>,
    pub(crate) authority: Url,
    pub(crate) cm: Url,
    pub(crate) edge: Url,
    pub(crate) audience: String,
    pub(crate) content: Shared<Tree>,
    pub(crate) published: Shared<Tree>,
    pub(crate) publishes: Shared<Vec<Publish>>,
    /// Item paths of pending media uploads, by ticket.
    pub(crate) uploads: Shared<HashMap<String, String>>,
    pub(crate) deployments: Shared<Vec<Deployment>>,
    pub(crate) variables: Shared<deploy::Variables>,
    pub(crate) edge_keys: EdgeKeys,
    pub(crate) edge_settings: Shared<Value>,
    pub(crate) webhooks: Shared<Vec<Value>>,
    pub(crate) cache_clears: Shared<u64>,
    pub(crate) delivery_window: Shared<delivery::Window>,
    token_lifetime: Shared<Duration>,
    rejection_status: StatusCode,
    desks: [Desk; 4],
    tokens_granted: AtomicU64,
    serial: AtomicU64,
}

/// The scripted faults and the counters of one API.
#[derive(Default)]
struct Desk {
    script: Script,
    calls: AtomicU64,
    rejections: AtomicU64,
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
        &self.world.audience
    }

    /// Returns the URL of the Authoring GraphQL API.
    #[must_use]
    pub fn authoring_url(&self) -> Url {
        join(self.origin(Api::Authoring), authoring::PATH)
    }

    /// Returns the URL of Experience Edge's Delivery API.
    #[must_use]
    pub fn delivery_url(&self) -> Url {
        join(self.origin(Api::Edge), delivery::PATH)
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

    /// Queues faults for the API's next calls, one each.
    pub fn script(&self, api: Api, faults: impl IntoIterator<Item = Fault>) {
        self.world.desk(api).script.push(faults);
    }

    /// Applies this fault to every call until [`heal`](Self::heal). Drops the faults queued so far;
    /// faults queued later come first.
    pub fn break_down(&self, api: Api, fault: Fault) {
        self.world.desk(api).script.set_lasting(Some(fault));
    }

    /// Removes all faults of an API, including queued ones.
    pub fn heal(&self, api: Api) {
        self.world.heal(api);
    }

    /// Sets the lifetime of tokens granted from now on.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.world.set_token_lifetime(lifetime);
    }

    /// Signs new tokens with a new key. The previous key still verifies tokens; older keys do not.
    ///
    /// # Errors
    ///
    /// If it cannot generate a key.
    pub fn rotate_keys(&self) -> io::Result<()> {
        self.world.keys.rotate()
    }

    /// Revokes all tokens granted so far. The APIs reject them.
    ///
    /// A cache replaces the first rejected token at once, but waits before it replaces another one.
    /// To test that again, use a new cache.
    pub fn revoke_tokens(&self) {
        self.world.keys.revoke_all();
    }

    /// Revokes all Edge keys created so far. The Delivery API rejects them.
    pub fn revoke_edge_keys(&self) {
        self.world.edge_keys.revoke_all();
    }

    /// Returns the Edge key of the production environment, for `SITECORE_EDGE_TOKEN`.
    #[must_use]
    pub fn edge_key(&self) -> String {
        self.world.edge_keys.of_environment(deploy::PRODUCTION)
    }

    /// Returns how often the Edge cache has been cleared.
    #[must_use]
    pub fn cache_clears(&self) -> u64 {
        *self.world.cache_clears.lock()
    }

    /// Returns how many tokens have been granted.
    #[must_use]
    pub fn tokens_granted(&self) -> u64 {
        self.world.tokens_granted()
    }

    /// Returns how many calls an API has received, successful or not.
    #[must_use]
    pub fn calls(&self, api: Api) -> u64 {
        self.world.calls(api)
    }

    /// Returns how many calls an API has rejected. For the issuer, these are the token requests
    /// that it refused. For the others, they are calls without a valid token or key, or whose token
    /// lacks the scope. Scripted faults are not counted.
    #[must_use]
    pub fn rejections(&self, api: Api) -> u64 {
        self.world.rejections(api)
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("origins", &self.origins).finish_non_exhaustive()
    }
}

impl World {
    fn desk(&self, api: Api) -> &Desk {
        &self.desks[api as usize]
    }

    /// Adds a fault for the API's next calls, or for all calls if `times` is `None`.
    pub(crate) fn add_faults(&self, api: Api, fault: Fault, times: Option<usize>) {
        match times {
            Some(times) => self.desk(api).script.push(iter::repeat_n(fault, times)),
            None => self.desk(api).script.set_lasting(Some(fault)),
        }
    }

    pub(crate) fn heal(&self, api: Api) {
        self.desk(api).script.set_lasting(None);
    }

    pub(crate) fn calls(&self, api: Api) -> u64 {
        self.desk(api).calls.load(Ordering::SeqCst)
    }

    pub(crate) fn rejections(&self, api: Api) -> u64 {
        self.desk(api).rejections.load(Ordering::SeqCst)
    }

    pub(crate) fn tokens_granted(&self) -> u64 {
        self.tokens_granted.load(Ordering::SeqCst)
    }

    pub(crate) fn set_token_lifetime(&self, lifetime: Duration) {
        *self.token_lifetime.lock() = lifetime;
    }

    pub(crate) fn issuer(&self) -> &str {
        self.authority.as_str()
    }

    pub(crate) fn token_lifetime(&self) -> Duration {
        *self.token_lifetime.lock()
    }

    /// Copies an item and its descendants from the edited to the published content.
    pub(crate) fn publish(&self, root: &str) {
        self.published.lock().adopt(&self.content.lock(), root);
    }

    /// Returns a different number each time.
    pub(crate) fn serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn count_granted(&self) {
        self.tokens_granted.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn count_rejection(&self, api: Api) {
        self.desk(api).rejections.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn rejection_status(&self) -> StatusCode {
        self.rejection_status
    }

    /// Returns the claims of a call's bearer token if that token is valid.
    pub(crate) fn claims(&self, headers: &HeaderMap) -> Option<Claims> {
        self.claims_for(headers, &[&self.audience])
    }

    /// As [`claims`](Self::claims), for a CM. It also accepts the Sitecore CLI's audience.
    pub(crate) fn cm_claims(&self, headers: &HeaderMap) -> Option<Claims> {
        self.claims_for(headers, &[&self.audience, CM_AUDIENCE])
    }

    fn claims_for(&self, headers: &HeaderMap, audiences: &[&str]) -> Option<Claims> {
        let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let bearer = scheme.eq_ignore_ascii_case("bearer");
        bearer.then(|| self.keys.verify(token.trim(), self.issuer(), audiences))?
    }
}

/// Counts a call, and applies the next scripted fault to it.
async fn front_desk(
    State((world, api)): State<(Arc<World>, Api)>,
    request: Request,
    next: Next,
) -> Response {
    let desk = world.desk(api);
    desk.calls.fetch_add(1, Ordering::SeqCst);
    match desk.script.next() {
        Some(fault) => fault.inflict(request, next).await,
        None => next.run(request).await,
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
        let world = Arc::new(World {
            keys: Keys::generate()?,
            clients: Shared::new(clients.iter().cloned().chain(self.clients).collect()),
            authority: origins[0].clone(),
            cm: origins[1].clone(),
            edge: origins[3].clone(),
            audience: self.audience,
            content: Shared::default(),
            published: Shared::default(),
            publishes: Shared::default(),
            uploads: Shared::default(),
            deployments: Shared::default(),
            variables: Shared::default(),
            edge_keys: EdgeKeys::default(),
            edge_settings: Shared::new(edge::settings()),
            webhooks: Shared::default(),
            cache_clears: Shared::default(),
            delivery_window: Shared::default(),
            token_lifetime: Shared::new(self.token_lifetime),
            rejection_status: self.rejection_status,
            desks: Default::default(),
            tokens_granted: AtomicU64::new(0),
            serial: AtomicU64::new(1),
        });
        let routers = [issuer::router, authoring::router, deploy::router, edge::router]
            .map(|router| router(Arc::clone(&world)));
        let mut servers = JoinSet::new();
        for ((api, listener), router) in Api::ALL.into_iter().zip(listeners).zip(routers) {
            let desk = from_fn_with_state((Arc::clone(&world), api), front_desk);
            let app = router.layer(desk);
            let app = match api {
                Api::Token => app.merge(control::router(Arc::clone(&world))),
                _ => app,
            };
            servers.spawn(async move { axum::serve(listener, app).await });
        }
        Ok(Sandbox { world, origins, clients, _servers: servers })
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
