//! What a container writes, line by line.
//!
//! Engines put the two outputs of a container into one stream of frames: a byte that says which output, three of
//! padding, four of length, and so many bytes, which begin with a time because we ask for it. A container with a
//! terminal has one output and no frames. Neither frames nor lines are where chunks of the stream end.
//!
//! Docker 20.10 may end a stream that follows a container before its very last words, which are what one wants of a
//! program that crashed. So the log is asked once more, without following, for what came after the last frame.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::Stream;
use futures_util::future::BoxFuture;
use tracing::debug;

use super::transport::{Answer, Call, Socket};
use super::{EngineError, Running};

mod frames;

use frames::Demultiplexer;

/// Longest line, in bytes; a longer one comes in pieces of so many.
pub const MAX_LOG_LINE_BYTES: usize = 16 << 10;

/// Which output a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output; with a terminal, both.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it was written.
    pub stream: LogStream,
    /// When its last part was; `None` where the engine does not say it in UTC.
    pub at: Option<SystemTime>,
    /// What was written, without the end of the line. It need not be UTF-8.
    pub bytes: Vec<u8>,
    /// Whether it ends here; not where it is longer than [`MAX_LOG_LINE_BYTES`] and goes on in the next, nor where no end of
    /// line came.
    pub is_whole: bool,
}

impl LogLine {
    /// Its text; what is no UTF-8 in it is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// The lines of a container as they come; made by [`Running::logs`]. It ends with the container.
///
/// A slow reader holds back the engine, and nothing is lost or kept in this process.
pub struct Logs {
    source: Source,
    state: State,
    demultiplexer: Demultiplexer,
    lines: VecDeque<LogLine>,
    /// Told behind the last line.
    fault: Option<EngineError>,
}

/// How far the reading is: it follows, asks for the rest, reads that, and is over.
enum State {
    Following(Answer),
    Asking(BoxFuture<'static, Result<Answer, EngineError>>),
    Rest(Answer),
    Over,
}

/// What is read.
#[derive(Debug, Clone)]
struct Source {
    socket: Socket,
    path: String,
    action: String,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Source {
    /// The output from a time on.
    async fn open(self, follow: bool, since: Option<SystemTime>) -> Result<Answer, EngineError> {
        let since = since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        let since = since.map_or_else(String::new, |since| {
            format!("&since={}.{:09}", since.as_secs(), since.subsec_nanos())
        });
        let follow = u8::from(follow);
        let call = Call::get(self.action, format!("{}&follow={follow}{since}", self.path));
        // An engine may send the head with the first line, so there is no limit of time to it.
        let mut answer = self.socket.open(&call).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let body = answer.collect(&call).await?;
        Err(EngineError::refusal(&call.action, answer.status, &body))
    }
}

impl Logs {
    pub(super) async fn open(of: &Running, since: Option<SystemTime>) -> Result<Self, EngineError> {
        // Without frames nobody could tell a time from text.
        let stamps = u8::from(!of.has_terminal);
        let path = format!("{}/containers/{}/logs?stdout=1&stderr=1&timestamps={stamps}", of.api, of.id);
        let action = format!("read the output of {}", of.name);
        let source = Source { socket: of.socket.clone(), path, action };
        let state = State::Following(source.clone().open(true, since).await?);
        let demultiplexer = Demultiplexer::new(of.has_terminal);
        Ok(Self { source, state, demultiplexer, lines: VecDeque::new(), fault: None })
    }

    /// Takes in what comes until there are lines, or nothing will come any more.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.lines.is_empty() {
            let (answer, is_rest) = match &mut self.state {
                State::Over => return Poll::Ready(()),
                State::Asking(asking) => {
                    self.state = match ready!(asking.as_mut().poll(cx)) {
                        Ok(answer) => State::Rest(answer),
                        Err(error) => {
                            // It was removed, most likely, and the rest with it.
                            debug!(action = self.source.action, %error, "no rest of the output");
                            State::Over
                        }
                    };
                    if matches!(self.state, State::Over) {
                        self.demultiplexer.finish(&mut self.lines);
                    }
                    continue;
                }
                State::Following(answer) => (answer, false),
                State::Rest(answer) => (answer, true),
            };
            match ready!(answer.poll_chunk(cx)) {
                Some(Ok(bytes)) => {
                    if let Err(kind) = self.demultiplexer.read(&bytes, &mut self.lines) {
                        let (action, reason) =
                            (self.source.action.clone(), format!("a frame of the kind {kind}"));
                        self.end(Some(EngineError::Answer { action, reason }));
                    }
                }
                Some(Err(error)) => {
                    let (action, reason) = (self.source.action.clone(), error.to_string());
                    self.end(Some(EngineError::Broken { action, reason }));
                }
                None => match self.demultiplexer.begin_rest().filter(|_| !is_rest) {
                    Some(last) => {
                        let asking = self.source.clone().open(false, Some(last));
                        self.state = State::Asking(Box::pin(asking));
                    }
                    None => self.end(None),
                },
            }
        }
        Poll::Ready(())
    }

    fn end(&mut self, fault: Option<EngineError>) {
        self.state = State::Over;
        self.fault = fault;
        self.demultiplexer.finish(&mut self.lines);
    }
}

impl Stream for Logs {
    type Item = Result<LogLine, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ready!(self.poll_fill(cx));
        match self.lines.pop_front() {
            Some(line) => Poll::Ready(Some(Ok(line))),
            None => Poll::Ready(self.fault.take().map(Err)),
        }
    }
}
