//! `init`: makes what a new hub needs, and says what it made.

use blueprint_common_runtime::cli::{CliError, Exit, Output, print_json, print_line};
use blueprint_common_runtime::state::{Mode, StateDir, StateError};
use clap::Args;
use serde_json::json;

use crate::cli::Global;
use crate::config::{HubConfig, SCHEMA};
use crate::files;

/// Makes keys, authority and a configuration file for a new hub.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub init --advertise hub.example.org")]
pub(crate) struct Init {
    /// Host name or address under which machines reach this hub; default: this machine's outgoing address
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
}

impl Init {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let folder = global.state()?;
        let state = StateDir::open(&folder).map_err(state_error)?;
        if files::is_initialised(&state).map_err(failure)? {
            return Err(CliError::conflict(format!("{} holds a hub already", folder.display()))
                .hint("run it with `blueprint-hub serve`, or give another folder with --state DIR"));
        }
        let mut sources = global.sources()?;
        let advertise = self.advertise.unwrap_or_else(files::guess_advertise);
        sources.flags.push(("hub.advertise".to_owned(), advertise.clone()));
        let (config, _) = HubConfig::load(&sources).map_err(config_error)?;
        let path = state.path(files::CONFIG);
        if !path.exists() {
            let text = commented(&SCHEMA.default_toml(), &sources.flags);
            state.write(files::CONFIG, text.as_bytes(), Mode::Plain).map_err(state_error)?;
        }
        let identity = files::create(&state).map_err(failure)?;
        let pin = identity.authority.pin().to_string();
        let hub = identity.authority.hub().to_string();
        if global.output == Output::Json {
            print_json(&json!({
                "hub": hub, "pin": pin, "state": folder, "config": path, "advertise": advertise,
                "control": config.control.listen, "tunnel": config.tunnel_listen, "proxy": config.proxy.listen,
            }));
            return Ok(());
        }
        print_line(&format!("Made a new hub in {}", folder.display()));
        print_line(&format!("  identity       {hub}"));
        print_line(&format!("  authority pin  {pin}"));
        print_line(&format!("  configuration  {}", path.display()));
        print_line("  keys           ca.key, wireguard.key, admin.token (readable by this user only)");
        print_line(&format!(
            "  join address   {advertise}:{} (hub.advertise; machines must reach it)",
            config.control.listen.port()
        ));
        print_line(&format!(
            "Open in the firewall: tcp/{} and udp/{}",
            config.control.listen.port(),
            config.tunnel_listen.port()
        ));
        print_line("Next: blueprint-hub serve");
        Ok(())
    }
}

/// The default file with every key as a comment but those of `set`, so that `serve` finds what `init` was told.
fn commented(default: &str, set: &[(String, String)]) -> String {
    let mut text = String::from("# Check this file with `blueprint-hub config check`.\n");
    let mut section = "";
    for line in default.lines() {
        let key = line.trim_start_matches(['#', ' ']).split_once('=').map(|(key, _)| key.trim());
        let given = key.and_then(|key| {
            let is_it = |path: &str| path.split_once('.') == Some((section, key));
            set.iter().rev().find(|(path, _)| is_it(path)).map(|(_, value)| (key, value))
        });
        match (given, line.chars().next()) {
            (Some((key, value)), _) => text.push_str(&format!("{key} = {}", written(value))),
            (None, Some('[')) => {
                section = line.trim_matches(['[', ']']);
                text.push_str(line);
            }
            (None, None | Some('#')) => text.push_str(line),
            (None, Some(_)) => text.push_str(&format!("#{line}")),
        }
        text.push('\n');
    }
    text
}

/// A value as TOML: numbers and booleans as they are, all else as a text.
fn written(value: &str) -> String {
    let is_plain = value.parse::<u64>().is_ok() || value.parse::<bool>().is_ok();
    if is_plain { value.to_owned() } else { format!("{value:?}") }
}

pub(crate) fn state_error(error: StateError) -> CliError {
    CliError::from(error)
}

pub(crate) fn config_error(error: blueprint_common_runtime::config::ConfigError) -> CliError {
    CliError::from(error)
}

/// An error of a part, with its whole chain.
pub(crate) fn failure(error: anyhow::Error) -> CliError {
    CliError::new(Exit::Failure, format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_init_writes_is_good_and_sets_what_was_given() {
        let set = [
            ("hub.advertise", "hub.example.org"),
            ("control.listen", "0.0.0.0:17443"),
            ("tunnel.mtu", "1400"),
            ("log.level", "debug"),
        ];
        let set = set.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let text = commented(&SCHEMA.default_toml(), &set);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hub.toml");
        std::fs::write(&path, &text).unwrap();
        let sources = blueprint_common_runtime::config::Sources {
            file: Some(path),
            env: Vec::new(),
            flags: Vec::new(),
        };
        let (config, settings) = HubConfig::load(&sources).unwrap();
        assert_eq!(config.advertise.as_deref(), Some("hub.example.org"));
        assert_eq!(
            (config.control.listen.port(), config.tunnel_listen.port(), config.mtu),
            (17443, 51820, 1400)
        );
        let from_file = settings.show().into_iter().filter(|shown| shown.origin.starts_with("file")).count();
        assert_eq!(from_file, set.len(), "{text}");
    }
}
