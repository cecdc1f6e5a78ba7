//! `config`: checks and shows the configuration.

use blueprint_common_runtime::cli::{CliError, Output, Table, print_json, print_line, print_raw};
use clap::Subcommand;
use serde_json::json;

use crate::cli::Global;
use crate::config::{HubConfig, SCHEMA};

/// Checks and shows the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Checks everything and reports every problem at once
    #[command(after_help = "Example: blueprint-hub config check --config hub.toml")]
    Check,
    /// Shows every key with its value and where it comes from
    #[command(after_help = "Example: blueprint-hub config show --set tunnel.mtu=1400")]
    Show,
    /// Prints the default configuration with what each key means
    #[command(after_help = "Example: blueprint-hub config default > hub.toml")]
    Default,
}

impl Config {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        if let Self::Default = self {
            print_raw(&SCHEMA.default_toml());
            return Ok(());
        }
        let sources = global.sources()?;
        let (_, settings) = HubConfig::load(&sources)?;
        let file = sources.file.as_ref().map(|path| path.display().to_string());
        match (self, global.output) {
            (Self::Check, Output::Json) => print_json(&json!({ "ok": true, "file": file })),
            (Self::Check, Output::Table) => {
                print_line(&format!(
                    "configuration is good ({})",
                    file.as_deref().unwrap_or("no file, defaults only")
                ));
            }
            (Self::Show, Output::Json) => print_json(&settings.show()),
            (Self::Show | Self::Default, _) => {
                let mut table = Table::new(&["KEY", "VALUE", "FROM"]);
                for shown in settings.show() {
                    table.push(vec![shown.key, shown.value, shown.origin]);
                }
                table.print();
            }
        }
        Ok(())
    }
}
