//! The operator's terminal: its size, and that it hands every key on.

use std::io;

use blueprint_common_runtime::cli::CliError;
use blueprint_common_types::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Longest name of a kind of terminal that is passed on.
const MAX_TERM: usize = 64;

/// A terminal that hands every key on; it is as it was before once this is dropped.
pub(super) struct Terminal {
    before: Termios,
}

impl Terminal {
    /// Has the terminal of standard input hand every key on.
    pub(super) fn raw() -> Result<Self, CliError> {
        let failed = |error: rustix::io::Errno| {
            CliError::failure(format!("the terminal cannot be used: {error}")).hint("leave -t out")
        };
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Where that fails there is no terminal any more.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// The size of the terminal of standard output, and what kind it is; the usual where there is none.
pub(super) fn size() -> TerminalSize {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
    let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row, size.ws_col));
    let term = std::env::var("TERM").unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let is_good = !term.is_empty() && term.len() <= MAX_TERM && term.chars().all(is_plain);
    TerminalSize { rows, columns, term: if is_good { term } else { "xterm".to_owned() } }
}
