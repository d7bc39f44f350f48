//! The settings of a token client.

use std::{fmt, time::Duration};

use crate::endpoint::Endpoint;

/// How the request is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// `application/x-www-form-urlencoded`, as RFC 6749 specifies.
    #[default]
    Form,
    /// `application/json`, which Auth0 also accepts.
    Json,
}

/// How the client authenticates itself to the issuer ([RFC 6749 §2.3.1]).
///
/// [RFC 6749 §2.3.1]: https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientAuth {
    /// Id and secret in the request's body, as Sitecore documents it.
    #[default]
    Body,
    /// Id and secret in an `Authorization: Basic` header, which some other issuers require.
    Basic,
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    pub(crate) encoding: Encoding,
    pub(crate) client_auth: ClientAuth,
    pub(crate) scope: Option<String>,
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) timeout: Duration,
}

/// Shows only the names of the extra parameters.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.parameters.iter().map(|(name, _)| name).collect();
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("encoding", &self.encoding)
            .field("client_auth", &self.client_auth)
            .field("scope", &self.scope)
            .field("parameters", &names)
            .field("timeout", &self.timeout)
            .finish()
    }
}
