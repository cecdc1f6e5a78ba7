//! The two outputs of a workload, read by its keeper as long as anybody may write to them.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::process::{ChildStderr, ChildStdout};
use std::time::Duration;

use blueprint_common_types::LogStream;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{sleep, timeout};

use crate::logs::Sink;

/// How long the last lines may take once nothing is left that could write any. Who was handed a pipe by somebody else may
/// keep it open for longer.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are read at once; as many as a pipe holds.
const CHUNK: usize = 64 << 10;

/// Pause before more is read of a workload that writes more than is kept: reading costs time of a processor that is not
/// counted as the workload's. So 6 MiB a second are read of a flood, and it waits.
const FLOOD_PAUSE: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Capture {
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
    buffers: [Vec<u8>; 2],
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
            buffers: [vec![0; CHUNK], vec![0; CHUNK]],
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
        let [out, err] = &mut self.buffers;
        let (read, stream) = tokio::select! {
            read = read(&mut self.stdout, out) => (read, LogStream::Stdout),
            read = read(&mut self.stderr, err) => (read, LogStream::Stderr),
        };
        let (pipe, buffer) = match stream {
            LogStream::Stdout => (&mut self.stdout, out),
            LogStream::Stderr | LogStream::Node => (&mut self.stderr, err),
        };
        match read {
            Ok(count) if count > 0 => {
                self.sink.take(stream, buffer.get(..count).unwrap_or_default(), None);
                if self.sink.is_flooded() {
                    sleep(FLOOD_PAUSE).await;
                }
            }
            Ok(_) | Err(_) => *pipe = None,
        }
    }
}

async fn read(pipe: &mut Option<Receiver>, buffer: &mut [u8]) -> io::Result<usize> {
    match pipe {
        Some(pipe) => pipe.read(buffer).await,
        None => std::future::pending().await,
    }
}
