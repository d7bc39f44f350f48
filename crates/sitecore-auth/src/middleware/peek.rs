//! Reads the beginning of a response's body, and puts it back.
//!
//! A body that was read to its end no longer needs a timer, a flow-control window or a connection,
//! so it behaves like an untouched one.

use std::{
    future::{Future, poll_fn},
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use reqwest::{Response, ResponseBuilderExt as _};
use tokio::time::timeout;
use url::Url;

use crate::cache::runtime_with_timers;

/// How long to wait for the rest of a rejected response.
const REST_TIME: Duration = Duration::from_millis(500);

/// A response whose body is being read.
pub(super) struct PeekedResponse {
    parts: http::response::Parts,
    url: Url,
    body: PeekedBody,
}

impl PeekedResponse {
    pub(super) fn new(response: Response) -> Self {
        let url = response.url().clone();
        let (parts, rest) = http::Response::<reqwest::Body>::from(response).into_parts();
        Self {
            parts,
            url,
            body: PeekedBody { prefix: Prefix::default(), last: None, ended: false, rest },
        }
    }

    /// Reads until the body ends or more than `limit` bytes have arrived.
    pub(super) async fn read(&mut self, limit: usize) {
        poll_fn(|context| self.body.poll_read(limit, context)).await;
    }

    /// Reads while `work` runs, and returns its result. Returns `None` if the body turns out to be
    /// longer than `limit` before `work` is done.
    pub(super) async fn read_during<T>(
        &mut self,
        limit: usize,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|context| {
            let work = work.as_mut().poll(context);
            // Wakes this task when more of the body arrives.
            let _ = self.body.poll_read(limit, context);
            match work {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if self.is_longer_than(limit) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Reads the rest for a short time, unless it is known to be longer than `limit`, so that no
    /// timer of the client is left running. A body that takes longer, or never ends, does not hold
    /// up the caller.
    pub(super) async fn read_rest(&mut self, limit: usize) {
        if !self.is_longer_than(limit) {
            soon(self.read(limit)).await;
        }
    }

    /// Returns `true` if the body is known to be longer than `limit`.
    fn is_longer_than(&self, limit: usize) -> bool {
        self.body.size_hint().lower() > limit as u64
    }

    pub(super) fn status(&self) -> StatusCode {
        self.parts.status
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Returns what was read.
    pub(super) fn start(&self) -> &[u8] {
        self.body.prefix.bytes()
    }

    /// Returns `true` if the whole body was read.
    pub(super) fn is_whole(&self) -> bool {
        self.body.ended
    }

    /// Returns the response as it was.
    pub(super) fn into_response(mut self) -> Response {
        // Only a builder can record the URL.
        let mut builder = http::Response::builder();
        if let Some(extensions) = builder.extensions_mut() {
            mem::swap(extensions, &mut self.parts.extensions);
        }
        let with_url = builder.url(self.url).body(()).unwrap_or_default();
        self.parts.extensions = with_url.into_parts().0.extensions;
        http::Response::from_parts(self.parts, reqwest::Body::wrap(self.body)).into()
    }
}

/// Reads for a short time. `None` if that is not enough, so that a body that stalls does not hold
/// up the caller.
pub(super) async fn soon<T>(read: impl Future<Output = T>) -> Option<T> {
    runtime_with_timers().ok()?;
    timeout(REST_TIME, read).await.ok()
}

/// A body whose beginning has been read.
struct PeekedBody {
    prefix: Prefix,
    /// The trailers or the error after the prefix.
    last: Option<reqwest::Result<Frame<Bytes>>>,
    /// The body has ended, and not with an error.
    ended: bool,
    rest: reqwest::Body,
}

/// Data that was read. A single frame is kept as it is.
#[derive(Default)]
struct Prefix {
    first: Bytes,
    /// All frames joined, if there are several.
    joined: Vec<u8>,
}

impl PeekedBody {
    fn poll_read(&mut self, limit: usize, context: &mut Context<'_>) -> Poll<()> {
        while !self.is_done() && self.prefix.bytes().len() <= limit {
            match ready!(Pin::new(&mut self.rest).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.prefix.push(data),
                    Err(trailers) => self.last = Some(Ok(trailers)),
                },
                Some(Err(error)) => self.last = Some(Err(error)),
                None => self.ended = true,
            }
            self.ended |= self.rest.is_end_stream();
        }
        Poll::Ready(())
    }

    fn is_done(&self) -> bool {
        self.ended || matches!(self.last, Some(Err(_)))
    }
}

impl Prefix {
    fn push(&mut self, data: Bytes) {
        if self.bytes().is_empty() {
            self.first = data;
            return;
        }
        let first = mem::take(&mut self.first);
        self.joined.extend_from_slice(&first);
        self.joined.extend_from_slice(&data);
    }

    fn bytes(&self) -> &[u8] {
        if self.joined.is_empty() { &self.first } else { &self.joined }
    }

    fn take(&mut self) -> Bytes {
        let joined = Bytes::from(mem::take(&mut self.joined));
        let first = mem::take(&mut self.first);
        if joined.is_empty() { first } else { joined }
    }
}

impl Body for PeekedBody {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<reqwest::Result<Frame<Bytes>>>> {
        let data = self.prefix.take();
        if !data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match self.last.take() {
            Some(last) => Poll::Ready(Some(last)),
            None if self.ended => Poll::Ready(None),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_taken = self.prefix.bytes().is_empty() && self.last.is_none();
        is_taken && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.prefix.bytes().len() as u64;
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}
