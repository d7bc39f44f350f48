//! Reads the start of an answer's body, and puts it back.

use std::{
    borrow::Cow,
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use reqwest::{Response, ResponseBuilderExt as _};

/// How many bytes of a body are looked at: an answer that refuses everything is short.
pub(super) const LIMIT: usize = 16 * 1024;

/// Shows the start of the body to `decide`, growing, until it decides. Its second argument tells that there
/// is no more to come: the body has ended, or the limit is reached.
///
/// The answer that is returned is as the one given: its body delivers what was read, and then goes on.
pub(super) async fn look_ahead<T>(
    answer: Response,
    mut decide: impl FnMut(&[u8], bool) -> Option<T>,
) -> (Response, Option<T>) {
    let url = answer.url().clone();
    let (mut parts, rest) = http::Response::<reqwest::Body>::from(answer).into_parts();
    let mut body = PutBack {
        read: VecDeque::new(),
        length: 0,
        end: None,
        rest,
    };
    let mut is_first = true;
    let decision = loop {
        let frame = body.rest.frame().await;
        body.take(frame);
        // Each look is from the beginning: what has come already is taken before the next.
        while !is_first
            && body.goes_on()
            && let Some(frame) = body.rest.frame().now_or_never()
        {
            body.take(frame);
        }
        is_first = false;
        if body.end == Some(End::Failed) {
            break None;
        }
        let start = body.start();
        let decision = decide(&start[..start.len().min(LIMIT)], !body.goes_on());
        if decision.is_some() || !body.goes_on() {
            break decision;
        }
    };
    let with_url = http::Response::builder().url(url).body(());
    parts
        .extensions
        .extend(with_url.unwrap_or_default().into_parts().0.extensions);
    let body = reqwest::Body::wrap(body);
    (http::Response::from_parts(parts, body).into(), decision)
}

/// A body whose first frames have been read already.
struct PutBack {
    read: VecDeque<reqwest::Result<Frame<Bytes>>>,
    /// Of the data read.
    length: usize,
    end: Option<End>,
    rest: reqwest::Body,
}

/// Why there is nothing more to read.
#[derive(PartialEq, Eq)]
enum End {
    Reached,
    Failed,
}

impl PutBack {
    /// Takes in what the body gave.
    fn take(&mut self, frame: Option<reqwest::Result<Frame<Bytes>>>) {
        match &frame {
            Some(Ok(frame)) => self.length += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => self.end = Some(End::Failed),
            None => self.end = Some(End::Reached),
        }
        self.read.extend(frame);
    }

    fn goes_on(&self) -> bool {
        self.end.is_none() && self.length < LIMIT
    }

    /// Returns the text that was read. It is copied only if it came in several frames.
    fn start(&self) -> Cow<'_, [u8]> {
        let mut data = self.data();
        match (data.next(), data.next()) {
            (None, _) => Cow::Borrowed(&[]),
            (Some(only), None) => Cow::Borrowed(only),
            (Some(_), Some(_)) => self.data().flatten().copied().collect(),
        }
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
