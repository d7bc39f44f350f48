//! Removes secrets from text that comes from a server.

use url::form_urlencoded;

/// Removes a request's secrets from what the server said in its response.
pub(crate) struct Redactor<'a> {
    pub(crate) secrets: Vec<&'a str>,
}

impl Redactor<'_> {
    /// The longest text that is quoted from a server.
    const MAX_CHARS: usize = 300;

    /// The shortest run of letters and digits that reveals a secret.
    const MIN_RUN: usize = 5;

    /// Returns a server's text in a form that is fit for a message: without secrets and control
    /// characters, and of limited length.
    ///
    /// A secret is removed both in plain and in percent-encoded form. Most other escapes leave its
    /// runs of letters and digits intact. If the longest such run is still in the text, the whole
    /// text is removed.
    pub(crate) fn sanitize(&self, text: &str) -> String {
        let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
        for &secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            text = text.replace(secret, "[redacted]").replace(&encoded, "[redacted]");
            let runs = secret.split(|c: char| !c.is_ascii_alphanumeric());
            let longest = runs.max_by_key(|run| run.len()).unwrap_or_default();
            let longest = longest.to_ascii_lowercase();
            if longest.len() >= Self::MIN_RUN && text.to_ascii_lowercase().contains(&longest) {
                return "[redacted]".to_owned();
            }
        }
        text.chars().take(Self::MAX_CHARS).collect()
    }
}
