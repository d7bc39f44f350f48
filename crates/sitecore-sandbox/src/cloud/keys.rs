//! The issuer's signing keys, and the tokens that it signs and verifies with them.

use std::{
    io,
    sync::{PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    encoding::AsDer as _,
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    client::{Client, ClientKind},
    shared::Shared,
};

/// How many keys are published: the current and the previous one, as after a rotation at Auth0.
const KEYS_KEPT: usize = 2;

/// Signs and verifies access tokens.
pub(crate) struct Keys {
    /// Ordered from oldest to newest.
    ring: RwLock<Vec<Key>>,
    /// Whether each token contains its number as `jti`.
    numbered: bool,
    issued: Shared<Issued>,
    /// All tokens up to this one are revoked.
    revoked: Shared<Issued>,
}

/// The last of several tokens.
#[derive(Clone, Copy, Default)]
struct Issued {
    number: u64,
    /// Its `iat`, for tokens without a number.
    at: u64,
}

struct Key {
    id: String,
    signing: EncodingKey,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

/// The claims in Sitecore's tokens.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) aud: String,
    pub(crate) azp: String,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    pub(crate) scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jti: Option<String>,
    #[serde(flatten)]
    sitecore: serde_json::Map<String, Value>,
}

impl Claims {
    /// Returns `true` if any scope starts with `prefix`.
    pub(crate) fn has_scope_like(&self, prefix: &str) -> bool {
        self.scope.split(' ').any(|scope| scope.starts_with(prefix))
    }
}

impl Keys {
    pub(crate) fn generate(numbered: bool) -> io::Result<Self> {
        Ok(Self {
            ring: RwLock::new(vec![Key::generate(1)?]),
            numbered,
            issued: Shared::default(),
            revoked: Shared::default(),
        })
    }

    /// Signs new tokens with a new key. The previous key still verifies tokens.
    pub(crate) fn rotate(&self) -> io::Result<()> {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        let number = ring.last().map_or(0, |key| key.number()) + 1;
        ring.push(Key::generate(number)?);
        let surplus = ring.len().saturating_sub(KEYS_KEPT);
        ring.drain(..surplus);
        Ok(())
    }

    pub(crate) fn revoke_all(&self) {
        *self.revoked.lock() = *self.issued.lock();
    }

    /// Returns a signed token for a client.
    pub(crate) fn sign(
        &self,
        client: &Client,
        issuer: &str,
        audience: &str,
        scope: &str,
        lifetime: Duration,
    ) -> String {
        let now = now();
        let number = self.issued.lock().count(now);
        let claim = |name: &str, value: &str| {
            (format!("https://auth.sitecorecloud.io/claims/{name}"), Value::from(value))
        };
        // Tokens of an organization are not for one tenant.
        let tenant = (client.kind() != ClientKind::Organization)
            .then(|| [claim("tenant_id", "tenant-prod"), claim("tenant_name", "acme-site-prod")]);
        let claims = Claims {
            iss: issuer.to_owned(),
            sub: format!("{}@clients", client.id()),
            aud: audience.to_owned(),
            azp: client.id().to_owned(),
            iat: now.as_secs(),
            // Rounded up, so that a token is valid at least as long as its `expires_in` says.
            exp: (now + lifetime).as_secs_f64().ceil() as u64,
            scope: scope.to_owned(),
            jti: self.numbered.then(|| number.to_string()),
            sitecore: [
                claim("org_id", "org_sandbox"),
                claim("org_name", "acme"),
                claim("org_display_name", "Acme"),
                claim("org_account_id", "sandbox-account"),
                claim("org_type", "customer"),
                claim("client_name", client.id()),
            ]
            .into_iter()
            .chain(tenant.into_iter().flatten())
            .collect(),
        };
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let key = ring.last().expect("the ring is never empty");
        let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, &claims, &key.signing)
            .expect("the claims serialize and the key is RSA")
    }

    /// Returns the claims of a token if its signature, issuer and audience are correct and it is
    /// neither expired (without leeway) nor revoked.
    pub(crate) fn verify(&self, token: &str, issuer: &str, audiences: &[&str]) -> Option<Claims> {
        let kid = jsonwebtoken::decode_header(token).ok()?.kid?;
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let key = ring.iter().find(|key| key.id == kid)?;
        let verifying = DecodingKey::from_rsa_raw_components(&key.modulus, &key.exponent);
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_issuer(&[issuer]);
        validation.set_audience(audiences);
        // Checked below, because the library compares whole seconds.
        validation.validate_exp = false;
        let claims = jsonwebtoken::decode::<Claims>(token, &verifying, &validation).ok()?.claims;
        let unexpired = now() < Duration::from_secs(claims.exp);
        (unexpired && !self.revoked.lock().covers(&claims)).then_some(claims)
    }

    /// Returns the public keys as a JWK set (RFC 7517 §5).
    pub(crate) fn jwks(&self) -> Value {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let keys = ring.iter().rev().map(|key| {
            json!({
                "kty": "RSA", "use": "sig", "alg": "RS256", "kid": key.id,
                "n": URL_SAFE_NO_PAD.encode(&key.modulus),
                "e": URL_SAFE_NO_PAD.encode(&key.exponent),
            })
        });
        json!({ "keys": keys.collect::<Vec<_>>() })
    }
}

impl Issued {
    /// Counts a token. Returns its number.
    fn count(&mut self, now: Duration) -> u64 {
        *self = Self { number: self.number + 1, at: now.as_secs() };
        self.number
    }

    /// Returns `true` for a token that was issued no later.
    fn covers(&self, claims: &Claims) -> bool {
        match &claims.jti {
            Some(number) => number.parse().is_ok_and(|number: u64| number <= self.number),
            None => claims.iat <= self.at,
        }
    }
}

impl Key {
    fn generate(number: u64) -> io::Result<Self> {
        let failed = |_| io::Error::other("could not generate an RSA key");
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
        let pkcs8 = STANDARD.encode(pair.as_der().map_err(failed)?.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{pkcs8}\n-----END PRIVATE KEY-----\n");
        Ok(Self {
            id: format!("sandbox-{number}"),
            signing: EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(io::Error::other)?,
            modulus: pair.public_key().modulus().big_endian_without_leading_zero().to_vec(),
            exponent: pair.public_key().exponent().big_endian_without_leading_zero().to_vec(),
        })
    }

    fn number(&self) -> u64 {
        self.id.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_default()
    }
}

#[expect(clippy::disallowed_methods, reason = "the issuer uses the real clock")]
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
