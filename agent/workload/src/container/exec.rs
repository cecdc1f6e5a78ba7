//! Commands in a container that runs, by the engine's own exec: made, started as a stream, and asked how they ended.
//!
//! The engine has no way to end one; who starts it ends its processes (`beside/family.rs`).

use blueprint_common_engine::Hijacked;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::transport::{Call, Socket};
use super::{Engine, EngineError, checked};

/// Keys that would leave a command with a terminal alone, which the engine looks for; nobody types these, and there is no
/// way to name none.
const DETACH_KEYS: &str = "ctrl-@,ctrl-_,ctrl-@,ctrl-^,ctrl-@,ctrl-_,ctrl-^,ctrl-@";

/// Bytes before each frame.
const HEADER_BYTES: usize = 8;

/// A command for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSpec {
    /// The program and its arguments; not empty.
    pub argv: Vec<String>,
    /// Variables that take the place of the container's.
    pub env: Vec<(String, String)>,
    /// Whether its standard input is written; without, it is at its end at once.
    pub stdin: bool,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// A command that was made.
#[derive(Debug, Clone)]
pub struct Exec {
    socket: Socket,
    /// The path of what is asked of it.
    path: String,
    has_terminal: bool,
}

/// How a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecState {
    /// The engine has not started it yet; its stream is open before.
    NotStarted,
    /// It runs.
    Running,
    /// It ended, with this exit code; without one where the engine does not know it any more.
    Ended(Option<i32>),
}

/// `POST /containers/ID/exec`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Made {
    id: String,
}

/// `GET /exec/ID/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Seen {
    running: bool,
    #[serde(default)]
    exit_code: Option<i32>,
}

impl Engine {
    /// Makes a command for a container that runs. It has the container's user, limits, files and rights.
    ///
    /// # Errors
    ///
    /// [`EngineError::Refused`] with status 404 or 409 where the container does not run; others as they say.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave a command that never starts; it goes with its container.
    pub async fn exec(&self, id: &str, command: &ExecSpec) -> Result<Exec, EngineError> {
        let (id, api) = (checked(id)?, self.api().await?);
        let body = json!({
            "AttachStdin": command.stdin,
            "AttachStdout": true,
            "AttachStderr": true,
            "Tty": command.terminal,
            "DetachKeys": DETACH_KEYS,
            "Cmd": command.argv,
            "Env": command.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
            "Privileged": false,
        });
        let path = format!("{api}/containers/{id}/exec");
        let call = Call::post("make a command for a container", path).body(body);
        let Made { id } = self.socket.ask(&call).await?;
        let path = format!("{api}/exec/{}", checked(&id)?);
        Ok(Exec { socket: self.socket.clone(), path, has_terminal: command.terminal })
    }
}

impl Exec {
    /// Starts it; what it reads and writes passes by the stream. Outputs of one without a terminal are told apart by
    /// [`ExecOutputs`].
    ///
    /// # Errors
    ///
    /// Where the engine does not start it within a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future, or the stream, ends nothing.
    pub async fn start(&self) -> Result<Hijacked, EngineError> {
        let body = json!({ "Detach": false, "Tty": self.has_terminal });
        let call = Call::post("start a command in a container", format!("{}/start", self.path)).body(body);
        self.socket.hijack(&call).await
    }

    /// Gives its terminal another size.
    ///
    /// # Errors
    ///
    /// Where it has ended, or the engine does not do it.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), EngineError> {
        let path = format!("{}/resize?h={rows}&w={columns}", self.path);
        let call = Call::post("resize the terminal of a command", path);
        self.socket.tell(&call, &[]).await.map(drop)
    }

    /// How it does; one that the engine does not know any more has ended.
    ///
    /// # Errors
    ///
    /// Where the engine does not say it within 10 s.
    pub async fn state(&self) -> Result<ExecState, EngineError> {
        let call = Call::get("say how a command ended", format!("{}/json", self.path));
        Ok(self.socket.find::<Seen>(&call).await?.map_or(ExecState::Ended(None), Seen::state))
    }

    /// One of this engine with this id, as if it had been made.
    #[cfg(test)]
    pub(crate) async fn made(engine: &Engine, id: &str) -> Self {
        let path = format!("{}/exec/{id}", engine.api().await.unwrap());
        Self { socket: engine.socket.clone(), path, has_terminal: false }
    }
}

impl Seen {
    /// One that ended has a code, also where its program could not be started.
    const fn state(self) -> ExecState {
        match self {
            Self { running: true, .. } => ExecState::Running,
            Self { exit_code: None, .. } => ExecState::NotStarted,
            Self { exit_code, .. } => ExecState::Ended(exit_code),
        }
    }
}

/// Whether an engine refuses because the container does not run, or is not there.
pub(crate) const fn is_not_running(error: &EngineError) -> bool {
    let (gone, stopped) = (StatusCode::NOT_FOUND.as_u16(), StatusCode::CONFLICT.as_u16());
    matches!(error, EngineError::Refused { status, .. } if *status == gone || *status == stopped)
}

/// Tells the outputs of a command without a terminal apart, as their frames come.
#[derive(Debug, Default)]
pub struct ExecOutputs {
    header: Vec<u8>,
    /// Bytes of the frame that are still to come, and whether they are of standard error.
    left: usize,
    is_error: bool,
}

impl ExecOutputs {
    /// Gives the bytes of outputs that `bytes` hold to `take`, which is told whether they are of standard error.
    ///
    /// # Errors
    ///
    /// The kind of a frame that is none.
    pub fn read(&mut self, mut bytes: &[u8], mut take: impl FnMut(bool, &[u8])) -> Result<(), u8> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (part, rest) = bytes.split_at_checked(self.left).unwrap_or((bytes, &[]));
                self.left = self.left.saturating_sub(part.len());
                take(self.is_error, part);
                bytes = rest;
                continue;
            }
            let missing = HEADER_BYTES.saturating_sub(self.header.len());
            let (part, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            self.header.extend_from_slice(part);
            bytes = rest;
            if let [kind, _, _, _, a, b, c, d] = self.header.as_slice() {
                self.is_error = match *kind {
                    0 | 1 => false,
                    // 3 is what the engine itself has to say.
                    2 | 3 => true,
                    kind => return Err(kind),
                };
                self.left = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
                self.header.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two outputs of frames that come in pieces of so many bytes.
    fn read(stream: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>), u8> {
        let (mut outputs, mut out, mut err) = (ExecOutputs::default(), Vec::new(), Vec::new());
        for chunk in stream.chunks(piece) {
            outputs.read(chunk, |is_error, bytes| {
                if is_error { err.extend_from_slice(bytes) } else { out.extend_from_slice(bytes) }
            })?;
        }
        Ok((out, err))
    }

    #[test]
    fn outputs_are_told_apart_however_they_are_cut() {
        let stream =
            b"\x01\0\0\0\0\0\0\x03a\xffb\x02\0\0\0\0\0\0\x02er\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01c";
        for piece in 1..=stream.len() {
            assert_eq!(read(stream, piece), Ok((b"a\xffbc".to_vec(), b"er".to_vec())), "{piece}");
        }
        assert_eq!(read(b"HTTP/1.1 500", 4), Err(b'H'));
    }

    #[test]
    fn one_that_does_not_run_and_has_no_code_has_not_started() {
        let state = |text: &str| serde_json::from_str::<Seen>(text).unwrap().state();
        assert_eq!(state(r#"{"Running":false,"ExitCode":null}"#), ExecState::NotStarted);
        assert_eq!(state(r#"{"Running":true,"ExitCode":null}"#), ExecState::Running);
        assert_eq!(state(r#"{"Running":false,"ExitCode":126}"#), ExecState::Ended(Some(126)));
    }

    #[test]
    fn only_a_container_that_does_not_run_is_told_as_such() {
        let refused = |status| EngineError::refusal("x", StatusCode::from_u16(status).unwrap(), b"{}");
        assert!([404, 409].into_iter().all(|status| is_not_running(&refused(status))));
        assert!(![400, 500].into_iter().any(|status| is_not_running(&refused(status))));
    }
}
