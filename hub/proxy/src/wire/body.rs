//! The body of a service's answer, whichever way it comes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::download::Download;
use super::{Pool, Upgraded, Wire, WireError};

/// The answer of a service.
pub(crate) enum ServiceBody {
    /// Over HTTP/1.1, and here already; what is left of it.
    Whole(Bytes),
    /// Over HTTP/1.1, read by whoever asks for it.
    Direct(Box<Direct>),
    /// Over HTTP/1.1, read by a task of its own.
    Relayed(Relayed),
    /// Over HTTP/2.
    Http2(Incoming),
    /// None: the service goes on in another protocol.
    Upgraded(Box<Upgraded>),
}

/// Why an answer is not whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyFault {
    /// Over HTTP/1.1.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
    /// More fields or bytes than headers may have.
    #[error("its trailers are too long")]
    Trailers,
}

/// A connection and what it still has to say.
pub(crate) struct Direct {
    /// `None` once it is over.
    open: Option<(Wire, Download)>,
    /// Told at the next call: an error throws away what HTTP/2 has not sent yet, even the head.
    fault: Option<WireError>,
    pool: Pool,
}

impl Direct {
    /// Keeps the connection for others once the answer is over.
    fn settle(&mut self) {
        if self.open.as_ref().is_some_and(|(_, download)| download.is_over())
            && let Some((wire, download)) = self.open.take()
            && let Some(room) = download.into_room()
        {
            self.pool.keep(wire, room, Instant::now());
        }
    }
}

/// What a task reads.
pub(crate) struct Relayed {
    /// `None` is the end.
    pub(super) frames: mpsc::Receiver<Result<Option<Frame<Bytes>>, WireError>>,
    pub(super) size: SizeHint,
    pub(super) is_over: bool,
}

impl ServiceBody {
    pub(super) fn direct(wire: Wire, download: Download, pool: Pool) -> Self {
        Self::Direct(Box::new(Direct { open: Some((wire, download)), fault: None, pool }))
    }

    /// The connection, where the service has agreed to another protocol.
    pub(crate) fn into_upgraded(self) -> Option<Upgraded> {
        match self {
            Self::Upgraded(upgraded) => Some(*upgraded),
            Self::Whole(_) | Self::Direct(_) | Self::Relayed(_) | Self::Http2(_) => None,
        }
    }
}

impl Body for ServiceBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.get_mut() {
            Self::Whole(data) => {
                let data = std::mem::take(data);
                Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
            }
            Self::Direct(direct) => {
                let Some((wire, download)) = &mut direct.open else {
                    return Poll::Ready(direct.fault.take().map(|fault| Err(fault.into())));
                };
                let frame = match ready!(download.poll(&mut wire.io, cx)) {
                    Ok(frame) => frame,
                    Err(fault) => {
                        (direct.open, direct.fault) = (None, Some(fault));
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                };
                direct.settle();
                Poll::Ready(frame.map(Ok))
            }
            Self::Relayed(relayed) => {
                if relayed.is_over {
                    return Poll::Ready(None);
                }
                let polled = ready!(relayed.frames.poll_recv(cx)).unwrap_or(Err(WireError::Ended));
                relayed.is_over = !matches!(polled, Ok(Some(_)));
                Poll::Ready(polled.map_err(BodyFault::from).transpose())
            }
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(BodyFault::from),
            Self::Upgraded(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(data) => data.is_empty(),
            Self::Direct(direct) => direct.open.is_none() && direct.fault.is_none(),
            Self::Relayed(relayed) => relayed.is_over || relayed.size.exact() == Some(0),
            Self::Http2(body) => body.is_end_stream(),
            Self::Upgraded(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(data) => SizeHint::with_exact(u64::try_from(data.len()).unwrap_or(u64::MAX)),
            Self::Direct(direct) => direct
                .open
                .as_ref()
                .map_or_else(|| SizeHint::with_exact(0), |(_, download)| download.size_hint()),
            Self::Relayed(relayed) => relayed.size,
            Self::Http2(body) => body.size_hint(),
            Self::Upgraded(_) => SizeHint::with_exact(0),
        }
    }
}
