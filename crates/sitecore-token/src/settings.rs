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

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    pub(crate) encoding: Encoding,
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
            .field("scope", &self.scope)
            .field("parameters", &names)
            .field("timeout", &self.timeout)
            .finish()
    }
}
