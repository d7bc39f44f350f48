//! What callers may do.

use hyper::{Method, header::HeaderValue};
use sitecore_auth::may_name_document;

use super::{document::Documents, problem::Problem};
use crate::args::{Api, Guards};

/// A call as an API will see it.
pub(crate) struct Call<'a> {
    pub(crate) api: Api,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    /// The path of the API's GraphQL endpoint, if it has one.
    pub(crate) endpoint: Option<&'a str>,
    /// `None` if it does not say how to read the body.
    pub(crate) content_type: Option<&'a HeaderValue>,
    /// `None` if it is too long to inspect.
    pub(crate) body: Option<&'a [u8]>,
}

impl Guards {
    pub(crate) fn check(&self, call: &Call<'_>) -> Result<(), Problem> {
        let path = plain(call.path);
        let deletes_content = call.api == Api::Edge
            && call.method == Method::DELETE
            && is_below(&path, "/api/admin/v1/content");
        if deletes_content && !self.allow_delete_content {
            let detail = "this would delete all content of the tenant in Experience Edge; start the proxy with --allow-delete-content if you mean that";
            return Err(Problem::forbidden("deletes_content", detail));
        }
        let creates_client = call.api == Api::Deploy
            && [Method::POST, Method::PUT].contains(call.method)
            && is_below(&path, "/api/clients/v1");
        if creates_client && !self.allow_create_clients {
            let detail = "this would create a client and return its secret; start the proxy with --allow-create-clients if you mean that";
            return Err(Problem::forbidden("creates_client", detail));
        }
        if self.read_only && !is_read(call, &path) {
            let detail = "the proxy was started with --read-only; it allows GET and HEAD without a body, and GraphQL without mutations that is sent by POST as application/json";
            return Err(Problem::forbidden("read_only", detail));
        }
        Ok(())
    }
}

fn is_read(call: &Call<'_>, path: &str) -> bool {
    let query = call.query.unwrap_or_default();
    let names_document = || {
        let mut parameters = url::form_urlencoded::parse(query.as_bytes());
        parameters.any(|(name, _)| may_name_document(&name) || name == "extensions")
    };
    let documents = match *call.method {
        Method::POST if call.endpoint.is_some_and(|endpoint| plain(endpoint) == path) => {
            let body = call.body.filter(|_| is_utf8_json(call.content_type) && query.is_empty());
            body.and_then(Documents::of_body)
        }
        // An API that looks at the body of such a request could find a mutation there.
        Method::GET | Method::HEAD if call.body != Some(b"") => return false,
        // A CM has several GraphQL endpoints.
        Method::GET | Method::HEAD if call.endpoint.is_some() && names_document() => {
            Documents::of_query(query)
        }
        Method::GET | Method::HEAD => return true,
        _ => return false,
    };
    documents.is_some_and(|documents| !documents.contain_mutation())
}

/// Returns `true` if an API can read this body only as JSON in UTF-8.
fn is_utf8_json(content_type: Option<&HeaderValue>) -> bool {
    let text = content_type.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase().replace('"', ""));
    let kind = parts.next().unwrap_or_default();
    ["application/json", "application/graphql+json"].contains(&&*kind)
        && parts.all(|parameter| parameter == "charset=utf-8")
}

/// Returns a path as a lenient server may read it: decoded, in lower case, without empty segments.
fn plain(path: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy().to_lowercase();
    let segments = decoded.split('/').map(|segment| {
        // A parameter can follow a segment.
        let segment = segment.split(';').next().unwrap_or_default();
        // Windows ignores what follows a name.
        segment.trim().trim_end_matches(['.', ' '])
    });
    let segments: Vec<_> = segments.filter(|segment| !segment.is_empty()).collect();
    format!("/{}", segments.join("/"))
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guards: &Guards, api: Api, method: Method, path: &str, body: &str) -> bool {
        let json = HeaderValue::from_static("application/json");
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let call = Call {
            api,
            method: &method,
            path,
            query: Some(query),
            endpoint: (api == Api::Authoring).then_some("/graphql/v1/"),
            content_type: Some(&json),
            body: Some(body.as_bytes()),
        };
        guards.check(&call).is_ok()
    }

    #[test]
    fn deleting_all_content_and_creating_clients_need_a_flag_each() {
        let guards = Guards::default();
        for path in [
            "/api/admin/v1/content",
            "/api/admin/v1/content/",
            "//API/admin/v1/Content",
            "/api/admin/v1/%63ontent",
            "/api/admin/v1/content;x",
            "/api/admin/v1/content.",
            "/api/admin/v1/content?x=1",
        ] {
            assert!(!check(&guards, Api::Edge, Method::DELETE, path, ""), "{path}");
            let allowed = Guards { allow_delete_content: true, ..Guards::default() };
            assert!(check(&allowed, Api::Edge, Method::DELETE, path, ""), "{path}");
        }
        assert!(check(&guards, Api::Edge, Method::DELETE, "/api/admin/v1/cache", ""));
        assert!(check(&guards, Api::Edge, Method::GET, "/api/admin/v1/content", ""));
        for path in ["/api/clients/v1/cm", "/api/clients/v1/Deploy/", "/api/clients//v1/edge"] {
            assert!(!check(&guards, Api::Deploy, Method::POST, path, ""), "{path}");
            let allowed = Guards { allow_create_clients: true, ..Guards::default() };
            assert!(check(&allowed, Api::Deploy, Method::POST, path, ""), "{path}");
        }
        assert!(check(&guards, Api::Deploy, Method::GET, "/api/clients/v1/environment", ""));
        assert!(check(&guards, Api::Deploy, Method::POST, "/api/projects/v1", ""));
    }

    #[test]
    fn read_only_allows_reads() {
        let guards = Guards { read_only: true, ..Guards::default() };
        let read = r#"{"query":"{ a }"}"#;
        let write = r#"{"query":"mutation { a }"}"#;
        for (method, path, body, expected) in [
            (Method::GET, "/x", "", true),
            (Method::HEAD, "/x", "", true),
            (Method::POST, "/graphql/v1/", read, true),
            (Method::POST, "/graphql/v1", read, true),
            (Method::POST, "/graphql/v1/", write, false),
            (Method::POST, "/graphql/v1/", "", false),
            // Another endpoint may read another member of the object.
            (Method::POST, "/items", read, false),
            (Method::GET, "/graphql/v1/", "", true),
            (Method::GET, "/graphql/v1/?query=%7Ba%7D", "", true),
            (Method::GET, "/graphql/v1?query=mutation%7Ba%7D", "", false),
            (Method::GET, "/graphql/v1?extensions=%7B%7D", "", false),
            (Method::GET, "/graphql/v1/x?query=mutation%7Ba%7D", "", false),
            (Method::GET, "/graph/items?query=mutation%7Ba%7D", "", false),
            (Method::HEAD, "/graphql/v1/?query=mutation%7Ba%7D", "", false),
            (Method::GET, "/graphql/v1/", write, false),
            (Method::POST, "/graphql/v1/?query=mutation%7Ba%7D", read, false),
            (Method::PUT, "/x", "", false),
            (Method::DELETE, "/x", "", false),
            (Method::OPTIONS, "/x", "", false),
        ] {
            let allowed = check(&guards, Api::Authoring, method.clone(), path, body);
            assert_eq!(allowed, expected, "{method} {path} {body}");
        }
        assert!(!check(&guards, Api::Deploy, Method::POST, "/graphql/v1/", read));
        for (kind, expected) in [
            ("application/json", true),
            ("application/json; charset=UTF-8", true),
            ("application/json; charset=utf-7", false),
            ("application/x-www-form-urlencoded", false),
            ("text/plain", false),
        ] {
            assert_eq!(is_utf8_json(Some(&HeaderValue::from_static(kind))), expected, "{kind}");
        }
        assert!(!is_utf8_json(None));
    }
}
