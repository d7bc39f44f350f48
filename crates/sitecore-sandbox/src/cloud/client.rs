//! The automation clients that the issuer knows.

use std::fmt;

/// An automation client: its id, secret, kind and scopes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Client {
    id: String,
    secret: String,
    name: String,
    kind: ClientKind,
    scopes: Vec<String>,
}

/// The kinds of automation client in Sitecore Cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientKind {
    /// Has access to the Authoring API of one environment.
    Environment,
    /// Has access to the Deploy API and to the Authoring API of all environments.
    Organization,
    /// Has access to Experience Edge's Admin API and Token API.
    EdgeAdministration,
    /// Registers an external editing host. Has access to none of the sandbox's APIs.
    EditingHost,
}

impl Client {
    /// Creates a client with scopes as they were seen in tokens of its kind.
    pub fn new(kind: ClientKind, id: impl Into<String>, secret: impl Into<String>) -> Self {
        let scopes: &[&str] = match kind {
            ClientKind::Environment => &["xmcloud.cm:admin", "xmcpub.jobs.t:r", "xmcpub.jobs.t:w"],
            ClientKind::Organization => &[
                "xmclouddeploy.organizations:manage",
                "xmclouddeploy.projects:manage",
                "xmclouddeploy.environments:manage",
                "xmclouddeploy.deployments:manage",
                "xmclouddeploy.clients:manage",
                "xmcloud.cm:admin",
            ],
            ClientKind::EdgeAdministration => &[
                "edge.tokens:create",
                "edge.tokens:read",
                "edge.tokens:update",
                "edge.tokens:delete",
            ],
            // Not known from public sources.
            ClientKind::EditingHost => &[],
        };
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        let id = id.into();
        Self { name: id.clone(), id, secret: secret.into(), kind, scopes }
    }

    /// Sets the name that the Deploy API shows; the id by default.
    #[must_use]
    pub(crate) fn named(mut self, name: String) -> Self {
        self.name = name;
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Sets the client's scopes.
    #[must_use]
    pub fn with_scopes(mut self, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// Returns the client id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the client secret. It is valid only in this sandbox.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Returns the kind of client.
    #[must_use]
    pub fn kind(&self) -> ClientKind {
        self.kind
    }

    /// Returns the client's scopes.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }
}

/// Omits the secret.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}
