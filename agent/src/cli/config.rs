//! `config`: what the agent would run with.

use blueprint_common_runtime::cli::{CliError, Output, Table, print_json, print_line, print_raw};
use blueprint_common_runtime::config::{Problems, Settings, Sources};
use serde_json::json;

use super::{CONFIG_VARIABLE, ConfigArgs, ConfigCommand, STATE_VARIABLE};
use crate::config::{AgentConfig, SCHEMA};

pub(super) fn config(command: ConfigCommand, output: Output) -> Result<(), CliError> {
    match command {
        ConfigCommand::Check(args) => {
            load(args)?;
            match output {
                Output::Table => print_line("the configuration is usable"),
                Output::Json => print_json(&json!({ "usable": true })),
            }
        }
        ConfigCommand::Show(args) => {
            let (settings, problems) = read(args);
            show(&settings, output);
            // What can be shown is shown; what is wrong is told too.
            check(&settings, problems)?;
        }
        ConfigCommand::Default => print_raw(&SCHEMA.default_toml()),
    }
    Ok(())
}

fn show(settings: &Settings, output: Output) {
    let shown = settings.show();
    match output {
        Output::Json => print_json(&shown),
        Output::Table => shown
            .into_iter()
            .fold(Table::new(&["KEY", "VALUE", "ORIGIN"]), |table, row| {
                table.row(vec![row.key, row.value, row.origin])
            })
            .print(),
    }
}

fn read(args: ConfigArgs) -> (Settings, Problems) {
    SCHEMA.load(&Sources::from_process(args.config, args.set, &[STATE_VARIABLE, CONFIG_VARIABLE]))
}

fn check(settings: &Settings, mut problems: Problems) -> Result<AgentConfig, CliError> {
    let config = AgentConfig::from_settings(settings, &mut problems);
    problems.into_result()?;
    config.ok_or_else(|| CliError::config("the configuration is not complete"))
}

/// The configuration, or everything that is wrong with it.
pub(super) fn load(args: ConfigArgs) -> Result<AgentConfig, CliError> {
    let (settings, problems) = read(args);
    check(&settings, problems)
}
