//! A line from a terminal that does not show it.

use std::io;
use std::os::fd::AsFd;

use blueprint_common_runtime::cli::CliError;
use blueprint_common_types::Secret;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use super::super::client::runtime;

/// Longest line that is kept without being copied, in bytes: what is copied is not wiped.
const ROOM: usize = 16 * 1024;

/// A terminal that does not show what is typed, until this value is dropped.
struct Quiet<T: AsFd> {
    terminal: T,
    before: Termios,
}

impl<T: AsFd> Quiet<T> {
    fn new(terminal: T) -> nix::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        // The end of the line is shown, so that what is said next has a line of its own.
        quiet.local_flags.insert(LocalFlags::ECHONL | LocalFlags::ICANON);
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl<T: AsFd> Drop for Quiet<T> {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// Reads a line from standard input, a terminal, and shows nothing of it. Also where the command is interrupted, the terminal
/// shows again what is typed.
pub(super) fn line() -> Result<Secret<String>, CliError> {
    let quiet = Quiet::new(io::stdin()).map_err(|error| {
        CliError::failure(format!("the terminal cannot be told not to show what is typed: {error}"))
            .hint("give the credentials on standard input, or --from-env")
    })?;
    let read = watched_line()?;
    drop(quiet);
    told(read)
}

/// Reads a line that may be seen.
pub(super) fn shown_line() -> Result<Secret<String>, CliError> {
    told(watched_line()?)
}

/// Reads a line, unless a signal interrupts that. Once a signal was waited for, it does not end the process by itself any more:
/// so every line is read like this.
fn watched_line() -> Result<io::Result<Secret<String>>, CliError> {
    let runtime = runtime()?;
    let read = runtime.block_on(async {
        let mut ended = signal(SignalKind::terminate())?;
        tokio::select! {
            line = tokio::task::spawn_blocking(read_line) => line.unwrap_or_else(|error| Err(io::Error::other(error))),
            _ = tokio::signal::ctrl_c() => Err(io::ErrorKind::Interrupted.into()),
            _ = ended.recv() => Err(io::ErrorKind::Interrupted.into()),
        }
    });
    // Where it was interrupted, the line is still waited for.
    runtime.shutdown_background();
    Ok(read)
}

fn told(read: io::Result<Secret<String>>) -> Result<Secret<String>, CliError> {
    read.map_err(|error| match error.kind() == io::ErrorKind::Interrupted {
        true => CliError::failure("nothing was stored"),
        false => error.into(),
    })
}

fn read_line() -> io::Result<Secret<String>> {
    let mut line = String::with_capacity(ROOM);
    let read = io::stdin().read_line(&mut line);
    let line = Secret::new(line);
    read.map(|_| line)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader, Read, Write};

    use nix::pty::openpty;

    use super::*;

    #[test]
    fn a_quiet_terminal_shows_nothing_but_the_end_of_the_line_and_then_as_before() {
        let pair = openpty(None, None).unwrap();
        let (mut person, terminal) = (File::from(pair.master), File::from(pair.slave));
        let mut lines = BufReader::new(terminal.try_clone().unwrap());
        let mut typed = |person: &mut File, text: &str| {
            person.write_all(text.as_bytes()).unwrap();
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            line
        };
        let seen = |person: &mut File| {
            let mut bytes = [0; 256];
            let count = person.read(&mut bytes).unwrap();
            String::from_utf8_lossy(bytes.get(..count).unwrap()).into_owned()
        };
        let quiet = Quiet::new(&terminal).unwrap();
        assert_eq!(typed(&mut person, "canary\n"), "canary\n");
        assert_eq!(seen(&mut person), "\r\n");
        drop(quiet);
        assert_eq!(typed(&mut person, "shown\n"), "shown\n");
        assert_eq!(seen(&mut person), "shown\r\n");
    }
}
