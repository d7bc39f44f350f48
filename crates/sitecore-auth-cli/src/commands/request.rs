//! `request`: makes an authenticated call.

use std::fs;

use reqwest::{
    Method, Response, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;

use super::graphql::pretty;
use crate::{
    api::{Ready, failure, prepare},
    args::{Api, Common, Request},
    config::Config,
    failure::{Failure, Result},
    terminal::wait_for,
};

/// More pages than any list has.
const MAX_PAGES: u32 = 1_000;

pub(crate) async fn run(options: &Request, common: &Common, config: &Config) -> Result<Vec<u8>> {
    let method = Method::from_bytes(options.method.to_uppercase().as_bytes())
        .map_err(|_| Failure::usage(format!("`{}` is not an HTTP method", options.method)))?;
    let headers = headers(&options.headers)?;
    let host = options.host.host.as_deref();
    let (api, url) = target(&options.url, host, config)?;
    let ready = prepare(api, host, common, config)?;
    let body = options.data.as_deref().map(body).transpose()?;
    let call = async {
        if options.paginate {
            return Ok(
                pretty(&all_pages(&ready, page_parameter(api), url, &headers).await?).into_bytes()
            );
        }
        let mut request = ready.client.request(method, url).headers(headers.clone());
        if let Some(body) = body {
            request = request.body(body);
        }
        // The URL may be outside the folder to which the token is sent.
        let response =
            request.send().await.map_err(|error| Failure::from(error).config_as_usage())?;
        if !response.status().is_success() {
            return Err(failure(response).await);
        }
        let mut printed = if options.include { head(&response) } else { Vec::new() };
        printed.extend(response.bytes().await?);
        Ok(printed)
    };
    wait_for(common, "waiting for the response", call).await
}

/// Returns the API and the URL that `deploy:/path`, or a whole URL, stands for.
fn target(text: &str, host: Option<&str>, config: &Config) -> Result<(Api, Url)> {
    let apis = [Api::Deploy, Api::Edge, Api::Authoring];
    for api in apis {
        let path = text.strip_prefix(api.name()).and_then(|rest| rest.strip_prefix(':'));
        if let Some(path) = path.filter(|path| path.starts_with('/')) {
            let url = api.url(host, config)?.join(path);
            return Ok((api, url.map_err(|error| Failure::usage(error.to_string()))?));
        }
    }
    let expected =
        "expected a path such as deploy:/api/projects/v1, edge:/… or authoring:/…, or a URL";
    let url = Url::parse(text)
        .map_err(|error| Failure::usage(format!("`{text}`: {error}")).hint(expected))?;
    let covers =
        |api: &Api| api.url(host, config).is_ok_and(|known| known.origin() == url.origin());
    match apis.into_iter().find(covers) {
        Some(api) => Ok((api, url)),
        None => Err(Failure::usage(format!(
            "no API is known at {}",
            url.origin().ascii_serialization()
        ))
        .hint("name the CM with --host, or the hosts in sitecore-auth.toml")),
    }
}

fn headers(given: &[String]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for given in given {
        let (name, value) = given
            .split_once(':')
            .ok_or_else(|| Failure::usage(format!("--header `{given}`: expected `name: value`")))?;
        let invalid = || Failure::usage(format!("--header `{name}`: not a valid header"));
        let name = HeaderName::try_from(name.trim()).map_err(|_| invalid())?;
        if name == AUTHORIZATION {
            return Err(Failure::usage("--header authorization: the token is added for you"));
        }
        headers.append(&name, HeaderValue::try_from(value.trim()).map_err(|_| invalid())?);
    }
    Ok(headers)
}

fn body(data: &str) -> Result<Vec<u8>> {
    match data.strip_prefix('@') {
        None => Ok(data.as_bytes().to_owned()),
        Some("-") => {
            let mut body = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin(), &mut body)?;
            Ok(body)
        }
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

/// Gets all pages. The lists of Deploy say how many elements there are; those of the Token API,
/// whether there is another page.
async fn all_pages(ready: &Ready, parameter: &str, url: Url, headers: &HeaderMap) -> Result<Value> {
    let mut all = Vec::new();
    for number in 1..=MAX_PAGES {
        let mut page_url = url.clone();
        let others: Vec<_> = url
            .query_pairs()
            .filter(|(name, _)| !name.eq_ignore_ascii_case(parameter))
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        page_url.query_pairs_mut().clear().extend_pairs(others);
        page_url.query_pairs_mut().append_pair(parameter, &number.to_string());
        let response = ready.client.get(page_url).headers(headers.clone()).send().await?;
        if !response.status().is_success() {
            return Err(failure(response).await);
        }
        let page: Value = response.json().await?;
        let member = |names: [&str; 2]| names.into_iter().find_map(|name| page.get(name));
        let Some(items) =
            ["data", "keys", "Keys"].into_iter().find_map(|name| page[name].as_array())
        else {
            return Err(Failure::api("the response is not a list with pages")
                .hint("call it without --paginate"));
        };
        all.extend(items.iter().cloned());
        let is_last = match (member(["totalCount", "TotalCount"]), member(["hasNext", "HasNext"])) {
            (Some(total), _) => total.as_u64().is_none_or(|total| all.len() as u64 >= total),
            (None, Some(has_next)) => has_next != &Value::Bool(true),
            (None, None) => true,
        };
        if is_last || items.is_empty() {
            return Ok(Value::Array(all));
        }
    }
    Err(Failure::api(format!("the list has more than {MAX_PAGES} pages")))
}
