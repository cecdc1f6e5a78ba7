//! How often a service is checked, as people say it.

use std::time::Duration;

use blueprint_common_runtime::config::Span;
use blueprint_common_types::{CheckPace, CheckPaceError};
use clap::Args;

/// How often a service is checked, and how many results count.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct PaceArgs {
    /// Time from one check to the next, give or take a tenth.
    #[arg(long = "check-interval", value_name = "TIME", default_value = "1s")]
    pub(crate) interval: Span,
    /// Longest time of one check.
    #[arg(long = "check-timeout", value_name = "TIME", default_value = "1500ms")]
    pub(crate) timeout: Span,
    /// Failures in a row that make it unhealthy.
    #[arg(long = "check-fall", value_name = "COUNT", default_value_t = 2)]
    pub(crate) fall: u32,
    /// Successes in a row that make it healthy again.
    #[arg(long = "check-rise", value_name = "COUNT", default_value_t = 1)]
    pub(crate) rise: u32,
    /// Time from its start for which failures do not count, until it answered once.
    #[arg(long = "check-grace", value_name = "TIME", default_value = "0s")]
    pub(crate) grace: Span,
}

impl PaceArgs {
    /// The pace, with every number within its bounds; parts of a second count in the longest time of a check alone.
    pub(crate) fn read(self) -> Result<CheckPace, CheckPaceError> {
        let secs = |Span(span): Span| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
        let millis = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        let pace = CheckPace {
            interval_secs: secs(self.interval),
            timeout_millis: millis(self.timeout.0),
            fall: self.fall,
            rise: self.rise,
            grace_secs: secs(self.grace),
        };
        pace.check().map(|()| pace)
    }
}
