//! What a command reads and writes: pipes, or a terminal.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::process::{ChildStderr, ChildStdin, ChildStdout};

use blueprint_common_runtime::frames::Frame;
use blueprint_common_types::TerminalSize;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::exchange::{Input, pump};

/// How many bytes there may be once nothing is left that could write any: no pipe of a user's holds more, and who goes on writing is not the command.
const LAST: usize = 1 << 20;

/// All of it.
pub(super) struct Pipes {
    pub(super) outputs: Vec<Output>,
    pub(super) input: Option<Input>,
    pub(super) terminal: Option<Terminal>,
}

impl Pipes {
    pub(super) fn new(
        stdin: Option<ChildStdin>,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
    ) -> io::Result<Self> {
        let receiver = |pipe: OwnedFd| Receiver::from_owned_fd(pipe);
        let stdout = stdout.map(|pipe| receiver(pipe.into())).transpose()?.map(Output::Stdout);
        let stderr = stderr.map(|pipe| receiver(pipe.into())).transpose()?.map(Output::Stderr);
        let input = stdin.map(|pipe| Sender::from_owned_fd(pipe.into())).transpose()?;
        Ok(Self {
            outputs: stdout.into_iter().chain(stderr).collect(),
            input: input.map(|pipe| Input::new(pipe, false)),
            terminal: None,
        })
    }

    pub(super) fn of_terminal(master: OwnedFd, stdin: bool) -> io::Result<Self> {
        nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        // A terminal is no pipe, and is read and written as one.
        let reader = Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
        let writer = stdin.then(|| Sender::from_owned_fd_unchecked(master.try_clone()?)).transpose()?;
        Ok(Self {
            outputs: vec![Output::Terminal(reader)],
            input: writer.map(|terminal| Input::new(terminal, true)),
            terminal: Some(Terminal(master)),
        })
    }
}

/// Opens a terminal of this size that belongs to `user`: this side of it, and the command's.
pub(super) fn open(size: &TerminalSize, user: Option<(u32, u32)>) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let name = name.to_str().map_err(io::Error::other)?;
    let no_control = nix::fcntl::OFlag::O_NOCTTY.bits();
    let slave = OpenOptions::new().read(true).write(true).custom_flags(no_control).open(name)?;
    if let Some((user, _)) = user {
        fchown(&slave, Some(user), None)?;
    }
    tcsetwinsize(&master, window(size.rows, size.columns))?;
    Ok((master, slave.into()))
}

const fn window(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// This side of a terminal, for its size.
pub(super) struct Terminal(OwnedFd);

impl Terminal {
    pub(super) fn resize(&self, rows: u16, columns: u16) {
        // A size that it does not take leaves it as it was.
        let _ = tcsetwinsize(&self.0, window(rows, columns));
    }
}

/// Where the command writes.
pub(super) enum Output {
    Stdout(Receiver),
    Stderr(Receiver),
    Terminal(Receiver),
}

impl Output {
    /// Hands on what it writes until nobody can write any more; once it is over, only for as long as the last bytes take.
    pub(super) async fn pump(self, out: mpsc::Sender<Frame>, over: &CancellationToken) {
        let (pipe, frame): (Receiver, fn(Vec<u8>) -> Frame) = match self {
            // A terminal whose other side nobody has open any more gives an error, which ends it as well.
            Self::Stdout(pipe) | Self::Terminal(pipe) => (pipe, Frame::Stdout),
            Self::Stderr(pipe) => (pipe, Frame::Stderr),
        };
        pump(pipe, out, over, LAST, |bytes| Some(vec![frame(bytes.to_vec())])).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::time::timeout;

    use super::*;
    use crate::exchange::LINGER;

    #[tokio::test]
    async fn who_goes_on_writing_after_the_end_does_not_hold_it_up() {
        for pause in [Duration::ZERO, Duration::from_millis(300)] {
            let (writer, reader) = tokio::net::unix::pipe::pipe().unwrap();
            let (out, mut waiting) = mpsc::channel(4);
            let over = CancellationToken::new();
            over.cancel();
            let mut writer = writer;
            let write = async {
                loop {
                    if writer.write_all(&[b'x'; 4096]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            };
            let mut count = 0;
            let take = async {
                while let Some(frame) = waiting.recv().await {
                    let Frame::Stdout(bytes) = frame else { unreachable!("only output") };
                    count += bytes.len();
                }
            };
            let read = async {
                tokio::join!(Output::Stdout(reader).pump(out, &over), take);
            };
            tokio::select! {
                () = write => {}
                ended = timeout(LINGER * 4, read) => ended.unwrap(),
            }
            assert!((1..=LAST).contains(&count), "{count}");
        }
    }
}
