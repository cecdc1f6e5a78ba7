//! The frames of a command's session, on the side where the command is: what it is told, and what it says.
//!
//! A keeper speaks them for a command beside a native workload, the agent for one in a container.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use blueprint_common_runtime::frames::{ALIVE, Frame, FrameReader, SILENCE, STDIN_WINDOW};
use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

/// Frames that wait to be sent.
pub(crate) const WAITING: usize = 4;

/// Bytes that are read at once.
const CHUNK: usize = 32 << 10;

/// How long the last bytes may be waited for once nothing is left that could write any: who was handed a pipe by somebody else
/// may keep it open for longer.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// What a terminal takes for the end of its input (Ctrl-D).
const END_OF_INPUT: u8 = 4;

/// Signals that may be passed on: HUP, INT, QUIT, USR1, USR2, TERM.
const SIGNALS: [(u8, Signal); 6] = [
    (1, Signal::SIGHUP),
    (2, Signal::SIGINT),
    (3, Signal::SIGQUIT),
    (10, Signal::SIGUSR1),
    (12, Signal::SIGUSR2),
    (15, Signal::SIGTERM),
];

/// What the other side wants beside standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The terminal has this size now: rows, columns.
    Resize(u16, u16),
    /// A signal for the command's whole group, as a terminal sends it.
    Signal(Signal),
}

/// Pieces of standard input on their way to the command, `None` at its end, and how many bytes they have together.
pub(crate) type OnWay<'a> = (mpsc::UnboundedSender<Option<Vec<u8>>>, &'a AtomicUsize);

/// Hears what the other side says, until it is gone or says what is no order. More standard input than its window it does not
/// take.
pub(crate) async fn listen<R: AsyncRead + Unpin>(
    reader: R,
    (stdin, on_way): OnWay<'_>,
    mut order: impl FnMut(Order),
) {
    let mut frames = FrameReader::new(reader);
    let mut is_ended = false;
    while let Ok(Ok(Some(frame))) = timeout(SILENCE, frames.next()).await {
        match frame {
            Frame::Alive => {}
            Frame::Stdin(bytes) => {
                // Without bytes, or behind the end, it would take room that the window does not know of.
                let count = on_way.fetch_add(bytes.len(), Ordering::Relaxed).saturating_add(bytes.len());
                if is_ended || bytes.is_empty() || count > STDIN_WINDOW || stdin.send(Some(bytes)).is_err() {
                    return;
                }
            }
            Frame::StdinEnd => {
                if std::mem::replace(&mut is_ended, true) || stdin.send(None).is_err() {
                    return;
                }
            }
            Frame::Resize(rows, columns) => order(Order::Resize(rows, columns)),
            Frame::Signal(number) => {
                if let Some((_, signal)) = SIGNALS.iter().find(|(known, _)| *known == number) {
                    order(Order::Signal(*signal));
                }
            }
            Frame::Stdout(_)
            | Frame::Stderr(_)
            | Frame::Taken(_)
            | Frame::Exit(_)
            | Frame::Arrived(_)
            | Frame::Session(_) => return,
        }
    }
}

/// Where the command reads.
pub(crate) struct Input {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    is_terminal: bool,
}

impl Input {
    pub(crate) fn new(writer: impl AsyncWrite + Send + Unpin + 'static, is_terminal: bool) -> Self {
        Self { writer: Box::new(writer), is_terminal }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
    }

    /// No more comes. Where nobody reads there is nobody to be told.
    async fn end(mut self) {
        let _ = if self.is_terminal {
            self.write_all(&[END_OF_INPUT]).await
        } else {
            self.writer.shutdown().await
        };
    }
}

/// Gives the command its standard input, and says how much it took. One that takes none takes all that comes.
pub(crate) async fn feed(
    mut input: Option<Input>,
    mut pieces: mpsc::UnboundedReceiver<Option<Vec<u8>>>,
    on_way: &AtomicUsize,
    out: &mpsc::Sender<Frame>,
) -> Infallible {
    while let Some(piece) = pieces.recv().await {
        let Some(bytes) = piece else {
            if let Some(input) = input.take() {
                input.end().await;
            }
            continue;
        };
        if let Some(taker) = &mut input
            && taker.write_all(&bytes).await.is_err()
        {
            input = None;
        }
        on_way.fetch_sub(bytes.len(), Ordering::Relaxed);
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // Where nobody listens, another future ends it all.
        let _ = out.send(Frame::Taken(count)).await;
    }
    pending().await
}

/// Says now and then that this side is there, where nothing else waits to be sent.
pub(crate) async fn say_alive(out: &mpsc::Sender<Frame>) -> Infallible {
    let mut ticks = interval(ALIVE);
    loop {
        ticks.tick().await;
        let _ = out.try_send(Frame::Alive);
    }
}

/// Sends frames until the last one, or until nobody takes them.
pub(crate) async fn send<W: AsyncWrite + Unpin>(mut waiting: mpsc::Receiver<Frame>, mut writer: W) {
    while let Some(frame) = waiting.recv().await {
        let is_last = matches!(frame, Frame::Exit(_));
        if frame.write(&mut writer).await.is_err() || is_last {
            return;
        }
    }
}

/// Hands on what is read until nobody can write any more; once it is over, only for as long as the last bytes take, and `last`
/// of them. `frames` makes frames of bytes; `None` ends it.
pub(crate) async fn pump<R: AsyncRead + Unpin>(
    mut reader: R,
    out: mpsc::Sender<Frame>,
    over: &CancellationToken,
    last: usize,
    mut frames: impl FnMut(&[u8]) -> Option<Vec<Frame>>,
) {
    let mut buffer = vec![0; CHUNK];
    // Only waiting for bytes counts: who takes them slowly loses none of them.
    let (mut patience, mut left) = (LINGER, last);
    loop {
        let read = {
            let read = reader.read(&mut buffer);
            tokio::pin!(read);
            tokio::select! {
                biased;
                () = over.cancelled() => {
                    let begun = Instant::now();
                    let read = timeout(patience, read).await;
                    patience = patience.saturating_sub(begun.elapsed());
                    match read {
                        Ok(read) => read,
                        Err(_) => return,
                    }
                }
                read = &mut read => read,
            }
        };
        if over.is_cancelled() {
            let count = *read.as_ref().unwrap_or(&0);
            left = match left.checked_sub(count) {
                Some(left) => left,
                None => return,
            };
        }
        let bytes = match read {
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(_) => return,
        };
        if bytes.is_empty() {
            return;
        }
        let Some(frames) = frames(bytes) else { return };
        for frame in frames {
            if out.send(frame).await.is_err() {
                return;
            }
        }
    }
}

/// Why a command was ended, where it did not end by itself: its time was up, after `late`; or some of it cannot be killed.
pub(crate) fn reason(late: Option<Duration>, left: usize) -> String {
    let mut reason = match late {
        Some(limit) => format!("its time is up: it ran for {} s (--timeout)", limit.as_secs()),
        None => String::new(),
    };
    match (left, late) {
        (0, None) => {}
        (0, Some(_)) => reason.push_str("; nothing of it is left"),
        (left, _) => reason.push_str(&format!("; {left} of its processes cannot be killed now")),
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a listener does with these frames: signals and sizes, pieces of input, and bytes on their way.
    async fn heard(frames: &[Frame]) -> (Vec<Order>, Vec<Option<Vec<u8>>>) {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let (stdin, mut pieces) = mpsc::unbounded_channel();
        let (on_way, mut orders) = (AtomicUsize::new(0), Vec::new());
        listen(bytes.as_slice(), (stdin, &on_way), |order| orders.push(order)).await;
        let mut all = Vec::new();
        while let Ok(piece) = pieces.try_recv() {
            all.push(piece);
        }
        (orders, all)
    }

    #[tokio::test]
    async fn only_what_a_client_may_say_is_done() {
        let (orders, pieces) = heard(&[
            Frame::Resize(24, 80),
            Frame::Signal(2),
            Frame::Signal(9),
            Frame::Stdin(b"a".to_vec()),
            Frame::StdinEnd,
            Frame::Stdin(b"b".to_vec()),
            Frame::Resize(1, 1),
        ])
        .await;
        assert_eq!(orders, [Order::Resize(24, 80), Order::Signal(Signal::SIGINT)]);
        assert_eq!(pieces, [Some(b"a".to_vec()), None], "nothing comes behind the end");
        let (orders, _) = heard(&[Frame::Stdout(Vec::new()), Frame::Signal(2)]).await;
        assert_eq!(orders, []);
        let much: Vec<Frame> = (0..6).map(|_| Frame::Stdin(vec![0; 60_000])).collect();
        assert_eq!(heard(&much).await.1.len(), STDIN_WINDOW / 60_000, "no more than the window");
    }

    #[test]
    fn an_end_that_is_its_own_needs_no_reason() {
        let limit = Some(Duration::from_secs(3));
        assert_eq!(reason(None, 0), "");
        assert_eq!(reason(limit, 0), "its time is up: it ran for 3 s (--timeout); nothing of it is left");
        assert!(reason(None, 2).contains("2 of its processes"));
    }
}
