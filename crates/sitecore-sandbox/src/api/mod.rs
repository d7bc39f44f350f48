//! The APIs of the fake cloud, as HTTP servers.

mod access;
mod authoring;
mod control;
mod delivery;
mod deploy;
mod edge;
mod inflict;
mod issuer;
mod items;
mod media;
mod problem;
mod publishing;
mod search;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};

pub(crate) use self::{authoring::PATH as AUTHORING_PATH, delivery::PATH as DELIVERY_PATH};
use crate::cloud::{Api, Cloud};

/// Returns the server of an API. It counts its calls and applies scripted faults to them.
pub(crate) fn router(api: Api, cloud: &Arc<Cloud>) -> Router {
    let router = match api {
        Api::Token => issuer::router,
        Api::Authoring => authoring::router,
        Api::Deploy => deploy::router,
        Api::Edge => edge::router,
    };
    let counted = from_fn_with_state((Arc::clone(cloud), api), receive);
    let router = router(Arc::clone(cloud)).layer(counted);
    match api {
        Api::Token => router.merge(control::router(Arc::clone(cloud))),
        _ => router,
    }
}

/// Counts a call, and applies the next scripted fault to it.
async fn receive(
    State((cloud, api)): State<(Arc<Cloud>, Api)>,
    request: Request,
    next: Next,
) -> Response {
    match cloud.receive(api) {
        Some(fault) => inflict::inflict(fault, request, next).await,
        None => next.run(request).await,
    }
}
