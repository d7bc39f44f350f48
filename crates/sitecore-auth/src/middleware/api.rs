//! An API that the middleware authenticates requests for, and what its responses say about the
//! token.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use http::StatusCode;
use reqwest::Response;
use sitecore_token::{Claims, ClientKind};
use tracing::warn;
use url::Url;

use crate::{
    cache::{RejectedBy, TokenCache},
    target::Rule,
    token::Token,
};

/// How many tokens are remembered for their warnings. After that, a warning may be repeated.
const MAX_TOKENS: usize = 256;

#[derive(Debug)]
pub(super) struct Api {
    pub(super) rule: Rule,
    /// The name by which the cache knows this API.
    pub(super) name: RejectedBy,
    /// The tokens that this API accepted recently, so that the cache is told once per token.
    accepted: RecentTokens,
    /// The fingerprints of tokens for which a 403 warning was logged.
    forbidden: Mutex<HashSet<u32>>,
    has_warned_of_redirect: AtomicBool,
    has_warned_of_rejections: AtomicBool,
}

/// A lock-free set of recently seen tokens. Each token has one place, which it rarely shares with
/// another tenant's token. Zero marks an empty place.
#[derive(Debug, Default)]
struct RecentTokens([AtomicU32; 16]);

impl RecentTokens {
    /// Adds the token. Returns `true` if it is new.
    fn add(&self, token: &Token, cache: &TokenCache) -> bool {
        let (place, mark) = self.place(token, cache);
        place.load(Relaxed) != mark && place.swap(mark, Relaxed) != mark
    }

    fn remove(&self, token: &Token, cache: &TokenCache) {
        self.place(token, cache).0.store(0, Relaxed);
    }

    /// Returns the token's place, and a mark for it that depends on its cache too.
    fn place(&self, token: &Token, cache: &TokenCache) -> (&AtomicU32, u32) {
        let mark = token.fingerprint().number() ^ cache.number();
        (&self.0[mark as usize % self.0.len()], mark | 1)
    }
}

/// A response extension: the API returned 403, and it accepts only tokens of another kind of
/// client.
///
/// ```
/// # fn example(response: &reqwest::Response) {
/// if let Some(wrong) = response.extensions().get::<sitecore_auth::WrongClient>() {
///     eprintln!("use the credentials of {}, not of {}", wrong.required(), wrong.used());
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WrongClient {
    required: ClientKind,
    used: ClientKind,
}

impl WrongClient {
    /// Returns the kind of client that the API usually requires.
    #[must_use]
    pub fn required(self) -> ClientKind {
        self.required
    }

    /// Returns the kind of client that the token was granted to, judging by its claims.
    #[must_use]
    pub fn used(self) -> ClientKind {
        self.used
    }
}

impl Api {
    pub(super) fn new(rule: Rule) -> Self {
        let name = RejectedBy::Api(Arc::from(rule.name()));
        Self {
            rule,
            name,
            accepted: RecentTokens::default(),
            forbidden: Mutex::default(),
            has_warned_of_redirect: AtomicBool::new(false),
            has_warned_of_rejections: AtomicBool::new(false),
        }
    }

    /// Returns the token to send: the current one, or another one if this API has rejected the
    /// current one.
    #[inline]
    pub(super) fn choose(&self, current: Token, cache: &TokenCache) -> Token {
        if current.is_rejected() {
            return cache.current_for(&self.name).unwrap_or(current);
        }
        current
    }

    /// Records what a response that does not reject the token says about it.
    pub(super) fn note_response(&self, response: &mut Response, token: &Token, cache: &TokenCache) {
        let status = response.status();
        if status < StatusCode::BAD_REQUEST {
            if self.accepted.add(token, cache) {
                cache.record_acceptance(&self.name, token);
            }
        } else if status == StatusCode::FORBIDDEN {
            self.explain_forbidden(response, token);
        }
    }

    /// Forgets that this API accepted the token, so that the cache is told if it does so again.
    pub(super) fn note_rejected(&self, token: &Token, cache: &TokenCache) {
        self.accepted.remove(token, cache);
    }

    /// Warns about a 403 once per token, and tells the program if the token belongs to the wrong
    /// kind of client, which is the usual reason.
    fn explain_forbidden(&self, response: &mut Response, token: &Token) {
        let claims = token.claims();
        let claims = claims.as_ref();
        let (required, used) = (self.rule.client_kind, claims.and_then(Claims::client_kind));
        if let (Some(required), Some(used)) = (required, used)
            && required != used
        {
            response.extensions_mut().insert(WrongClient { required, used });
        }
        let mut forbidden = self.forbidden.lock().unwrap_or_else(PoisonError::into_inner);
        if forbidden.len() >= MAX_TOKENS {
            forbidden.clear();
        }
        let is_new = forbidden.insert(token.fingerprint().number());
        drop(forbidden);
        if !is_new {
            return;
        }
        let name = |name| claims.and_then(|claims| claims.sitecore(name));
        warn!(
            api = self.rule.name(),
            token = %token.fingerprint(),
            granted_to = used.map(tracing::field::display),
            organization = name("org_name"),
            environment = name("tenant_name"),
            usually_required = required.map(tracing::field::display),
            "API returned 403; the token was accepted, but its client is not allowed to do this"
        );
    }

    /// Warns once that the API has rejected a token and the one that replaced it.
    pub(super) fn warn_of_rejections(&self) {
        if !self.has_warned_of_rejections.swap(true, Relaxed) {
            warn!(
                api = self.rule.name(),
                "API rejected a token and its replacement; check the audience, and whether this API requires an Edge key instead"
            );
        }
    }

    /// Warns once if a response came from an origin that the token was not meant for.
    pub(super) fn warn_of_redirect(&self, to: &Url) {
        if !self.rule.is_origin_of(to) && !self.has_warned_of_redirect.swap(true, Relaxed) {
            let host = to.host_str();
            warn!(
                host,
                "request was redirected to another origin; build the client with AuthMiddleware::into_client, or set redirect_policy on it, because reqwest may send the token there"
            );
        }
    }
}
