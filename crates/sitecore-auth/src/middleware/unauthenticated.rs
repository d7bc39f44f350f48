//! Warns about requests that were sent without a token of ours and were rejected. The usual reason
//! is a target with a wrong host or path.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::Next;
use tracing::warn;
use url::Url;

use super::{
    api::Api,
    peek::PeekedResponse,
    rejection::{Rejections, inspect_graphql, rejects_by_header},
};
use crate::target::Target;

/// The largest number of hosts that are warned about.
const MAX_HOSTS: usize = 64;

/// A request extension: a middleware of this crate has authenticated the request, or has warned
/// about its host.
#[derive(Clone, Copy)]
pub(super) struct Handled;

/// A request extension: the targets of the middlewares that have passed the request on.
#[derive(Clone, Default)]
struct PassedBy(Vec<Arc<[Api]>>);

/// The hosts that were warned about.
#[derive(Clone, Debug, Default)]
pub(super) struct WarnedHosts(Arc<Mutex<HashSet<String>>>);

/// Why a request has no token of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    NoTarget,
    /// It has a credential of the caller's own.
    OwnCredential,
}

/// Returns `true` if a response from this URL is checked: it is on an origin that a target names,
/// on a host of Sitecore, or on the path of the Authoring API.
pub(super) fn is_watched(url: &Url, apis: &[Api]) -> bool {
    url.host_str().unwrap_or_default().trim_end_matches('.').ends_with(".sitecorecloud.io")
        || apis.iter().any(|api| api.rule.is_origin_of(url))
        || Target::is_authoring_endpoint(url)
}

impl WarnedHosts {
    /// Sends the request, and warns if its response is a rejection.
    pub(super) async fn send_and_check(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
        why: Why,
        apis: &Arc<[Api]>,
        rejections: &Rejections,
    ) -> reqwest_middleware::Result<Response> {
        let passed_by = &mut extensions.get_or_insert_default::<PassedBy>().0;
        // A retry passes the request on again.
        if !passed_by.iter().any(|known| Arc::ptr_eq(known, apis)) {
            passed_by.push(Arc::clone(apis));
        }
        let response = next.run(request, extensions).await?;
        let is_handled = extensions.get::<Handled>().is_some();
        if is_handled || !is_watched(response.url(), apis) {
            return Ok(response);
        }
        if !self.can_warn(response.url()) {
            extensions.insert(Handled);
            return Ok(response);
        }
        let (response, is_rejected) = is_rejected(response, rejections).await;
        if is_rejected {
            extensions.insert(Handled);
            let passed_by = extensions.get::<PassedBy>().cloned().unwrap_or_default();
            self.warn(response.url(), why, passed_by.0.iter().flat_map(|apis| apis.iter()));
        }
        Ok(response)
    }

    /// Returns `true` if there was no warning about this host yet, and there can be one.
    fn can_warn(&self, url: &Url) -> bool {
        let warned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        warned.len() < MAX_HOSTS && !warned.contains(url.host_str().unwrap_or_default())
    }

    fn warn<'a>(&self, url: &Url, why: Why, mut apis: impl Iterator<Item = &'a Api> + Clone) {
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut warned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() >= MAX_HOSTS || !warned.insert(host) {
            return;
        }
        drop(warned);
        let origin = url.origin().ascii_serialization();
        // Other paths may contain secrets.
        let path = Target::is_authoring_endpoint(url).then_some(Target::AUTHORING_ENDPOINT);
        let targets = names(apis.clone());
        let is_known = apis.clone().any(|api| api.rule.is_origin_of(url));
        let is_covered = apis.any(|api| api.rule.covers(url));
        let message = match why {
            Why::NoTarget if is_known => {
                "request matched no target and was rejected; its path is outside the targets, so add a target for that folder"
            }
            Why::NoTarget => {
                "request matched no target and was rejected; add a target for its host"
            }
            Why::OwnCredential if is_covered => {
                "request with a credential of its own was rejected; remove that credential so that the middleware adds its token"
            }
            Why::OwnCredential => {
                "request with a credential of its own was rejected; check that credential, because no target covers the URL"
            }
        };
        warn!(origin, path, targets, "{message}");
    }
}

/// Lists the targets' folders.
pub(super) fn names<'a>(apis: impl Iterator<Item = &'a Api>) -> String {
    apis.map(|api| api.rule.name()).collect::<Vec<_>>().join(", ")
}

/// Returns the response as it was, and whether it is a rejection. Only Authoring's bodies are read.
async fn is_rejected(response: Response, rejections: &Rejections) -> (Response, bool) {
    let (url, headers) = (response.url(), response.headers());
    if rejects_by_header(response.status(), headers) {
        return (response, true);
    }
    if !Target::is_authoring_endpoint(url) || !rejections.could_reject_by_graphql(url, headers) {
        return (response, false);
    }
    let mut peeked = PeekedResponse::new(response);
    let executed = inspect_graphql(&mut peeked).await;
    (peeked.into_response(), executed.is_some())
}
