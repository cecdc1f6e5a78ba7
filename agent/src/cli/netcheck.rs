//! `netcheck`: which carriers reach the hub from here.

use blueprint_common_runtime::cli::{CliError, Exit, Output, print_json, print_line};
use blueprint_common_spoke::Identity;
use http::Method;

use super::{NetcheckArgs, ask, config, not_joined, small_runtime};
use crate::agent::AgentError;
use crate::hint;
use crate::netcheck::{NetcheckReport, alone};

pub(super) fn netcheck(args: NetcheckArgs, output: Output) -> Result<(), CliError> {
    let report = match ask(&args.state, Method::POST, "/v1/netcheck", None::<&()>)? {
        Some(value) => serde_json::from_value(value).map_err(|error| {
            CliError::failure(format!("the running agent is of another version: {error}"))
        })?,
        None => check_alone(args)?,
    };
    match output {
        Output::Json => print_json(&report),
        Output::Table => print_line(&report.render()),
    }
    if report.is_best() {
        Ok(())
    } else if report.is_any() {
        Err(CliError::new(Exit::Failure, "the best carrier does not work; a slower one does".to_owned()))
    } else {
        Err(CliError::unavailable("no carrier reaches the hub"))
    }
}

fn check_alone(args: NetcheckArgs) -> Result<NetcheckReport, CliError> {
    let agent_config = config::load(args.config)?;
    let folder = args.state.look()?.ok_or_else(not_joined)?;
    let identity = Identity::load(&folder).map_err(hint::identity)?.ok_or_else(not_joined)?;
    let checked =
        small_runtime()?.block_on(Box::pin(alone(identity, &agent_config))).map_err(AgentError::from);
    checked.map_err(|error| CliError::from(&error))
}
