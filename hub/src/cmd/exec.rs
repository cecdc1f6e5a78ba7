//! `exec`: a command beside a workload.

mod terminal;

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use blueprint_common_runtime::cli::{CliError, Exit, Output, eprint_line, printable};
use blueprint_common_runtime::frames::{ExitFrame, Frame, FrameReader, SILENCE, STDIN_WINDOW};
use blueprint_common_runtime::local_api::LocalStream;
use blueprint_common_types::ServiceKey;
use clap::Args;
use http::Method;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::client::{runtime, upgrade};
use super::seconds;
use crate::cli::Global;
use terminal::Terminal;

/// Bytes of standard input that are read at once.
const CHUNK: usize = 16 << 10;

/// How long what was said last may take to be shown.
const LAST_WITHIN: Duration = Duration::from_secs(1);

/// Runs a command beside a workload, with the workload's rights and no others.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub exec 7/42 -it -- sh
The command has the workload's user, limits, folder, sandbox and variables, but for variables with secrets; it can read what \
the workload can read, its keys too, and its output is not redacted. It ends with this command, with the workload, and after \
--timeout. hub.toml (exec.enabled), a [[session]] of the policy, and the node's agent.toml (exec.enabled) have to allow it.
Exit code: the command's; 128 and a signal's number where one ended it; 127 where there is no such program, 126 where it \
cannot be run; 125 where this command itself failed.")]
pub(crate) struct Exec {
    /// Workload, as BLUEPRINT/SERVICE
    service: ServiceKey,
    /// Name or id of the node that it has to run on
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Passes standard input on
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Gives the command a terminal; Ctrl-C and the like go to it
    #[arg(long, short = 't')]
    terminal: bool,
    /// Longest time that it may run
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = seconds)]
    timeout: u64,
    /// The program and its arguments, after --
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Exec {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let runtime = runtime()?;
        let done = runtime.block_on(Box::pin(self.session(global)));
        // A thread may still wait for standard input.
        runtime.shutdown_background();
        let exit = done.map_err(|error| CliError { exit: Exit::NotRun, ..error })?;
        match exit {
            0 => Ok(()),
            code => Err(CliError::new(Exit::Passed(code), String::new())),
        }
    }

    async fn session(self, global: &Global) -> Result<u8, CliError> {
        let has_terminal = io::stdin().is_terminal();
        if self.terminal && self.stdin && !has_terminal {
            let error = CliError::usage("standard input is no terminal, so -t and -i do not go together");
            return Err(error.hint("leave -t out"));
        }
        let size = self.terminal.then(terminal::size);
        let ServiceKey { blueprint, service } = self.service;
        let body = json!({
            "argv": self.command,
            "stdin": self.stdin,
            "terminal": size,
            "timeout_secs": self.timeout,
            "node": self.node,
        });
        let path = format!("/v1/workloads/{blueprint}/{service}/exec");
        let stream = upgrade(global, Method::POST, &path, &body).await?;
        let raw = if self.terminal && self.stdin { Some(Terminal::raw()?) } else { None };
        let mut counts = [0u64; 2];
        let end = Box::pin(carry(stream, self.stdin, self.terminal, &mut counts)).await;
        drop(raw);
        let ExitFrame { code, reason } = end?;
        if global.output == Output::Json {
            let [stdout, stderr] = counts;
            let end =
                json!({"exit_code": code, "reason": reason, "stdout_bytes": stdout, "stderr_bytes": stderr});
            eprint_line(&end.to_string());
        }
        match code {
            Some(code) if reason.is_empty() => Ok(code),
            Some(code) => {
                eprint_line(&printable(&reason));
                Ok(code)
            }
            None => {
                let why = if reason.is_empty() { "nobody knows how it ended".to_owned() } else { reason };
                let error = CliError::failure(format!("the command is ended: {}", printable(&why)));
                // Only the node knows, and says so.
                let is_known = why.ends_with("nothing of it is left");
                Err(if is_known {
                    error
                } else {
                    error.hint("the node ends what may be left of it within 20 seconds")
                })
            }
        }
    }
}

/// Passes everything on until the command is over.
async fn carry(
    stream: LocalStream,
    has_stdin: bool,
    has_terminal: bool,
    counts: &mut [u64; 2],
) -> Result<ExitFrame, CliError> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut frames = FrameReader::new(reader);
    let (out, mut waiting) = mpsc::channel::<Frame>(4);
    let (on_way, taken) = (Cell::new(0usize), Notify::new());
    let [stdout, stderr] = counts;
    // A terminal of the command's own is the operator's as a whole; else what it prints may not steer the operator's.
    let clean = |is_terminal: bool| (is_terminal && !has_terminal).then(Cleaner::default);
    let mut clean_stdout = clean(io::stdout().is_terminal());
    let mut clean_stderr = clean(io::stderr().is_terminal());
    let down = async {
        loop {
            let gone = || {
                CliError::unavailable("the hub is gone; the node ends the command within 20 seconds")
                    .hint("look at the hub's log")
            };
            let frame = timeout(SILENCE, frames.next()).await.map_err(|_| gone())?;
            match frame.map_err(|_| gone())?.ok_or_else(gone)? {
                Frame::Stdout(bytes) => {
                    if !show(io::stdout().lock(), bytes, &mut clean_stdout, stdout) {
                        // As if it had written there itself.
                        return Ok(ExitFrame { code: Some(141), reason: String::new() });
                    }
                }
                Frame::Stderr(bytes) => drop(show(io::stderr().lock(), bytes, &mut clean_stderr, stderr)),
                Frame::Taken(count) => {
                    on_way.set(on_way.get().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX)));
                    taken.notify_one();
                }
                Frame::Exit(exit) => return Ok(exit),
                Frame::Alive | Frame::Stdin(_) | Frame::StdinEnd | Frame::Resize(..) => {}
                Frame::Signal(_) | Frame::Arrived(_) | Frame::Session(_) => {}
            }
        }
    };
    let input = async {
        if has_stdin {
            feed(tokio::io::stdin(), &out, &on_way, &taken).await;
        }
        std::future::pending::<()>().await;
    };
    let signals = watch_signals(&out, has_terminal);
    let write = async {
        while let Some(frame) = waiting.recv().await {
            // Whoever is gone is found by the other direction.
            if write_frame(&mut writer, &frame).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        end = down => end,
        () = write => unreachable_end(),
        left = signals => left,
        () = input => unreachable_end(),
    }
}

fn unreachable_end() -> Result<ExitFrame, CliError> {
    Err(CliError::failure("the session ended by itself"))
}

async fn write_frame<W: AsyncWrite + Unpin>(writer: &mut W, frame: &Frame) -> io::Result<()> {
    frame.write(writer).await
}

/// Shows bytes, as they are where they do not have to be cleaned; false where nobody reads them any more.
fn show(mut out: impl Write, mut bytes: Vec<u8>, cleaner: &mut Option<Cleaner>, count: &mut u64) -> bool {
    *count = count.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    if let Some(cleaner) = cleaner {
        cleaner.clean(&mut bytes);
    }
    out.write_all(&bytes).and_then(|()| out.flush()).is_ok()
}

/// Makes `?` of what steers a terminal, but for line feeds and tabs. A character may be cut between two pieces.
#[derive(Debug, Default)]
struct Cleaner {
    before: u8,
}

impl Cleaner {
    fn clean(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            let is_steering = match *byte {
                b'\n' | b'\t' => false,
                0..=0x1f | 0x7f => true,
                // U+0080 to U+009F, which some terminals take for what begins with escape.
                0x80..=0x9f => self.before == 0xc2 || self.before < 0x80,
                _ => false,
            };
            self.before = *byte;
            if is_steering {
                *byte = b'?';
            }
        }
    }
}

/// Sends standard input, no more than the command takes.
async fn feed<R: AsyncRead + Unpin>(
    mut stdin: R,
    out: &mpsc::Sender<Frame>,
    on_way: &Cell<usize>,
    taken: &Notify,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        while on_way.get().saturating_add(CHUNK) > STDIN_WINDOW {
            taken.notified().await;
        }
        let count = stdin.read(&mut buffer).await.unwrap_or(0);
        let bytes = buffer.get(..count).unwrap_or_default().to_vec();
        if bytes.is_empty() {
            let _ = out.send(Frame::StdinEnd).await;
            return;
        }
        on_way.set(on_way.get().saturating_add(count));
        if out.send(Frame::Stdin(bytes)).await.is_err() {
            return;
        }
    }
}

/// Passes signals on. The second Ctrl-C ends this command, and the other with it.
async fn watch_signals(out: &mpsc::Sender<Frame>, has_terminal: bool) -> Result<ExitFrame, CliError> {
    let failed = |error: io::Error| CliError::failure(format!("cannot listen to signals: {error}"));
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut quit = signal(SignalKind::quit()).map_err(failed)?;
    let mut ended = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hung_up = signal(SignalKind::hangup()).map_err(failed)?;
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let mut times = 0;
    loop {
        let frame = tokio::select! {
            _ = interrupted.recv() => {
                times += 1;
                if times > 1 {
                    return Ok(ExitFrame { code: Some(130), reason: "ended by Ctrl-C".to_owned() });
                }
                Frame::Signal(2)
            }
            _ = quit.recv() => Frame::Signal(3),
            // Whoever asks this command to end wants the other one ended.
            _ = ended.recv() => return Ok(ExitFrame { code: Some(143), reason: "ended by SIGTERM".to_owned() }),
            _ = hung_up.recv() => return Ok(ExitFrame { code: Some(129), reason: "ended by SIGHUP".to_owned() }),
            _ = resized.recv() => {
                if !has_terminal {
                    continue;
                }
                let size = terminal::size();
                Frame::Resize(size.rows, size.columns)
            }
        };
        let _ = timeout(LAST_WITHIN, out.send(frame)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_steers_no_terminal_and_text_stays() {
        let mut cleaner = Cleaner::default();
        let mut clean = |text: &[u8]| {
            let mut bytes = text.to_vec();
            cleaner.clean(&mut bytes);
            bytes
        };
        let text = "a\tb\n\u{e9}\u{4e16}\u{1f680}\u{2026}".as_bytes();
        assert_eq!(clean(text), text);
        assert_eq!(clean(b"\x1b]0;x\x07\r\x7f"), b"?]0;x???");
        // Also where it is cut, or is no text.
        assert_eq!(clean(b"\xc2"), b"\xc2");
        assert_eq!(clean(b"\x9b31m"), b"?31m");
        assert_eq!(clean(b"\x9b31m"), b"?31m");
    }
}
