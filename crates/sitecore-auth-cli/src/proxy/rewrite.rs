//! URLs in responses that would bypass the proxy.

use std::collections::HashSet;

use serde::de::IgnoredAny;
use url::Url;

use crate::args::Api;

/// Where callers find an API.
pub(crate) struct Place {
    /// The API's own origin, with the path `/`.
    pub(crate) origin: Url,
    /// The URL of the same origin at the proxy, without a slash at the end.
    pub(crate) proxied: String,
}

impl Place {
    /// Returns the URL at the proxy that stands for this absolute one, if it is at the API's
    /// origin.
    pub(crate) fn absolute(&self, text: &str) -> Option<String> {
        Url::parse(text).is_ok().then(|| self.url(text)).flatten()
    }

    /// Returns the URL at the proxy that stands for this one, if it is at the API's origin.
    pub(crate) fn url(&self, text: &str) -> Option<String> {
        let url = self.origin.join(text).ok()?;
        // A URL without a path gets the path `/`.
        let rest = &url[url::Position::BeforePath..];
        let has_path = text.split(['?', '#']).next().unwrap_or_default().matches('/').count() != 2;
        let rest = if has_path { rest } else { rest.trim_start_matches('/') };
        (url.origin() == self.origin.origin()).then(|| format!("{}{rest}", self.proxied))
    }
}

/// Replaces the strings at these members of a JSON object, wherever they occur. Returns `None` if
/// there is nothing to replace. Everything else stays as it is.
pub(crate) fn members(
    text: &str,
    names: &HashSet<String>,
    replace: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    // Some servers begin with a byte order mark.
    serde_json::from_str::<IgnoredAny>(text.trim_start_matches('\u{feff}')).ok()?;
    let mut written = String::new();
    // How much was written, and where the search continues.
    let (mut done, mut at) = (0, 0);
    while let Some(start) = text[at..].find('"').map(|offset| at + offset) {
        let end = end_of_string(text, start);
        at = end;
        let value = text[end..].trim_start();
        let Some(value) = value.strip_prefix(':').map(str::trim_start) else { continue };
        let name: String = serde_json::from_str(&text[start..end]).ok()?;
        if !value.starts_with('"') || !names.contains(&name) {
            continue;
        }
        let start = text.len() - value.len();
        at = end_of_string(text, start);
        let value: String = serde_json::from_str(&text[start..at]).ok()?;
        if let Some(replacement) = replace(&value) {
            written.push_str(&text[done..start]);
            written.push_str(&serde_json::to_string(&replacement).ok()?);
            done = at;
        }
    }
    written.push_str(&text[done..]);
    (done > 0).then_some(written)
}

/// Returns the end of the JSON string that starts at `start`.
fn end_of_string(text: &str, start: usize) -> usize {
    let mut is_escaped = false;
    let end = text.bytes().enumerate().skip(start + 1).find(|(_, byte)| {
        let ends = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// Returns `true` if this path of an API returns an Edge key and the URL it is for.
pub(crate) fn is_obtain_edge_token(api: Api, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    api == Api::Deploy && path.to_ascii_lowercase().ends_with("/obtain-edge-token")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(origin: &str, proxied: &str) -> Place {
        Place { origin: Url::parse(origin).unwrap(), proxied: proxied.to_owned() }
    }

    #[test]
    fn only_the_named_members_are_replaced() {
        let names = HashSet::from(["url".to_owned()]);
        let replace = |text: &str| {
            place("https://cm.example/", "http://127.0.0.1:1/authoring").absolute(text)
        };
        let text = "{\"data\": {\"url\" : \"https:\\/\\/cm.example/up?token=a\\u0026b\", \"n\": 1.50,\n \"other\": \"https://cm.example/\", \"list\": [\"url\", {\"url\":\"https://other.example/x\"}]}}";
        let expected = "{\"data\": {\"url\" : \"http://127.0.0.1:1/authoring/up?token=a&b\", \"n\": 1.50,\n \"other\": \"https://cm.example/\", \"list\": [\"url\", {\"url\":\"https://other.example/x\"}]}}";
        assert_eq!(members(text, &names, replace).as_deref(), Some(expected));
        // Another member of that name may not be a URL.
        assert_eq!(members("{\"url\": \"/about us\"}", &names, replace), None);
        assert!(members("\u{feff}{\"url\": \"https://cm.example/a\"}", &names, replace).is_some());
        assert_eq!(members("{\"url\": null, \"a\": \"url\"}", &names, replace), None);
        assert_eq!(members("{\"url\": \"https://cm.example/\"", &names, replace), None);
    }

    #[test]
    fn a_location_stays_at_the_proxy_or_is_foreign() {
        let place = place("https://api.example/", "http://127.0.0.1:1/deploy");
        for (location, expected) in [
            ("https://api.example/a?b#c", Some("http://127.0.0.1:1/deploy/a?b#c")),
            ("/a", Some("http://127.0.0.1:1/deploy/a")),
            ("https://api.example", Some("http://127.0.0.1:1/deploy")),
            ("https://api.example?x=/", Some("http://127.0.0.1:1/deploy?x=/")),
            ("https://api.example/", Some("http://127.0.0.1:1/deploy/")),
            ("https://other.example/a", None),
            ("//other.example/a", None),
            ("http://api.example/a", None),
        ] {
            assert_eq!(place.url(location).as_deref(), expected, "{location}");
        }
    }
}
