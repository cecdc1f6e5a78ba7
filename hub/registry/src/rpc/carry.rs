//! Bytes of one connection, both ways, for as long as they may pass.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};

/// Pause between two looks at whether the bytes may still pass, and whether any do.
const LOOK: Duration = Duration::from_secs(1);

/// Bytes held per direction.
const BUFFER_BYTES: usize = 32 * 1024;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Both directions ended.
    Passed {
        /// Bytes from the node.
        up: u64,
        /// Bytes to it.
        down: u64,
    },
    /// One side broke.
    Broken(io::Error),
    /// It was not allowed any more.
    Gone,
    /// Neither direction had a byte for the idle time.
    Idle,
}

/// Passes bytes until both directions have ended, `is_allowed` says no, or both were silent for `idle`; the last two are
/// looked at each second.
pub(super) async fn carry<S, L>(
    mut stream: S,
    local: L,
    idle: Duration,
    is_allowed: impl Fn() -> bool,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
    L: AsyncRead + AsyncWrite + Unpin,
{
    let steps = AtomicU64::new(0);
    let mut local = Watched { inner: local, steps: &steps };
    let cut = async {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            sleep(LOOK).await;
            if !is_allowed() {
                return Ended::Gone;
            }
            let now = steps.load(Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() >= idle {
                return Ended::Idle;
            }
        }
    };
    let passed =
        tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut local, BUFFER_BYTES, BUFFER_BYTES);
    tokio::select! {
        biased;
        passed = passed => match passed {
            Ok((up, down)) => Ended::Passed { up, down },
            Err(error) => Ended::Broken(error),
        },
        ended = cut => ended,
    }
}

/// A stream that counts the steps in which bytes came or went. All bytes of a connection pass here, so one of its two
/// streams is enough.
struct Watched<'a, L> {
    inner: L,
    steps: &'a AtomicU64,
}

impl<L> Watched<'_, L> {
    fn step(&self) {
        self.steps.fetch_add(1, Relaxed);
    }
}

impl<L: AsyncRead + Unpin> AsyncRead for Watched<'_, L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.step();
        }
        polled
    }
}

impl<L: AsyncWrite + Unpin> AsyncWrite for Watched<'_, L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        if matches!(polled, Poll::Ready(Ok(count)) if count > 0) {
            self.step();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_silent_both_ways_is_cut_and_one_direction_is_enough_to_keep_it() {
        let (mut node, stream) = duplex(64);
        let (mut rpc, local) = duplex(64);
        let began = Instant::now();
        let talk = async {
            // Only the RPC speaks, as one does that sends blocks.
            for _ in 0..10 {
                sleep(IDLE / 2).await;
                rpc.write_all(b"block").await.unwrap();
                let mut block = [0; 5];
                node.read_exact(&mut block).await.unwrap();
            }
            (node, rpc)
        };
        let (ended, _open) = tokio::join!(carry(stream, local, IDLE, || true), talk);
        assert!(matches!(ended, Ended::Idle), "{ended:?}");
        let (least, took) = (IDLE * 6, began.elapsed());
        assert!(took >= least && took <= least + 3 * LOOK, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_ends_says_how_much_passed_and_one_that_is_not_allowed_is_cut() {
        let (mut node, stream) = duplex(64);
        let (mut rpc, local) = duplex(64);
        let talk = async {
            node.write_all(b"request").await.unwrap();
            node.shutdown().await.unwrap();
            let mut asked = String::new();
            rpc.read_to_string(&mut asked).await.unwrap();
            rpc.write_all(b"answer").await.unwrap();
            drop(rpc);
            let mut answer = String::new();
            node.read_to_string(&mut answer).await.unwrap();
            assert_eq!((asked.as_str(), answer.as_str()), ("request", "answer"));
        };
        let (ended, ()) = tokio::join!(carry(stream, local, IDLE, || true), talk);
        assert!(matches!(ended, Ended::Passed { up: 7, down: 6 }), "{ended:?}");

        let ((_node, stream), (_rpc, local)) = (duplex(64), duplex(64));
        let is_allowed = AtomicBool::new(true);
        let withdraw = async {
            sleep(LOOK * 3).await;
            is_allowed.store(false, Relaxed);
        };
        let (ended, ()) = tokio::join!(carry(stream, local, IDLE, || is_allowed.load(Relaxed)), withdraw);
        assert!(matches!(ended, Ended::Gone), "{ended:?}");
    }
}
