//! The plainest cache: a header in an `ArcSwap`, never looked at, never renewed. All threads count the references of one
//! header, and take turns at it.

use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;

use super::{Rival, bearer, text_of};
use crate::issuer::Issuer;

pub struct Floor(ArcSwap<HeaderValue>);

impl Rival for Floor {
    const NAME: &'static str = "floor (arc-swap 1.9)";
    const FED: &'static str = "By one grant in process, at the start.";

    const STALE: Result<(Duration, Duration), &'static str> = Err("it is never renewed");

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        let granted = issuer.grant().await.map_err(text_of)?;
        Ok(Self(ArcSwap::from_pointee(bearer(&granted.token)?)))
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        Ok(HeaderValue::clone(&self.0.load()))
    }
}
