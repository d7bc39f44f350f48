//! The caches under comparison, each behind the same question: one header, ready to be put on a request.

mod aliri;
mod aws_smithy;
mod azure;
mod cf_gears;
mod floor;
mod gcloud;
mod gcp;
mod google_cloud;
mod huskarl;
mod middle;
mod ours;
mod reqsign;

use std::{fmt::Display, time::Duration};

use http::HeaderValue;

pub use self::{aliri::Aliri, ours::OneGrant};
use crate::issuer::Issuer;

use crate::{herd, hot, stale};

/// A cache of tokens that is asked for one owned header.
pub trait Rival: Send + Sync + Sized + 'static {
    /// Its name and version.
    const NAME: &'static str;
    /// How it is fed, by which documented API.
    const FED: &'static str;

    /// A life, and a time after which a token of this life is stale by the cache's own rule and good for some
    /// seconds more; else why there is none.
    const STALE: Result<(Duration, Duration), &'static str>;

    /// Builds it as its documentation says; may already fetch, if it has to.
    fn start(issuer: &Issuer) -> impl Future<Output = Result<Self, String>> + Send;

    /// Returns one owned header, ready to be put on a request.
    fn header(&self) -> impl Future<Output = Result<HeaderValue, String>> + Send;
}

/// What is done with a rival.
pub struct Subject {
    pub name: &'static str,
    pub fed: &'static str,
    pub warm: fn(&Issuer) -> Result<hot::Warm, String>,
    pub herd: fn(&Issuer, herd::Herd) -> Result<herd::Outcome, String>,
    pub stale: fn(&Issuer, stale::Issuing) -> Result<String, String>,
    pub gone: fn(&Issuer) -> Result<String, String>,
}

impl Subject {
    /// Our own place among all; before it there is the floor.
    pub const OURS: usize = 1;

    fn of<R: Rival>() -> Self {
        Self {
            name: R::NAME,
            fed: R::FED,
            warm: hot::warm::<R>,
            herd: herd::run::<R>,
            stale: stale::stale::<R>,
            gone: stale::gone::<R>,
        }
    }
}

/// The floor, our own, and the rivals.
pub fn all() -> Vec<Subject> {
    vec![
        Subject::of::<floor::Floor>(),
        Subject::of::<ours::Ours>(),
        Subject::of::<middle::Middle>(),
        Subject::of::<aliri::Aliri>(),
        Subject::of::<aws_smithy::AwsSmithy>(),
        Subject::of::<gcloud::GcloudAuth>(),
        Subject::of::<gcp::GcpAuth>(),
        Subject::of::<huskarl::Huskarl>(),
        Subject::of::<google_cloud::GoogleCloudAuth>(),
        Subject::of::<cf_gears::CfGears>(),
        Subject::of::<reqsign::Reqsign>(),
        Subject::of::<azure::Azure>(),
    ]
}

/// Makes the header of a token, for rivals that hand out bare tokens. The text becomes the header without
/// being copied once more: no user could do it cheaper.
fn bearer(token: &str) -> Result<HeaderValue, String> {
    sensitive(format!("Bearer {token}"))
}

/// Makes a header of its text, for rivals that hand out texts.
fn sensitive(text: String) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(text).map_err(text_of)?;
    value.set_sensitive(true);
    Ok(value)
}

fn text_of(error: impl Display) -> String {
    error.to_string()
}
