//! The simplest cache: a header in an `ArcSwap` that is never checked or refreshed. All threads
//! update the reference count of one header and contend for its cache line.

use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;

use super::{Rival, bearer, text_of};
use crate::issuer::Issuer;

pub struct Floor(ArcSwap<HeaderValue>);

impl Rival for Floor {
    const NAME: &'static str = "floor (arc-swap 1.9)";
    const SETUP: &'static str = "In process: one token at the start.";

    const STALE: Result<(Duration, Duration), &'static str> = Err("never refreshes");

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        let granted = issuer.request_token().await.map_err(text_of)?;
        Ok(Self(ArcSwap::from_pointee(bearer(&granted.token)?)))
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        Ok(HeaderValue::clone(&self.0.load()))
    }
}
