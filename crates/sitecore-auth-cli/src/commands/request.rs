//! `request`: makes an authenticated call.

use std::fs;

use reqwest::{
    Method, Response, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use sitecore_auth::CREDENTIAL_HEADERS;

use crate::{
    api::{Ready, failure, prepare},
    args::{Api, Common, Request},
    config::Config,
    failure::{Failure, Kind, Result},
    proxy::credential,
    terminal::{read_stdin, wait_for},
};

/// More pages than any list has.
const MAX_PAGES: u32 = 1_000;

/// Headers that are set for the user.
const RESERVED: [HeaderName; 8] = [
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
];

pub(crate) async fn run(options: &Request, common: &Common, config: &Config) -> Result<Vec<u8>> {
    let method = method(&options.method)?;
    if options.paginate && method != Method::GET {
        return Err(Failure::usage("--paginate works only with GET"));
    }
    let headers = headers(&options.headers)?;
    let host = options.host.host.as_deref();
    let (api, url) = target(&options.url, host, config)?;
    let body = options.data.as_deref().map(body).transpose()?;
    let call = async {
        let ready = prepare(api, host, common, config).await?;
        if options.paginate {
            return all_pages(&ready, page_parameter(api), &url, &headers).await;
        }
        let path = url.path().to_owned();
        let mut request = ready.client.request(method, url).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = send(request, &path).await?;
        let mut printed = if options.include { head(&response) } else { Vec::new() };
        printed.extend(response.bytes().await?);
        Ok(printed)
    };
    wait_for(common, "waiting for the response", call).await
}

/// Sends a request. A response with an error status is a failure.
async fn send(request: reqwest_middleware::RequestBuilder, path: &str) -> Result<Response> {
    // It may be outside the folder to which the token is sent.
    let response =
        request.send().await.map_err(|error| match sitecore_auth::Error::find(&error) {
            Some(outside) if outside.is_outside_targets() => {
                Failure::usage(format!("`{path}` is outside the API, so it gets no token"))
                    .hint("check it for a double slash or a missing prefix, such as /api/")
            }
            _ => Failure::from(error),
        })?;
    match response.status().is_success() {
        true => Ok(response),
        false => Err(failure(response).await),
    }
}

fn method(text: &str) -> Result<Method> {
    let method = Method::from_bytes(text.to_uppercase().as_bytes()).ok();
    let method = method.filter(|method| ![Method::CONNECT, Method::TRACE].contains(method));
    method.ok_or_else(|| Failure::usage(format!("`{text}` is not an HTTP method for an API")))
}

/// Returns the API and the URL that `deploy:/path`, or a whole URL, stands for.
fn target(text: &str, host: Option<&str>, config: &Config) -> Result<(Api, Url)> {
    const EXPECTED: &str =
        "expected a path such as deploy:/api/projects/v1, edge:/… or authoring:/…, or a URL";
    let apis = [Api::Deploy, Api::Edge, Api::Authoring];
    let invalid = |reason: &str| Failure::usage(format!("`{text}`: {reason}")).hint(EXPECTED);
    for api in apis {
        let path = text.strip_prefix(api.name()).and_then(|rest| rest.strip_prefix(':'));
        if let Some(path) = path.filter(|path| path.starts_with('/')) {
            let base = api.url(host, config)?;
            let url = base.join(path).map_err(|error| invalid(&error.to_string()))?;
            // For example, `//host` is not a path.
            if url.origin() != base.origin() {
                return Err(invalid("this is not a path"));
            }
            return Ok((api, check_url(url)?));
        }
    }
    let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(invalid("this is neither the path of an API nor an http or https URL"));
    }
    let covers =
        |api: &Api| api.url(host, config).is_ok_and(|known| known.origin() == url.origin());
    match apis.into_iter().find(covers) {
        Some(api) => Ok((api, check_url(url)?)),
        None => {
            let origin = url.origin().ascii_serialization();
            Err(Failure::usage(format!("no API is known at {origin}"))
                .hint("name the CM with --host, or check the scheme and SITECORE_DEPLOY_URL, SITECORE_EDGE_URL and [hosts] in sitecore-auth.toml"))
        }
    }
}

/// Returns the URL if it contains no credential of the user's own.
fn check_url(url: Url) -> Result<Url> {
    let has_key = credential(&HeaderMap::new(), url.query()).is_some();
    if has_key || !url.username().is_empty() || url.password().is_some() {
        return Err(Failure::usage("the URL contains a credential")
            .hint("leave it out; the token is added for you"));
    }
    Ok(url)
}

fn headers(given: &[String]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for given in given {
        // The text may be a secret, so it is not repeated.
        let (name, value) = given
            .split_once(':')
            .ok_or_else(|| Failure::usage("--header: expected `name: value`"))?;
        let invalid = || Failure::usage("--header: this is not a valid header");
        let name = HeaderName::try_from(name.trim()).map_err(|_| invalid())?;
        if RESERVED.contains(&name) || CREDENTIAL_HEADERS.contains(&name) {
            return Err(Failure::usage(format!("--header {name}: this header is set for you")));
        }
        headers.append(&name, HeaderValue::try_from(value.trim()).map_err(|_| invalid())?);
    }
    Ok(headers)
}

fn body(data: &str) -> Result<Vec<u8>> {
    match data.strip_prefix('@') {
        None => Ok(data.as_bytes().to_owned()),
        Some("-") => read_stdin(),
        Some(path) => {
            fs::read(path).map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))
        }
    }
}

/// Returns the status line and the headers, followed by an empty line.
fn head(response: &Response) -> Vec<u8> {
    let mut head = format!("{:?} {}\n", response.version(), response.status()).into_bytes();
    for (name, value) in response.headers() {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat());
    }
    head.push(b'\n');
    head
}

/// Returns the name of the parameter with the number of a page.
fn page_parameter(api: Api) -> &'static str {
    if api == Api::Edge { "pagenumber" } else { "pageNumber" }
}

/// One page: of Deploy, which says how many elements there are, or of the Token API, which says
/// whether there is another page. The elements stay as the API wrote them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    // Null is an empty page, but a page without this member is not a list.
    #[serde(
        alias = "keys",
        alias = "Keys",
        alias = "Data",
        deserialize_with = "Option::deserialize"
    )]
    data: Option<Vec<Box<RawValue>>>,
    #[serde(default, alias = "TotalCount")]
    total_count: Value,
    #[serde(default, alias = "HasNext")]
    has_next: Value,
}

/// Gets all pages and returns one array.
async fn all_pages(
    ready: &Ready,
    parameter: &str,
    url: &Url,
    headers: &HeaderMap,
) -> Result<Vec<u8>> {
    if url.query_pairs().any(|(name, _)| name.eq_ignore_ascii_case(parameter)) {
        return Err(Failure::usage(format!("--paginate sets {parameter} itself")));
    }
    let not_a_list =
        || Failure::api("the response is not a list with pages").hint("call it without --paginate");
    let mut all: Vec<Box<RawValue>> = Vec::new();
    for number in 1..=MAX_PAGES {
        let mut page_url = url.clone();
        page_url.query_pairs_mut().append_pair(parameter, &number.to_string());
        let response =
            send(ready.client.get(page_url).headers(headers.clone()), url.path()).await?;
        let bytes = response.bytes().await?;
        // The parser would accept an array for an object.
        let is_object = bytes.trim_ascii_start().first() == Some(&b'{');
        let page = serde_json::from_slice::<Page>(&bytes).ok().filter(|_| is_object);
        let page = page.ok_or_else(not_a_list)?;
        let elements = page.data.unwrap_or_default();
        let is_empty = elements.is_empty();
        all.extend(elements);
        let found = all.len() as u64;
        let is_last = match (page.total_count.as_u64(), page.has_next.as_bool()) {
            (_, Some(has_next)) => !has_next || is_empty,
            (Some(total), None) if found < total && is_empty => {
                let message = format!("the list ended after {found} of {total} elements");
                return Err(Failure::new(Kind::Api, message));
            }
            (Some(total), None) => found >= total,
            (None, None) => return Err(not_a_list()),
        };
        if is_last {
            return serde_json::to_vec(&all).map_err(|error| Failure::api(error.to_string()));
        }
    }
    Err(Failure::api(format!("the list has more than {MAX_PAGES} pages")))
}
