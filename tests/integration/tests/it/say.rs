//! What a test tells the person who runs it, what that person tells a test, and time.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::eventually;
use blueprint_tests_support::http::Request;

use crate::fixture::{CALL, Hub};

/// Prints one measured figure.
#[expect(clippy::print_stderr, reason = "a measurement is told to the person who runs the tests")]
pub(crate) fn say(line: fmt::Arguments<'_>) {
    eprintln!("   {line}");
}

/// Seconds in an environment variable; `default` where it is not set.
pub(crate) fn seconds_from(variable: &str, default: u64) -> Result<Duration> {
    let seconds = match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text} is no number of seconds"))?,
        Err(_) => default,
    };
    Ok(Duration::from_secs(seconds))
}

/// One value of the hub's `/metrics`, by its name with labels.
pub(crate) fn metric(hub: &Hub<'_>, name: &str) -> Result<u64> {
    let response = hub.api(&Request::get("/metrics"))?;
    ensure!(response.status == 200, "{}", response.text());
    let page = response.text();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.with_context(|| format!("no {name} in\n{page}"))?.parse().with_context(|| name.to_owned())
}

/// Lets time pass.
pub(crate) fn pass(time: Duration) -> Result<()> {
    let begin = Instant::now();
    eventually(time * 2 + CALL, "time to pass", || (begin.elapsed() >= time).then_some(()))
}
