//! Edge keys: their labels, their environments, and whether they are revoked.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use crate::shared::Shared;

/// All keys ever created, including revoked ones.
#[derive(Default)]
pub(crate) struct EdgeKeys(Shared<Vec<EdgeKey>>);

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

    /// Describes the keys with this label, or all keys if it is `None`.
    pub(crate) fn list(&self, label: Option<&str>, without_revoked: bool) -> Vec<Value> {
        let keys = self.0.lock();
        let wanted = keys.iter().filter(|key| {
            label.is_none_or(|label| key.label == label) && !(without_revoked && key.revoked)
        });
        wanted.map(EdgeKey::shown).collect()
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
            "hash": self.hash(), "label": self.label, "createdBy": self.created_by, "revoked": self.revoked,
            "scopes": ["audience-delivery", "content-#everything#"],
        })
    }
}
