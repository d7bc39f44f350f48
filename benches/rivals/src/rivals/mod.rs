//! The caches under comparison, behind one trait: each is asked for a header that can be put on a
//! request.

pub mod aliri;
pub mod aws_smithy;
pub mod azure;
pub mod cf_gears;
pub mod floor;
pub mod gcloud;
pub mod gcp;
pub mod google_cloud;
pub mod huskarl;
pub mod middle;
pub mod ours;
pub mod reqsign;

use std::{fmt::Display, time::Duration};

use http::HeaderValue;

use crate::issuer::Issuer;

/// A token cache that provides owned headers.
pub trait Rival: Send + Sync + Sized + 'static {
    /// Its name and version.
    const NAME: &'static str;
    /// How it gets its tokens, and by which documented API.
    const SETUP: &'static str;

    /// A lifetime, and a wait after which a token with this lifetime is due for refresh by the
    /// cache's own rule but usable for some seconds more. Otherwise, why there is no such wait.
    const STALE: Result<(Duration, Duration), &'static str>;

    /// Builds it as its documentation says. This may already fetch a token.
    fn start(issuer: &Issuer) -> impl Future<Output = Result<Self, String>> + Send;

    /// Returns an owned header that can be put on a request.
    fn header(&self) -> impl Future<Output = Result<HeaderValue, String>> + Send;
}

/// Builds the header of a token, for rivals that return bare tokens. The formatted text becomes the
/// header without another copy; no user could do it more cheaply.
fn bearer(token: &str) -> Result<HeaderValue, String> {
    sensitive(format!("Bearer {token}"))
}

/// Builds a header from its text, for rivals that return text.
fn sensitive(text: String) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(text).map_err(text_of)?;
    value.set_sensitive(true);
    Ok(value)
}

fn text_of(error: impl Display) -> String {
    error.to_string()
}
