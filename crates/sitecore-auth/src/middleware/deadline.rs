//! A request's own time limit, shared by the wait for a token, the request and its replay.

use std::{future::Future, time::Duration};

use futures_util::future::BoxFuture;
use reqwest::Request;

use crate::{
    cache::{TokenCache, runtime_with_timers},
    clock::Moment,
    error::{Error, ErrorKind, Result},
    token::Token,
};

/// A request's own timeout, if it has one, and when it began.
#[derive(Clone, Copy)]
pub(super) struct Deadline(Option<(Duration, Moment)>);

impl Deadline {
    pub(super) fn of(request: &Request, cache: &TokenCache) -> Self {
        Self(request.timeout().map(|timeout| (*timeout, cache.now())))
    }

    fn time_left(self, cache: &TokenCache) -> Option<Duration> {
        let (timeout, started) = self.0?;
        Some(timeout.saturating_sub(cache.now().elapsed_since(started)))
    }

    /// Waits for a token until the deadline. Boxed, because this is rare.
    pub(super) fn limit<'a>(
        self,
        token: impl Future<Output = Result<Token>> + Send + 'a,
        cache: &'a TokenCache,
    ) -> BoxFuture<'a, Result<Token>> {
        Box::pin(async move {
            let Some(left) = self.time_left(cache) else {
                return token.await;
            };
            runtime_with_timers()?;
            match tokio::time::timeout(left, token).await {
                Ok(token) => token,
                Err(_elapsed) => Err(Error::new(
                    ErrorKind::Timeout,
                    "the request's timeout passed while it waited for a token; allow it more time",
                )),
            }
        })
    }

    /// Reduces the request's timeout to the time that is left.
    pub(super) fn apply(self, request: &mut Request, cache: &TokenCache) {
        if let Some(left) = self.time_left(cache) {
            *request.timeout_mut() = Some(left);
        }
    }
}
