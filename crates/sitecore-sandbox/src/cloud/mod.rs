//! What the fake cloud remembers: clients, keys, content, deployments, faults and counts. Nothing
//! in here knows a server.

mod client;
mod content;
mod deployment;
mod edge_keys;
mod environment;
mod fault;
mod keys;
mod publish;
mod shared;
mod window;

use std::{
    collections::HashMap,
    io, iter,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use serde_json::{Value, json};
use url::Url;

pub use self::{
    client::{Client, ClientKind},
    fault::{Fault, ParseFaultError, parse_duration},
};
pub(crate) use self::{
    content::{Item, Site, Tree, bare_id, sites},
    deployment::{Deployment, Progress},
    edge_keys::{EdgeKey, SCOPES, Wanted},
    environment::{ENVIRONMENTS, Environment, PRODUCTION, Variable, environment, is_context_id},
    fault::Kind,
    publish::Publish,
    window::LIMIT,
};
use self::{
    edge_keys::EdgeKeys,
    environment::Variables,
    fault::Script,
    keys::{Claims, Keys},
    shared::Shared,
    window::Window,
};

/// The audience in the Sitecore CLI's settings. Its tokens are short-lived, and only CMs accept
/// them.
pub(crate) const CM_AUDIENCE: &str = "https://xmcloud-cm.sitecorecloud.io";

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
pub(crate) struct Cloud {
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
    pub(crate) variables: Shared<Variables>,
    pub(crate) edge_keys: EdgeKeys,
    pub(crate) edge_settings: Shared<Value>,
    pub(crate) rebuilt_indexes: Shared<Vec<String>>,
    pub(crate) webhooks: Shared<Vec<Value>>,
    pub(crate) cache_clears: Shared<u64>,
    pub(crate) delivery_window: Shared<Window>,
    token_lifetime: Shared<Duration>,
    rejection_status: StatusCode,
    api_states: [ApiState; 4],
    tokens_granted: AtomicU64,
    serial: AtomicU64,
}

/// What a cloud starts with.
pub(crate) struct Start {
    /// The origins of the issuer, Authoring, Deploy and Edge.
    pub(crate) origins: [Url; 4],
    pub(crate) clients: Vec<Client>,
    pub(crate) audience: String,
    pub(crate) token_lifetime: Duration,
    pub(crate) rejection_status: StatusCode,
    /// Whether tokens have a `jti`.
    pub(crate) numbered_tokens: bool,
}

/// The scripted faults and the counters of one API.
#[derive(Default)]
struct ApiState {
    script: Script,
    calls: AtomicU64,
    rejections: AtomicU64,
}

impl Cloud {
    /// Creates a cloud.
    ///
    /// # Errors
    ///
    /// If it cannot generate a key.
    pub(crate) fn new(start: Start) -> io::Result<Self> {
        let Start { origins, clients, audience, token_lifetime, rejection_status, .. } = start;
        let [authority, cm, _, edge] = origins;
        Ok(Self {
            keys: Keys::generate(start.numbered_tokens)?,
            clients: Shared::new(clients),
            authority,
            cm,
            edge,
            audience,
            content: Shared::default(),
            published: Shared::default(),
            publishes: Shared::default(),
            uploads: Shared::default(),
            deployments: Shared::default(),
            variables: Shared::default(),
            edge_keys: EdgeKeys::default(),
            edge_settings: Shared::new(edge_settings()),
            rebuilt_indexes: Shared::default(),
            webhooks: Shared::default(),
            cache_clears: Shared::default(),
            delivery_window: Shared::default(),
            token_lifetime: Shared::new(token_lifetime),
            rejection_status,
            api_states: Default::default(),
            tokens_granted: AtomicU64::new(0),
            serial: AtomicU64::new(1),
        })
    }

    /// Counts a call of an API. Returns the fault to apply to it.
    pub(crate) fn receive(&self, api: Api) -> Option<Fault> {
        let state = self.state_of(api);
        state.calls.fetch_add(1, Ordering::SeqCst);
        state.script.next()
    }

    /// Queues faults for the API's next calls.
    pub(crate) fn queue_faults(&self, api: Api, faults: impl IntoIterator<Item = Fault>) {
        self.state_of(api).script.push(faults);
    }

    fn state_of(&self, api: Api) -> &ApiState {
        &self.api_states[api as usize]
    }

    /// Adds a fault for the API's next calls, or for all calls if `times` is `None`.
    pub(crate) fn add_faults(&self, api: Api, fault: Fault, times: Option<usize>) {
        match times {
            Some(times) => self.state_of(api).script.push(iter::repeat_n(fault, times)),
            None => self.state_of(api).script.set_lasting(fault),
        }
    }

    pub(crate) fn heal(&self, api: Api) {
        self.state_of(api).script.clear();
    }

    pub(crate) fn calls(&self, api: Api) -> u64 {
        self.state_of(api).calls.load(Ordering::SeqCst)
    }

    pub(crate) fn rejections(&self, api: Api) -> u64 {
        self.state_of(api).rejections.load(Ordering::SeqCst)
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
        self.state_of(api).rejections.fetch_add(1, Ordering::SeqCst);
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

/// Returns the initial settings of Edge.
fn edge_settings() -> Value {
    json!({
        "contentCacheTtl": "04:00:00", "contentCacheAutoClear": true,
        "mediaCacheTtl": "04:00:00", "mediaCacheAutoClear": true, "tenantCacheAutoClear": true,
    })
}
