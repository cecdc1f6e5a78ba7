//! Logs to standard error, as text for people or as JSON lines for collectors.

use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

mod access;

pub use access::{flush as flush_access, lost_lines as lost_access_lines};

use access::AccessWriter;

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

/// Why logging cannot start as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The format is neither of the two.
    #[error("{0:?} is not a log format: text, json")]
    Format(String),
    /// A part of the level text is not a level and not `target=level`.
    #[error("{0:?} is not a log level: off, error, warn, info, debug, trace, or target=level")]
    Level(String),
    /// Logging was started before.
    #[error("logging has been started already")]
    Started,
}

/// A checked level text: `info`, or `info,blueprint_hub_proxy=debug`.
#[derive(Debug, Clone)]
pub struct LogLevels(Targets);

impl FromStr for LogLevels {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The WireGuard library reports every peer that is away as an error; our own events say it once. The DNS library
        // prints what strangers send; our counters say how much of it there is.
        let mut targets = Targets::new()
            .with_target("boringtun", LevelFilter::OFF)
            .with_target("hickory_proto", LevelFilter::OFF);
        for part in text.split(',').map(str::trim) {
            let (target, level) = match part.split_once('=') {
                Some((target, level)) => (Some(target.trim()), level.trim()),
                None => (None, part),
            };
            // A bare word that is no level would otherwise be taken for a target and log everything of it.
            let level: LevelFilter = (!level.is_empty())
                .then(|| level.parse().ok())
                .flatten()
                .ok_or_else(|| LogError::Level(part.to_owned()))?;
            targets = match target {
                Some("") => return Err(LogError::Level(part.to_owned())),
                Some(target) => targets.with_target(target.replace('-', "_"), level),
                None => targets.with_default(level),
            };
        }
        Ok(Self(targets))
    }
}

/// Starts logging of the whole process to standard error, panics included.
///
/// `level` is a level, or a comma separated list of one level and of `target=level`.
///
/// # Errors
///
/// [`LogError::Level`] for a text that is not understood, [`LogError::Started`] at a second call.
pub fn init(level: &str, format: LogFormat) -> Result<(), LogError> {
    let LogLevels(targets) = level.parse()?;
    start(tracing_subscriber::registry().with(general(format).with_filter(targets)))
}

/// The same for a process that answers requests: what has the target `access` is written by a thread of its own,
/// whatever the level, and never holds up whoever says it.
///
/// # Errors
///
/// Those of [`init`].
pub fn init_with_access(level: &str, format: LogFormat) -> Result<(), LogError> {
    const ACCESS: &str = "access";
    let LogLevels(targets) = level.parse()?;
    let writer = AccessWriter::of_process();
    let line = move || writer.line();
    let access = match format {
        LogFormat::Text => fmt::layer().with_writer(line).with_ansi(false).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(line).boxed(),
    };
    let access = access.with_filter(Targets::new().with_target(ACCESS, LevelFilter::INFO));
    let general = general(format).with_filter(targets.with_target(ACCESS, LevelFilter::OFF));
    start(tracing_subscriber::registry().with(general).with(access))
}

fn general<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    match format {
        LogFormat::Text => fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed(),
    }
}

fn start(subscriber: impl SubscriberInitExt) -> Result<(), LogError> {
    subscriber.try_init().map_err(|_| LogError::Started)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Writes a panic as one event, so that it is found where all else is.
fn log_panic(info: &PanicHookInfo<'_>) {
    let text = info.payload_as_str().unwrap_or("a value that is not text");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(text, place, thread = std::thread::current().name().unwrap_or("unnamed"), "panic");
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn a_level_and_targets_are_understood() {
        let LogLevels(targets) = "info, blueprint-hub-proxy=debug,h2=off".parse().unwrap();
        assert!(targets.would_enable("anything", &Level::INFO));
        assert!(!targets.would_enable("anything", &Level::DEBUG));
        assert!(targets.would_enable("blueprint_hub_proxy", &Level::DEBUG));
        assert!(!targets.would_enable("h2", &Level::ERROR));
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for text in ["loud", "", "info,", "hub=", "=info", "hub=loud"] {
            assert!(text.parse::<LogLevels>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_format_is_text_or_json() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("text".parse(), Ok(LogFormat::Text));
        assert_eq!("xml".parse::<LogFormat>(), Err(LogError::Format("xml".to_owned())));
    }
}
