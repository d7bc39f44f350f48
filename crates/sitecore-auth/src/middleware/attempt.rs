//! A request that was sent with a token: what its response says about the token, and the replay.

use std::io;

use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::Next;
use tracing::debug;

use super::{
    api::Api,
    deadline::Deadline,
    peek::PeekedResponse,
    rejection::{MAX_REJECTION, Rejections, is_repeatable, may_replay},
};
use crate::{cache::TokenCache, error::causes, metrics, token::Token};

/// A request that was sent with a token.
pub(super) struct Attempt<'a> {
    pub(super) api: &'a Api,
    pub(super) cache: &'a TokenCache,
    pub(super) rejections: &'a Rejections,
    pub(super) deadline: Deadline,
    pub(super) token: Token,
    /// A copy to send again, if the request can be replayed.
    pub(super) replay: Option<Box<Request>>,
}

impl Attempt<'_> {
    /// Checks whether the response rejects the token. If so, replaces the token, and replays the
    /// request if that cannot repeat work.
    pub(super) async fn handle_response(
        mut self,
        response: Response,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let mut peeked = PeekedResponse::new(response);
        let Some(executed) = self.rejections.inspect(&mut peeked).await else {
            let mut response = peeked.into_response();
            self.api.note_response(&mut response, &self.token, self.cache);
            return Ok(response);
        };
        self.api.note_rejected(&self.token, self.cache);
        self.replay.take_if(|request| !may_replay(request, executed, peeked.url()));
        let other = self.replace(&mut peeked).await;
        let (Some(other), Some(mut replay)) = (other, self.replay.take()) else {
            peeked.read_rest(MAX_REJECTION).await;
            return Ok(peeked.into_response());
        };
        drop(peeked);
        debug!(cache = self.cache.label(), api = self.api.rule.name(), rejected = %self.token.fingerprint(), token = %other.fingerprint(), "retrying request with another token");
        self.deadline.apply(&mut replay, self.cache);
        authenticate(&mut replay, &other);
        let response = self.send_again(*replay, extensions, next).await?;
        Ok(self.learn(response, &other).await)
    }

    /// Replaces the rejected token. Returns the other token if there is one.
    async fn replace(&self, peeked: &mut PeekedResponse) -> Option<Token> {
        let other = self.cache.replace_for(&self.api.name, &self.token);
        let other = self.deadline.limit(other, self.cache);
        // The body is read meanwhile, so that no client timeout cuts it off and the connection
        // becomes free.
        let (other, action) = match peeked.read_during(MAX_REJECTION, other).await {
            // The refresh continues without this caller, so this counts as replaced.
            None => (None, "replaced"),
            Some(Ok(other)) if self.replay.is_some() => (Some(other), "replayed"),
            Some(Ok(other)) => (Some(other), "replaced"),
            Some(Err(error)) => {
                let (cache, api) = (self.cache.label(), self.api.rule.name());
                debug!(cache, api, cause = %error.cause(), retry_in = error.retry_after().map(tracing::field::debug), "could not replace rejected token");
                (None, "not_replaced")
            }
        };
        metrics::count_rejection(self.cache.name(), action);
        other
    }

    /// Sends the replay, and sends it again if its connection was closed. The server may have
    /// closed the connection after its first response.
    async fn send_again(
        &self,
        replay: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let spare = if is_repeatable(&replay) { replay.try_clone() } else { None };
        match (next.clone().run(replay, extensions).await, spare) {
            (Err(error), Some(mut spare)) if is_closed_connection(&error) => {
                debug!("connection of a replay was closed, sending it again");
                self.deadline.apply(&mut spare, self.cache);
                next.run(spare, extensions).await
            }
            (result, _) => result,
        }
    }

    /// Records whether the API accepted the other token. The response to a replay is final.
    async fn learn(&self, mut response: Response, token: &Token) -> Response {
        if !self.api.rule.covers(response.url()) {
            self.api.warn_of_redirect(response.url());
            return response;
        }
        if self.rejections.could_reject(&response) {
            let mut peeked = PeekedResponse::new(response);
            let executed = self.rejections.inspect(&mut peeked).await;
            response = peeked.into_response();
            if executed.is_some() {
                self.cache.record_rejection(&self.api.name, token);
                self.api.note_rejected(token, self.cache);
                self.api.warn_of_rejections();
                return response;
            }
        }
        self.api.note_response(&mut response, token, self.cache);
        response
    }
}

/// Adds a token to a request.
pub(super) fn authenticate(request: &mut Request, token: &Token) {
    let (name, value) = token.header();
    request.headers_mut().insert(name.clone(), value.clone());
}

/// Returns `true` if a request failed because its connection was refused, reset or closed before
/// there was a response.
fn is_closed_connection(error: &reqwest_middleware::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected,
        UnexpectedEof,
    };
    let reqwest_middleware::Error::Reqwest(error) = error else { return false };
    !error.is_timeout()
        && causes(error).any(|cause| {
            if let Some(error) = cause.downcast_ref::<hyper::Error>() {
                return error.is_incomplete_message() || error.is_canceled() || error.is_closed();
            }
            let closed = [
                BrokenPipe,
                ConnectionAborted,
                ConnectionRefused,
                ConnectionReset,
                NotConnected,
                UnexpectedEof,
            ];
            cause.downcast_ref::<io::Error>().is_some_and(|error| closed.contains(&error.kind()))
        })
}
