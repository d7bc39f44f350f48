//! A request's own time limit, shared by the wait for a token, the request and its replay.

use std::{future::Future, time::Duration};

use futures_util::future::BoxFuture;
use reqwest::Request;

use crate::{Error, ErrorKind, Result, Token, TokenCache, cache::check_runtime, clock::Now};

/// The end of a request's own time, if it has one.
#[derive(Clone, Copy)]
pub(super) struct Deadline(Option<(Duration, Now)>);

impl Deadline {
    pub(super) fn of(request: &Request, cache: &TokenCache) -> Self {
        Self(request.timeout().map(|timeout| (*timeout, cache.now())))
    }

    fn left(self, cache: &TokenCache) -> Option<Duration> {
        let (timeout, begun) = self.0?;
        Some(timeout.saturating_sub(cache.now().elapsed_since(begun)))
    }

    /// Waits for a token no longer than the request has time. Boxed, since it seldom happens.
    pub(super) fn bound<'a>(
        self,
        token: impl Future<Output = Result<Token>> + Send + 'a,
        cache: &'a TokenCache,
    ) -> BoxFuture<'a, Result<Token>> {
        Box::pin(async move {
            let Some(left) = self.left(cache) else {
                return token.await;
            };
            check_runtime()?;
            match tokio::time::timeout(left, token).await {
                Ok(token) => token,
                Err(elapsed) => Err(Error::new(ErrorKind::Timeout, elapsed)),
            }
        })
    }

    /// Takes the time that has passed off the request's timeout.
    pub(super) fn shorten(self, request: &mut Request, cache: &TokenCache) {
        if let Some(left) = self.left(cache) {
            *request.timeout_mut() = Some(left);
        }
    }
}
