//! Media upload: a mutation returns a URL, and the client posts the file there as a form, with its
//! token.

use std::{collections::BTreeMap, sync::Arc};

use async_graphql::{Context, Error, InputObject, Object, Result, SimpleObject};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Multipart, Query, State},
    http::{HeaderMap, StatusCode},
    response::{Html, IntoResponse as _, Response},
    routing::post,
};
use serde::Deserialize;
use serde_json::json;

use super::{
    access::{SCOPE, SignedIn},
    problem::problem,
};
use crate::cloud::{Api, Cloud};

const PATH: &str = "/sitecore/api/v1/authoring/media/upload";

/// The id of the template for files of an unknown type.
const FILE: &str = "962b53c4f93b4df99821415c867b8903";

const LOGIN_PAGE: &str =
    "<!DOCTYPE html><html><head><title>Log in</title></head><body>Log in</body></html>";

pub(crate) fn router(cloud: Arc<Cloud>) -> Router {
    Router::new().route(PATH, post(upload)).layer(DefaultBodyLimit::disable()).with_state(cloud)
}

#[derive(Deserialize)]
struct Ticket {
    token: String,
}

/// Receives the file. The ticket is valid once, and only with a bearer token.
async fn upload(
    State(cloud): State<Arc<Cloud>>,
    headers: HeaderMap,
    Query(ticket): Query<Ticket>,
    mut form: Multipart,
) -> Response {
    let allowed = cloud.cm_claims(&headers).map(|claims| claims.has_scope_like(SCOPE));
    let mut size = 0_usize;
    loop {
        match form.next_field().await {
            Ok(Some(mut field)) => loop {
                match field.chunk().await {
                    Ok(Some(chunk)) => size += chunk.len(),
                    Ok(None) => break,
                    Err(_) => return problem(StatusCode::BAD_REQUEST),
                }
            },
            Ok(None) => break,
            Err(_) => return problem(StatusCode::BAD_REQUEST),
        }
    }
    // The form is read first, because a client that is still sending would see a broken connection
    // instead of the response.
    if allowed != Some(true) {
        cloud.count_rejection(Api::Authoring);
        return match allowed {
            Some(_) => problem(StatusCode::FORBIDDEN),
            // As reported by users. A client that only checks the status does not notice.
            None => Html(LOGIN_PAGE).into_response(),
        };
    }
    let Some(path) = cloud.uploads.lock().remove(&ticket.token) else {
        return problem(StatusCode::NOT_FOUND);
    };
    let path = format!("/sitecore/media library/{}", path.trim_matches('/'));
    let (parent, name) = path.rsplit_once('/').unwrap_or_default();
    let fields = BTreeMap::from([("Size".to_owned(), size.to_string())]);
    let item = cloud.content.lock().add(parent, name, FILE, "en", fields);
    Json(json!({ "Id": item.id, "Name": item.name, "ItemPath": item.path })).into_response()
}

#[derive(Default)]
pub(crate) struct MediaMutation;

#[Object]
impl MediaMutation {
    /// Returns the URL to post a file to.
    #[graphql(guard = "SignedIn")]
    async fn upload_media(
        &self,
        context: &Context<'_>,
        input: UploadMediaInput,
    ) -> Result<UploadMediaPayload> {
        let cloud = context.data::<Arc<Cloud>>()?;
        if input.item_path.starts_with('/') {
            return Err(Error::new(
                "The item path must be relative to the media library, without a leading slash.",
            ));
        }
        let mut uploads = cloud.uploads.lock();
        let ticket = format!("ticket-{}", cloud.serial());
        let origin = cloud.cm.as_str().trim_end_matches('/');
        let url = format!("{origin}{PATH}?token={ticket}");
        uploads.insert(ticket, input.item_path);
        Ok(UploadMediaPayload { presigned_upload_url: url })
    }
}

#[derive(SimpleObject)]
struct UploadMediaPayload {
    presigned_upload_url: String,
}

#[derive(InputObject)]
struct UploadMediaInput {
    item_path: String,
    language: Option<String>,
    #[graphql(default)]
    overwrite_existing: bool,
}
