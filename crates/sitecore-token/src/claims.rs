//! What a token says about itself. Decoded for messages and lifetimes, never verified and never
//! trusted.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// The prefix of Sitecore's own claims.
const SITECORE: &str = "https://auth.sitecorecloud.io/claims/";

/// The claims of a JWT ([RFC 7519 §4]). They are not verified, so use them for messages but not for
/// authorization.
///
/// [RFC 7519 §4]: https://www.rfc-editor.org/rfc/rfc7519#section-4
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Claims(Map<String, Value>);

/// The kinds of automation client in Sitecore Cloud. They differ in which APIs usually accept
/// their tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientKind {
    /// Usually used for the Authoring and Management API of one environment, and for the Sites,
    /// Pages, Publishing and Agent APIs.
    Environment,
    /// Usually used for the Deploy API, and for the Authoring and Management API of all
    /// environments.
    Organization,
    /// Usually used for the Admin API and the Token API of Experience Edge.
    EdgeAdministration,
    /// An external editing host. As far as is known, none of the APIs here accept its tokens. In
    /// the repository of a website, the variables `SITECORE_AUTH_CLIENT_ID` and `_SECRET` often
    /// belong to this kind.
    EditingHost,
}

impl fmt::Display for ClientKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "an environment automation client",
            Self::Organization => "an organization automation client",
            Self::EdgeAdministration => "an Edge administration client",
            Self::EditingHost => "an external editing host",
        })
    }
}

impl Claims {
    /// Decodes the payload of a compact JWT. `None` for any other token.
    #[must_use]
    pub fn decode(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (_header, payload) = (parts.next()?, parts.next()?);
        if parts.count() != 1 {
            return None;
        }
        let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?);
        serde_json::from_slice(&json).ok()
    }

    /// Returns `iss`, the issuer.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.text("iss")
    }

    /// Returns `sub`, the subject. For an automation client this is `<client id>@clients`.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.text("sub")
    }

    /// Returns `aud`, the audiences. The claim may be one string or a list.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        let claim = self.0.get("aud");
        let list = claim.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        claim.and_then(Value::as_str).into_iter().chain(list.iter().filter_map(Value::as_str))
    }

    /// Returns the client id, from `azp`.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        self.text("azp")
    }

    /// Returns the scopes that the token carries.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.text("scope").unwrap_or_default().split_ascii_whitespace()
    }

    /// Returns the kind of client that the token was probably granted to, judging by its scopes;
    /// `None` if they say nothing. The scopes of an external editing host are not known.
    #[must_use]
    pub fn client_kind(&self) -> Option<ClientKind> {
        // An organization client also has the scope of an environment client.
        [
            ("xmclouddeploy.", ClientKind::Organization),
            ("edge.", ClientKind::EdgeAdministration),
            ("xmcloud.cm:", ClientKind::Environment),
            ("xmcpub.", ClientKind::Environment),
        ]
        .into_iter()
        .find(|(prefix, _)| self.scopes().any(|scope| scope.starts_with(prefix)))
        .map(|(_, kind)| kind)
    }

    /// Returns one of Sitecore's own claims by its short name: `org_id`, `org_name`,
    /// `org_display_name`, `org_account_id`, `org_type`, `client_name`, `tenant_id`, `tenant_name`.
    #[must_use]
    pub fn sitecore(&self, name: &str) -> Option<&str> {
        self.text(&format!("{SITECORE}{name}"))
    }

    /// Returns the token's lifetime, `exp − iat`. `None` if either is missing or `exp` is not later
    /// than `iat`.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        self.seconds_to_expiry(self.number("iat")?).filter(|lifetime| !lifetime.is_zero())
    }

    /// Returns when the token expires (`exp`), as the time since the UNIX epoch.
    #[must_use]
    pub fn expires_at(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.number("exp")?).ok()
    }

    /// Returns the lifetime that a token has left in a response with this `Date`. If it was issued
    /// more than a minute before, it comes from a cache, so only the rest counts. The rest also
    /// counts if the token does not say when it was issued.
    pub(crate) fn remaining_lifetime(&self, date: Option<SystemTime>) -> Option<Duration> {
        let date = date.and_then(|date| date.duration_since(SystemTime::UNIX_EPOCH).ok());
        match (self.number("iat"), date.map(|date| date.as_secs_f64())) {
            (None, Some(date)) => self.seconds_to_expiry(date),
            (Some(issued_at), Some(date)) if issued_at < date - 60.0 => {
                self.lifetime().and_then(|_| self.seconds_to_expiry(date))
            }
            _ => self.lifetime(),
        }
    }

    /// Returns the time from `start` to `exp`, in whole seconds; zero if it has passed.
    fn seconds_to_expiry(&self, start: f64) -> Option<Duration> {
        let seconds = (self.number("exp")? - start).floor().max(0.0);
        Duration::try_from_secs_f64(seconds).ok()
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name).and_then(Value::as_f64)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }
}
