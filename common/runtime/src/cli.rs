//! What commands print and how they end; the only module that writes to the terminal.
//!
//! Results go to standard output, everything said about them to standard error. A reader that goes away early
//! (`| head`) is not an error; any other failure to write makes the command fail.

mod error;
mod format;
mod progress;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

pub use error::{CliError, Exit};
pub use format::{age, bytes, duration, printable};
pub use progress::Progress;
pub use table::Table;

/// Set once standard output took less than it was given, other than by a reader that left.
static OUTPUT_FAILED: AtomicBool = AtomicBool::new(false);

/// Set once standard output took nothing more.
static READER_LEFT: AtomicBool = AtomicBool::new(false);

/// Whether standard output takes nothing more: a command that would print for ever ends then.
#[must_use]
pub fn reader_left() -> bool {
    READER_LEFT.load(Ordering::Relaxed)
}

/// How a command prints its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// Aligned text for people.
    #[default]
    Table,
    /// One JSON document for programs.
    Json,
}

/// Prints one line, or a text of several, to standard output.
pub fn print_line(text: &str) {
    write_out(text, "\n");
}

/// Prints `text` to standard output as it is, without a line end of its own.
pub fn print_raw(text: &str) {
    write_out(text, "");
}

/// Prints `value` to standard output as indented JSON.
pub fn print_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print_line(&text),
        Err(error) => {
            OUTPUT_FAILED.store(true, Ordering::Relaxed);
            write_err(&format!("error: the result has no JSON form: {error}\n"));
        }
    }
}

/// Prints one line to standard error, for what is said about a result.
pub fn eprint_line(text: &str) {
    write_err(&format!("{text}\n"));
}

/// Prints `text` to standard error as it is, without a line end of its own.
pub fn eprint_raw(text: &str) {
    write_err(text);
}

/// Prints an error to standard error: a line and its hint for people, `{"error":{..}}` for programs.
pub fn eprint_error(error: &CliError, output: Output) {
    match output {
        Output::Table => {
            write_err(&format!("error: {}\n", error.message));
            if let Some(hint) = &error.hint {
                write_err(&format!("hint: {hint}\n"));
            }
        }
        Output::Json => write_err(&format!("{}\n", error.to_json())),
    }
}

/// Ends a command: prints its error, and gives `main` what to return.
///
/// A command that did its work but could not print all of it has failed.
#[must_use]
pub fn finish(result: Result<(), CliError>, output: Output) -> ExitCode {
    let result = match result {
        Ok(()) if OUTPUT_FAILED.load(Ordering::Relaxed) => {
            Err(CliError::failure("cannot write to standard output"))
        }
        result => result,
    };
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            eprint_error(&error, output);
            error.exit.into()
        }
    }
}

/// Writes to standard output and notes a failure.
fn write_out(text: &str, end: &str) {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(end.as_bytes()))
        .and_then(|()| out.flush());
    if is_lost(&written) {
        OUTPUT_FAILED.store(true, Ordering::Relaxed);
    }
    if written.is_err() {
        READER_LEFT.store(true, Ordering::Relaxed);
    }
}

/// Whether output did not arrive, other than because its reader left.
fn is_lost(written: &io::Result<()>) -> bool {
    written.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe)
}

/// Writes to standard error; there is nobody left to tell when that fails.
fn write_err(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_left_is_no_failure_and_a_full_disk_is() {
        assert!(!is_lost(&Ok(())));
        assert!(!is_lost(&Err(io::ErrorKind::BrokenPipe.into())));
        assert!(is_lost(&Err(io::ErrorKind::StorageFull.into())));
    }
}
