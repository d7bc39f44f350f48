//! What a token says about itself: decoded for people and for lifetimes, never verified, never trusted.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// The prefix of Sitecore's own claims.
const SITECORE: &str = "https://auth.sitecorecloud.io/claims/";

/// The claims of a JWT ([RFC 7519 §4]), unverified: good for messages, not for decisions of trust.
///
/// [RFC 7519 §4]: https://www.rfc-editor.org/rfc/rfc7519#section-4
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Decodes the payload of a compact JWT; `None` for any other token.
    pub(crate) fn decode(token: &str) -> Option<Self> {
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

    /// Returns `sub`, for an automation client `<client id>@clients`.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.text("sub")
    }

    /// Returns `aud`, which may be one text or a list of them.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        let claim = self.0.get("aud");
        let list = claim
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        claim
            .and_then(Value::as_str)
            .into_iter()
            .chain(list.iter().filter_map(Value::as_str))
    }

    /// Returns the client id, from `azp`.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        self.text("azp")
    }

    /// Returns the scopes that the token carries.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.text("scope")
            .unwrap_or_default()
            .split_ascii_whitespace()
    }

    /// Returns one of Sitecore's own claims by its short name: `org_id`, `org_name`,
    /// `org_display_name`, `org_account_id`, `org_type`, `client_name`, `tenant_id`, `tenant_name`.
    #[must_use]
    pub fn sitecore(&self, name: &str) -> Option<&str> {
        self.text(&format!("{SITECORE}{name}"))
    }

    /// Returns how long the token lives from its issue, `exp − iat`; `None` unless both are there and
    /// in this order.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        let seconds = |name| self.0.get(name).and_then(Value::as_f64);
        let life = (seconds("exp")? - seconds("iat")?).floor();
        Duration::try_from_secs_f64(life)
            .ok()
            .filter(|life| !life.is_zero())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }
}
