//! The local proxy: programs in any language call Sitecore's APIs through it and never see a token.

mod access;
mod body;
mod document;
mod guard;
mod headers;
mod key;
mod problem;
mod record;
mod rewrite;
mod server;
mod status;
mod upstream;

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    Method, Request, Response, Version,
    body::{Body as HttpBody, Incoming},
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue, LOCATION,
    },
    http::request::Parts,
};

pub(crate) use self::{
    access::Access,
    headers::credential,
    key::Key,
    record::{Logged, Records},
    server::{Listener, serve},
    status::StatusPage,
    upstream::Upstream,
};
use self::{
    body::{Body, BoxError, Guarded, Limited, Read, discard, full, read},
    problem::Problem,
    record::Call,
    rewrite::Place,
};
use crate::{
    api::wrong_client,
    args::{Api, Guards},
};

/// The proxy: who may call, which APIs it serves, and what callers may do.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) access: Access,
    pub(crate) upstreams: Arc<[Upstream]>,
    pub(crate) guards: Guards,
    pub(crate) records: Records,
}

impl Proxy {
    /// Responds to a request: with the API's response, or with an error of the proxy's own.
    pub(crate) async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        let mut call = self.records.begin(request.method().as_str(), request.uri().path());
        let response = match self.pass_on(request, &mut call).await {
            Ok(response) => {
                call.set_status(response.status(), false);
                response
            }
            Err(problem) => {
                call.set_status(problem.status(), true);
                if let Some(reason) = problem.reason() {
                    call.explain(reason);
                }
                problem.response()
            }
        };
        // The call ends with its body.
        response.map(|body| Guarded { body, guard: Some(call) }.boxed_unsync())
    }

    async fn pass_on(
        &self,
        request: Request<Incoming>,
        call: &mut Call,
    ) -> Result<Response<Body>, Problem> {
        let (mut parts, body) = request.into_parts();
        // A client that sent `Expect: 100-continue` sends no body after a refusal.
        let is_sent = !parts.headers.contains_key(EXPECT);
        let admitted = self.access.check(&parts);
        let admitted = admitted.and_then(|host| Ok((host, self.route(parts.uri.path())?)));
        let (host, (upstream, path)) = match admitted {
            Ok(admitted) => admitted,
            Err(problem) => {
                if is_sent {
                    discard(body).await;
                }
                return Err(problem);
            }
        };
        call.set_upstream(upstream.api.name());
        let path = path.to_owned();
        let query = parts.uri.query().map(str::to_owned);
        let is_empty = body.is_end_stream();
        let body = read(Limited::new(body)).await.map_err(|error| {
            Problem::bad_request("body", format!("the body could not be read: {error}"))
        })?;
        let start = match &body {
            Read::Whole(bytes) => Some(bytes.clone()),
            Read::Long(_) => None,
        };
        let checked = self.guards.check(&guard::Call {
            api: upstream.api,
            method: &parts.method,
            path: &path,
            query: query.as_deref(),
            endpoint: upstream.endpoint.as_deref(),
            content_type: plain_type(&parts.headers),
            body: start.as_deref(),
        });
        if let Err(problem) = checked {
            if let Read::Long(rest) = body {
                discard(rest).await;
            }
            return Err(problem);
        }
        headers::strip_request(&mut parts.headers);
        let url = upstream.url(&path, query.as_deref());
        let Parts { method, mut headers, .. } = parts;
        if is_empty && sends_body(&method) {
            // IIS requires it.
            headers.insert(CONTENT_LENGTH, 0.into());
        }
        let request = upstream.client.request(method, url).headers(headers);
        let request = match body {
            Read::Whole(_) if is_empty => request,
            Read::Whole(bytes) => request.body(bytes),
            Read::Long(stream) => request.body(reqwest::Body::wrap(stream)),
        };
        call.ask_for_token();
        let response = request.with_extension(call.sent.clone()).send().await?;
        if let Some(wrong) = response.extensions().get() {
            call.explain(&wrong_client(*wrong));
        }
        self.for_caller(upstream, &host, &path, start.as_deref(), response).await
    }

    fn route<'a>(&'a self, path: &'a str) -> Result<(&'a Upstream, &'a str), Problem> {
        let found = self.upstreams.iter().find_map(|it| Some((it, it.path(path)?)));
        found.ok_or_else(|| {
            let known: Vec<_> =
                self.upstreams.iter().map(|it| format!("{}/…", it.prefix)).collect();
            Problem::not_found(format!("this proxy serves {}", known.join(", ")))
        })
    }

    /// Returns a response as the caller gets it. URLs that would bypass the proxy are rewritten.
    async fn for_caller(
        &self,
        upstream: &Upstream,
        host: &str,
        path: &str,
        sent: Option<&[u8]>,
        response: reqwest::Response,
    ) -> Result<Response<Body>, Problem> {
        if response.status().is_informational() {
            let detail = "the API changed the protocol, which the proxy did not request";
            return Err(Problem::bad_response(detail));
        }
        let url = response.url().clone();
        let (mut parts, body) = Response::<reqwest::Body>::from(response).into_parts();
        headers::strip_response(&mut parts.headers);
        parts.extensions.clear();
        // With HTTP/1.0, a cut would look like the end of the body.
        parts.version = Version::HTTP_11;
        let place = upstream.place(host);
        let location = parts.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.and_then(|text| place.url(url.join(text).ok()?.as_str()));
        if let Some(value) = location.and_then(|location| location.try_into().ok()) {
            parts.headers.insert(LOCATION, value);
        }
        let is_readable = parts.status.is_success()
            && is_json(&parts.headers)
            && !parts.headers.contains_key(CONTENT_ENCODING);
        let found = is_readable.then(|| self.urls_in_body(upstream, host, path, sent)).flatten();
        let Some((names, place)) = found else {
            return Ok(Response::from_parts(parts, stream(body)));
        };
        parts.headers.remove(CONTENT_LENGTH);
        let body =
            rewritten(body, |text| rewrite::members(text, &names, |url| place.absolute(url)));
        Ok(Response::from_parts(parts, body.await?))
    }

    /// Returns the members of a response whose URLs would bypass the proxy, and where those URLs
    /// lead.
    fn urls_in_body(
        &self,
        upstream: &Upstream,
        host: &str,
        path: &str,
        sent: Option<&[u8]>,
    ) -> Option<(HashSet<String>, Place)> {
        if upstream.api == Api::Authoring {
            let names = document::response_keys(sent?, "presignedUploadUrl");
            return (!names.is_empty()).then(|| (names, upstream.place(host)));
        }
        let delivery = self.upstreams.iter().find(|it| it.api == Api::Delivery)?;
        rewrite::is_obtain_edge_token(upstream.api, path)
            .then(|| (HashSet::from(["edgeUrl".to_owned()]), delivery.place(host)))
    }
}

/// Returns `true` if a request with this method usually has a body, so that an empty one is sent.
fn sends_body(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}

/// Returns the content type of a body, if there is just one, and the body is not compressed.
fn plain_type(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut types = headers.get_all(CONTENT_TYPE).into_iter();
    let first = types.next().filter(|_| !headers.contains_key(CONTENT_ENCODING));
    first.filter(|_| types.next().is_none())
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.starts_with("application/") && kind.ends_with("json")
}

fn stream<B>(body: B) -> Body
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Returns a body with this change, unless it is long or the change does not apply.
async fn rewritten(
    body: reqwest::Body,
    change: impl Fn(&str) -> Option<String>,
) -> Result<Body, Problem> {
    match read(body).await {
        Ok(Read::Whole(bytes)) => {
            let changed = std::str::from_utf8(&bytes).ok().and_then(change);
            Ok(full(changed.map_or(bytes, Bytes::from)))
        }
        Ok(Read::Long(body)) => Ok(stream(body)),
        Err(_) => Err(Problem::bad_response("the API's response ended early")),
    }
}
