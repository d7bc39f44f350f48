//! Edge keys: their labels, their environments, and whether they are revoked.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::shared::Shared;

/// What every key may be used for.
pub(crate) const SCOPES: [&str; 2] = ["audience-delivery", "content-#everything#"];

/// All keys ever created, including revoked ones.
#[derive(Default)]
pub(crate) struct EdgeKeys(Shared<Vec<EdgeKey>>);

/// Which keys to list.
pub(crate) struct Wanted {
    /// A part of the label.
    pub(crate) label: Option<String>,
    pub(crate) created_by: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) without_revoked: bool,
}

pub(crate) struct EdgeKey {
    text: String,
    label: String,
    created_by: String,
    revoked: bool,
    /// The environment that the key belongs to; `None` if the Token API created it.
    environment: Option<String>,
}

impl EdgeKeys {
    /// Returns an environment's key. Creates one if it has no valid key.
    pub(crate) fn of_environment(&self, id: &str) -> String {
        let mut keys = self.0.lock();
        let is_its = |key: &&EdgeKey| key.environment.as_deref() == Some(id) && !key.revoked;
        if let Some(key) = keys.iter().find(is_its) {
            return key.text.clone();
        }
        let key = EdgeKey::numbered(keys.len(), "XM Cloud Deploy", "deploy", Some(id));
        let text = key.text.clone();
        keys.push(key);
        text
    }

    /// Creates a key for the Token API and returns it.
    pub(crate) fn create(&self, label: &str, created_by: &str) -> String {
        let mut keys = self.0.lock();
        let key = EdgeKey::numbered(keys.len(), label, created_by, None);
        let text = key.text.clone();
        keys.push(key);
        text
    }

    pub(crate) fn is_good(&self, text: &str) -> bool {
        self.0.lock().iter().any(|key| key.text == text && !key.revoked)
    }

    pub(crate) fn revoke_all(&self) {
        self.0.lock().iter_mut().for_each(|key| key.revoked = true);
    }

    /// Describes the keys that match.
    pub(crate) fn list(&self, wanted: &Wanted) -> Vec<Value> {
        let keys = self.0.lock();
        keys.iter().filter(|key| wanted.includes(key)).map(EdgeKey::shown).collect()
    }

    /// Describes the first key for which `is_wanted` returns `true`.
    pub(crate) fn find(&self, is_wanted: impl Fn(&EdgeKey) -> bool) -> Option<Value> {
        self.0.lock().iter().find(|key| is_wanted(key)).map(EdgeKey::shown)
    }

    /// Changes the first key for which `is_wanted` returns `true`. Returns `false` if there is
    /// none.
    pub(crate) fn change(
        &self,
        is_wanted: impl Fn(&EdgeKey) -> bool,
        change: impl FnOnce(&mut EdgeKey),
    ) -> bool {
        let mut keys = self.0.lock();
        let found = keys.iter_mut().find(|key| is_wanted(key));
        found.map(change).is_some()
    }
}

impl Wanted {
    fn includes(&self, key: &EdgeKey) -> bool {
        self.label.as_ref().is_none_or(|label| key.label.contains(label.as_str()))
            && self.created_by.as_ref().is_none_or(|name| key.created_by == *name)
            && self.scopes.iter().all(|scope| SCOPES.contains(&scope.as_str()))
            && !(self.without_revoked && key.revoked)
    }
}

impl EdgeKey {
    fn numbered(number: usize, label: &str, created_by: &str, environment: Option<&str>) -> Self {
        Self {
            // Base64, like the real ones.
            text: format!("c2FuZGJveC1lZGdlLWtleS{number:08}+sandbox/only=="),
            label: label.to_owned(),
            created_by: created_by.to_owned(),
            revoked: false,
            environment: environment.map(str::to_owned),
        }
    }

    pub(crate) fn has_text(&self, text: &str) -> bool {
        self.text == text
    }

    pub(crate) fn has_hash(&self, hash: &str) -> bool {
        self.hash() == hash
    }

    pub(crate) fn rename(&mut self, label: &str) {
        label.clone_into(&mut self.label);
    }

    pub(crate) fn revoke(&mut self) {
        self.revoked = true;
    }

    fn hash(&self) -> String {
        let digest = digest::digest(&digest::SHA256, self.text.as_bytes());
        digest.as_ref()[..16].iter().fold(String::new(), |mut hash, byte| {
            let _ = write!(hash, "{byte:02x}");
            hash
        })
    }

    /// Describes the key as the Token API does, without the key itself.
    fn shown(&self) -> Value {
        json!({
            "tenantId": "sandbox", "hash": self.hash(), "isRevoked": self.revoked,
            "label": self.label, "scopes": SCOPES, "createdBy": self.created_by,
            "created": "2026-01-07T09:30:00Z",
        })
    }
}
