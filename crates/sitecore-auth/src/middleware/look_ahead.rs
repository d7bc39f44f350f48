//! Reads the start of a response's body, and puts it back.

use std::{
    collections::VecDeque,
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use reqwest::{Response, ResponseBuilderExt as _};
use url::Url;

/// How many bytes of a body are read. A response that rejects everything is short.
pub(super) const LIMIT: usize = 16 * 1024;

/// Shows the growing start of the body to `decide` until it decides. The second argument is `true`
/// when no more will follow, because the body has ended or the limit is reached.
///
/// The returned response is the same as the given one. Its body first yields what was read.
pub(super) async fn look_ahead<T>(
    response: Response,
    mut decide: impl FnMut(&[u8], bool) -> Option<T>,
) -> (Response, Option<T>) {
    let mut opened = Opened::of(response);
    let body = &mut opened.body;
    let decision = loop {
        body.read_on().await;
        if body.end == Some(End::Failed) {
            break None;
        }
        let decision = decide(&body.start, !body.goes_on());
        if decision.is_some() || !body.goes_on() {
            break decision;
        }
    };
    (opened.close(), decision)
}

/// Reads the body while other work is in progress, so that the client's timeouts do not cut it off
/// and its connection can be reused.
pub(super) async fn read_during<T>(
    response: Response,
    work: impl Future<Output = T>,
) -> (Response, T) {
    let mut opened = Opened::of(response);
    let done = match select(pin!(work), pin!(opened.body.read_to_limit())).await {
        Either::Left((done, _)) => done,
        Either::Right(((), work)) => work.await,
    };
    (opened.close(), done)
}

/// A response whose body is being read.
struct Opened {
    parts: http::response::Parts,
    url: Url,
    body: PutBack,
}

impl Opened {
    fn of(response: Response) -> Self {
        let url = response.url().clone();
        let (parts, rest) = http::Response::<reqwest::Body>::from(response).into_parts();
        let body = PutBack { read: VecDeque::new(), start: Vec::new(), end: None, rest };
        Self { parts, url, body }
    }

    /// Turns it into a response again.
    fn close(mut self) -> Response {
        let with_url = http::Response::builder().url(self.url).body(());
        let with_url = with_url.unwrap_or_default().into_parts().0.extensions;
        self.parts.extensions.extend(with_url);
        http::Response::from_parts(self.parts, reqwest::Body::wrap(self.body)).into()
    }
}

/// A body whose first frames have already been read.
struct PutBack {
    read: VecDeque<reqwest::Result<Frame<Bytes>>>,
    /// The data of these frames, up to the limit.
    start: Vec<u8>,
    end: Option<End>,
    rest: reqwest::Body,
}

/// Why nothing more can be read.
#[derive(PartialEq, Eq)]
enum End {
    Reached,
    Failed,
}

impl PutBack {
    /// Reads one frame. Dropping the future loses nothing.
    async fn read_on(&mut self) {
        let frame = self.rest.frame().await;
        match &frame {
            Some(Ok(frame)) => {
                let data = frame.data_ref().map_or(&[][..], |data| data);
                let kept = data.len().min(LIMIT - self.start.len());
                self.start.extend_from_slice(&data[..kept]);
            }
            Some(Err(_)) => self.end = Some(End::Failed),
            None => self.end = Some(End::Reached),
        }
        self.read.extend(frame);
    }

    async fn read_to_limit(&mut self) {
        while self.goes_on() {
            self.read_on().await;
        }
    }

    fn goes_on(&self) -> bool {
        self.end.is_none() && self.start.len() < LIMIT
    }

    fn data(&self) -> impl Iterator<Item = &Bytes> {
        let frames = self.read.iter().flatten();
        frames.filter_map(Frame::data_ref)
    }
}

impl Body for PutBack {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<reqwest::Result<Frame<Bytes>>>> {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if self.end == Some(End::Reached) => Poll::Ready(None),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.data().map(|data| data.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}
