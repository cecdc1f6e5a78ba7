//! The two outputs of a workload, read by its keeper as long as anybody may write to them.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::process::{ChildStderr, ChildStdout};
use std::time::Duration;

use blueprint_common_types::LogStream;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{sleep, timeout};

use crate::logs::Sink;

/// How long the last lines may take once nothing is left that could write any. Who was handed a pipe by somebody else may
/// keep it open for longer.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are read at once. They are on the stack, so that a keeper at rest holds no buffer.
const CHUNK: usize = 16 << 10;

/// Most pieces of an output that are taken in before it is another one's turn; together as much as a pipe holds.
const CHUNKS: usize = 4;

/// Pause before more is read of a workload that writes more than is kept: reading costs time of a processor that is not
/// counted as the workload's. So 6 MiB a second are read of a flood, and it waits.
const FLOOD_PAUSE: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Capture {
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
    sink: Sink,
}

impl Capture {
    pub(super) fn new(
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
        sink: Sink,
    ) -> io::Result<Self> {
        Ok(Self {
            stdout: stdout.map(|pipe| Receiver::from_owned_fd(OwnedFd::from(pipe))).transpose()?,
            stderr: stderr.map(|pipe| Receiver::from_owned_fd(OwnedFd::from(pipe))).transpose()?,
            sink,
        })
    }

    /// Takes in what comes until `done`.
    pub(super) async fn during<T>(&mut self, done: impl Future<Output = T>) -> T {
        let mut done = pin!(done);
        loop {
            tokio::select! {
                biased;
                result = &mut done => return result,
                () = self.take(), if self.is_open() => {}
            }
        }
    }

    /// Takes in what is left, and has it on the disk; gives the last line.
    pub(super) async fn end(mut self) -> Option<String> {
        let _ = timeout(LINGER, async {
            while self.is_open() {
                self.take().await;
            }
        })
        .await;
        self.sink.finish();
        self.sink.last().map(str::to_owned)
    }

    const fn is_open(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    /// Takes in what comes next of either output.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    async fn take(&mut self) {
        let stream = tokio::select! {
            () = readable(self.stdout.as_ref()) => LogStream::Stdout,
            () = readable(self.stderr.as_ref()) => LogStream::Stderr,
        };
        let pipe = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr | LogStream::Node => &mut self.stderr,
        };
        if !pipe.as_ref().is_some_and(|pipe| take_in(pipe, stream, &mut self.sink)) {
            *pipe = None;
        }
        if self.sink.is_flooded() {
            sleep(FLOOD_PAUSE).await;
        }
    }
}

/// Waits until there is something to read, or nobody left who writes; for ever without a pipe.
async fn readable(pipe: Option<&Receiver>) {
    match pipe {
        // Where it cannot be waited for, reading it says why.
        Some(pipe) => drop(pipe.readable().await),
        None => std::future::pending().await,
    }
}

/// Takes in what is there; false at its end.
fn take_in(pipe: &Receiver, stream: LogStream, sink: &mut Sink) -> bool {
    let mut buffer = [0; CHUNK];
    for _ in 0..CHUNKS {
        match pipe.try_read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => sink.take(stream, buffer.get(..count).unwrap_or_default(), None),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}
