//! How a command ends when it ends badly.

use std::io;
use std::process::ExitCode;

use http::StatusCode;
use serde_json::{Value, json};

use crate::Chain;
use crate::config::ConfigError;
use crate::local_api::LocalError;
use crate::logs::LogError;
use crate::state::StateError;
use crate::tasks::TaskError;

/// What the process tells whoever started it; scripts may rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// 0: done.
    Ok,
    /// 1: failed, for a reason without a number of its own.
    Failure,
    /// 2: the command line or a value in it is not understood.
    Usage,
    /// 3: what was named does not exist.
    NotFound,
    /// 4: not allowed.
    Denied,
    /// 5: contradicts what is there.
    Conflict,
    /// 6: cannot be reached or cannot answer now; may work later.
    Unavailable,
    /// 78: the configuration is not usable (`EX_CONFIG` of sysexits).
    Config,
    /// 125: a command that was to be run elsewhere was not run, or its end is not known.
    NotRun,
    /// The exit code of a command that was run elsewhere; nothing is printed about it.
    Passed(u8),
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::Conflict => 5,
            Self::Unavailable => 6,
            Self::Config => 78,
            Self::NotRun => 125,
            Self::Passed(code) => code,
        }
    }

    /// The word that stands for it in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failure => "failure",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Config => "config",
            Self::NotRun => "not_run",
            Self::Passed(_) => "passed",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed, in words for whoever typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    /// How the process ends.
    pub exit: Exit,
    /// What went wrong.
    pub message: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $exit:ident;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Exit::$exit, message)
        }
    )*};
}

impl CliError {
    /// Makes an error without a hint.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    constructors! {
        /// Failed, for a reason without a number of its own.
        failure => Failure;
        /// The command line or a value in it is not understood.
        usage => Usage;
        /// What was named does not exist.
        not_found => NotFound;
        /// Not allowed.
        denied => Denied;
        /// Contradicts what is there.
        conflict => Conflict;
        /// Cannot be reached or cannot answer now.
        unavailable => Unavailable;
        /// The configuration is not usable.
        config => Config;
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An error from any other with its whole chain as the message.
    #[must_use]
    pub fn from_error(exit: Exit, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(exit, Chain(error).to_string())
    }

    /// What an answer of a JSON API with a status of refusal or failure means for the command.
    ///
    /// Takes message and hint from `{"error":{"message":..,"hint":..}}`, else the body's text, else the status.
    #[must_use]
    pub fn from_response(status: StatusCode, body: &Value) -> Self {
        let exit = match status.as_u16() {
            400 | 422 => Exit::Usage,
            404 => Exit::NotFound,
            401 | 403 => Exit::Denied,
            409 => Exit::Conflict,
            503 => Exit::Unavailable,
            _ => Exit::Failure,
        };
        let error = body.get("error");
        let text = |key| error.and_then(|error| error.get(key)).and_then(Value::as_str);
        let message = text("message")
            .or_else(|| body.as_str())
            .map(str::trim)
            .filter(|message| !message.is_empty())
            .map_or_else(|| format!("the answer was {status}"), str::to_owned);
        Self { exit, message, hint: text("hint").map(str::to_owned) }
    }

    /// The error as the JSON APIs write it: `{"error":{"code":..,"message":..,"hint":..}}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut error = json!({ "code": self.exit.label(), "message": self.message });
        if let (Some(hint), Some(error)) = (&self.hint, error.as_object_mut()) {
            error.insert("hint".to_owned(), json!(hint));
        }
        json!({ "error": error })
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        // The kinds without a number of their own are many, not ours, and grow.
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not ours and is open")]
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            io::ErrorKind::PermissionDenied => Exit::Denied,
            io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists => Exit::Conflict,
            io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut => Exit::Unavailable,
            _ => Exit::Failure,
        };
        Self::from_error(exit, &error)
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let count = error.problems().len();
        let list: String = error.problems().iter().map(|problem| format!("\n  {problem}")).collect();
        let noun = if count == 1 { "problem" } else { "problems" };
        Self::config(format!("the configuration has {count} {noun}:{list}"))
    }
}

impl From<StateError> for CliError {
    fn from(error: StateError) -> Self {
        let exit = match &error {
            StateError::TooOpen { .. } | StateError::WrongOwner { .. } => Exit::Denied,
            StateError::NotAFolder { .. } | StateError::BadName { .. } | StateError::NoHome => Exit::Config,
            StateError::Missing { .. } => Exit::NotFound,
            StateError::InUse { .. } => Exit::Conflict,
            StateError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Denied,
            StateError::Io { .. } => Exit::Failure,
        };
        Self::from_error(exit, &error)
    }
}

impl From<LocalError> for CliError {
    fn from(error: LocalError) -> Self {
        match &error {
            LocalError::NotRunning { .. } => {
                Self::from_error(Exit::Unavailable, &error).hint("start it, or name its socket")
            }
            LocalError::Denied { .. } => Self::from_error(Exit::Denied, &error)
                .hint("run the command as the user that runs the program, or as root"),
            LocalError::TimedOut { .. } => Self::from_error(Exit::Unavailable, &error),
            LocalError::BadRequest(_) => Self::from_error(Exit::Usage, &error),
            LocalError::Io { .. } | LocalError::Exchange(_) | LocalError::TooLarge => {
                Self::from_error(Exit::Failure, &error)
            }
        }
    }
}

impl From<TaskError> for CliError {
    fn from(error: TaskError) -> Self {
        Self::from_error(Exit::Failure, &error)
    }
}

impl From<LogError> for CliError {
    fn from(error: LogError) -> Self {
        Self::from_error(Exit::Config, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_the_apis_has_its_exit() {
        let exit_of = |status: u16| {
            CliError::from_response(StatusCode::from_u16(status).unwrap(), &Value::Null).exit.code()
        };
        let table =
            [(400, 2), (422, 2), (404, 3), (401, 4), (403, 4), (409, 5), (503, 6), (500, 1), (429, 1)];
        for (status, code) in table {
            assert_eq!(exit_of(status), code, "{status}");
        }
    }

    #[test]
    fn message_and_hint_come_from_the_body() {
        let body = json!({"error": {"code": "not_found", "message": "no agent x", "hint": "list them"}});
        let error = CliError::from_response(StatusCode::NOT_FOUND, &body);
        assert_eq!(error, CliError::not_found("no agent x").hint("list them"));
        assert_eq!(error.to_json(), body);
    }

    #[test]
    fn a_body_without_our_shape_still_says_something() {
        let plain = CliError::from_response(StatusCode::BAD_REQUEST, &json!("missing field"));
        assert_eq!(plain.message, "missing field");
        let empty = CliError::from_response(StatusCode::BAD_GATEWAY, &Value::Null);
        assert_eq!(empty.message, "the answer was 502 Bad Gateway");
        assert!(empty.to_json()["error"].get("hint").is_none());
    }

    #[test]
    fn an_io_error_keeps_its_meaning() {
        let error = io::Error::new(io::ErrorKind::PermissionDenied, "cannot read x");
        assert_eq!(CliError::from(error), CliError::denied("cannot read x"));
    }
}
