//! Bodies: buffered if they are small, otherwise streamed.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::timeout;
use tower_http::timeout::TimeoutBody;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The longest body that is buffered. A request with a longer one cannot be replayed, and a
/// response with a longer one is not rewritten.
const MAX_BUFFERED: usize = 1 << 20;

/// How much of a refused request is read, and for how long.
const MAX_DISCARDED: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// How long a stream may pause. Its total time is not limited.
pub(crate) const IDLE_TIME: Duration = Duration::from_secs(600);

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body after its start was read.
pub(crate) enum Read<B> {
    Whole(Bytes),
    /// It is longer than what may be buffered.
    Long(Resumed<B>),
}

/// Reads a body, unless it is long.
pub(crate) async fn read<B>(body: B) -> Result<Read<B>, BoxError>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut body = body;
    let mut start = BytesMut::new();
    // A body that is known to be long is not waited for.
    if body.size_hint().lower() > MAX_BUFFERED as u64 {
        return Ok(Read::Long(Resumed { start: None, rest: body }));
    }
    while let Some(frame) = body.frame().await {
        // Trailers are dropped.
        let Ok(data) = frame.map_err(Into::into)?.into_data() else { continue };
        start.extend_from_slice(&data);
        if start.len() > MAX_BUFFERED {
            return Ok(Read::Long(Resumed { start: Some(start.freeze()), rest: body }));
        }
    }
    Ok(Read::Whole(start.freeze()))
}

/// Reads the rest of a request that is refused, within limits. Many clients read no response before
/// they have sent everything.
pub(crate) async fn discard<B: HttpBody<Data = Bytes> + Unpin>(mut body: B) {
    let mut length = 0;
    let read = async {
        while length < MAX_DISCARDED
            && let Some(Ok(frame)) = body.frame().await
        {
            length += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    let _ = timeout(DISCARD_TIME, read).await;
}

/// A body whose start has been read.
pub(crate) struct Resumed<B> {
    start: Option<Bytes>,
    rest: B,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Resumed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.start.take() {
            Some(start) => Poll::Ready(Some(Ok(Frame::data(start)))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let start = self.start.as_ref().map_or(0, |start| start.len() as u64);
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + start);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + start);
        }
        hint
    }
}

/// A body that fails if it pauses for too long.
pub(crate) struct Limited<B> {
    body: Pin<Box<TimeoutBody<B>>>,
    /// What is still to come, if that is known.
    left: SizeHint,
}

impl<B: HttpBody> Limited<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { left: body.size_hint(), body: Box::pin(TimeoutBody::new(IDLE_TIME, body)) }
    }
}

impl<B> HttpBody for Limited<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(self.body.as_mut().poll_frame(context));
        let length =
            frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref().map(Bytes::len));
        if let (Some(length), Some(left)) = (length, self.left.exact()) {
            self.left = SizeHint::with_exact(left.saturating_sub(length as u64));
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.left
    }
}

/// A body that drops a value when it ends or is abandoned.
pub(crate) struct Guarded<T> {
    pub(crate) body: Body,
    pub(crate) guard: Option<T>,
}

impl<T: Unpin> HttpBody for Guarded<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.guard = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
