//! How a program is started: arguments, environment, place.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{Host, Process};

/// A program to be started. It sees this process's environment without its `BLUEPRINT_*` variables.
#[derive(Debug)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    namespace: Option<String>,
    input: Input,
}

#[derive(Debug)]
enum Input {
    Nothing,
    Open,
    Text(String),
}

/// What a program that has ended left.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Launch {
    /// Takes the path of a program, or its name on `PATH`.
    #[must_use]
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: None,
            namespace: None,
            input: Input::Nothing,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it in this folder.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Starts it on this host instead of this machine.
    #[must_use]
    pub fn on(mut self, host: &Host) -> Self {
        self.namespace = Some(host.namespace().to_owned());
        self
    }

    /// Leaves its standard input open until [`Process::close_stdin`] or the end of the [`Process`].
    #[must_use]
    pub fn open_stdin(mut self) -> Self {
        self.input = Input::Open;
        self
    }

    /// Feeds it this text. It has to be short enough for a pipe, 64 KiB.
    #[must_use]
    pub fn stdin(mut self, text: &str) -> Self {
        self.input = Input::Text(text.to_owned());
        self
    }

    /// Starts it; both its outputs go to the log of the process.
    ///
    /// # Errors
    ///
    /// Fails where the program cannot be started.
    pub fn start(self) -> Result<Process> {
        let log = temporary_file(&self.name())?;
        let (out, err) = (log.as_file().try_clone()?, log.as_file().try_clone()?);
        self.start_with(out, err, log)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// Fails where the program cannot be started or has not ended `within` that time; then it is killed.
    pub fn run(self, within: Duration) -> Result<Finished> {
        let (out, err) = (temporary_file(&self.name())?, temporary_file(&self.name())?);
        let stdout = out.path().to_owned();
        let (out_file, err_file) = (out.as_file().try_clone()?, err.as_file().try_clone()?);
        let mut process = self.start_with(out_file, err_file, err)?;
        let status = process.wait(within)?;
        let read = std::fs::read(&stdout).context("cannot read what a program wrote")?;
        Ok(Finished {
            code: status.code(),
            stdout: String::from_utf8_lossy(&read).into_owned(),
            stderr: process.log(),
        })
    }

    fn name(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn start_with(self, out: File, err: File, log: tempfile::NamedTempFile) -> Result<Process> {
        let name = self.name();
        let mut command = self.command();
        command.stdout(out).stderr(err);
        command.stdin(if matches!(self.input, Input::Nothing) { Stdio::null() } else { Stdio::piped() });
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        if let Input::Text(text) = &self.input
            && let Some(mut stdin) = child.stdin.take()
        {
            stdin.write_all(text.as_bytes()).with_context(|| format!("cannot feed {name}"))?;
        }
        Ok(Process::new(name, child, log))
    }

    /// `ip netns exec` replaces itself by the program, so signals reach the program itself.
    fn command(&self) -> Command {
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.args(&self.arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BLUEPRINT_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }
}

/// A file that both outputs append to, so that neither overwrites the other.
fn temporary_file(name: &str) -> Result<tempfile::NamedTempFile> {
    let prefix = format!("blueprint-test-{name}-");
    let file = tempfile::Builder::new().prefix(&prefix).suffix(".log").append(true).tempfile();
    file.context("cannot make a log file")
}
