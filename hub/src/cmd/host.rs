//! `host`: the operator's own machines, before they are ordered.

use std::path::PathBuf;

use blueprint_common_runtime::cli::{CliError, Output, Table, eprint_line, print_json, print_raw};
use blueprint_common_runtime::config::Sources;
use blueprint_hub_provider_ssh::{
    Door, HostError, HostKey, HostLook, Inventory, Pin, Size, check_hosts, detect, keys,
};
use clap::Subcommand;
use serde_json::json;

use super::client::runtime;
use crate::cli::Global;
use crate::config::HubConfig;

/// Own machines that are reached by SSH.
#[derive(Debug, Subcommand)]
pub(crate) enum Host {
    /// Shows the key of a host for you to compare and, once you have, its size as a block for the inventory
    #[command(after_help = "Example: blueprint-hub host scan 192.0.2.7
         blueprint-hub host scan 192.0.2.7 --fingerprint SHA256:... --identity /etc/blueprint-hub/id_ed25519 >> hosts.toml
The first shows what the host shows; compare it with what the host itself says (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`).
Nobody logs in anywhere before you name the fingerprint. docs/ssh.md has the whole way.")]
    Scan(Scan),
    /// Looks at every host of the inventory: which are free, which are taken, which cannot be used and why
    #[command(after_help = "Example: blueprint-hub host check
Exit codes: 0 every host can be used or is in use, 6 one or more cannot; the table says why.")]
    Check {
        /// Inventory; that of providers.ssh.hosts where not given
        #[arg(long, value_name = "FILE")]
        hosts: Option<PathBuf>,
    },
}

/// What to look at.
#[derive(Debug, clap::Args)]
pub(crate) struct Scan {
    /// Host name or address
    address: String,
    /// Port of its SSH server
    #[arg(long, default_value_t = 22)]
    port: u16,
    /// Who logs in: root, or somebody who may use `sudo -n`
    #[arg(long, default_value = "root")]
    user: String,
    /// Private key to log in with, as a whole path
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The fingerprint that you compared with the host's own word
    #[arg(long, value_name = "SHA256:...")]
    fingerprint: Option<Pin>,
    /// What to call it in the inventory; its own name where not given
    #[arg(long)]
    name: Option<String>,
}

impl Host {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Scan(scan) => scan.run(global),
            Self::Check { hosts } => check(hosts, global),
        }
    }
}

impl Scan {
    fn run(self, global: &Global) -> Result<(), CliError> {
        let runtime = runtime()?;
        let shown = runtime.block_on(keys(&self.address, self.port)).map_err(|error| self.failed(&error))?;
        let Some(pin) = &self.fingerprint else {
            self.show(&shown, global.output);
            return Ok(());
        };
        let Some(key) = shown.iter().find(|key| pin.is_of(key)) else {
            return Err(self.failed(&HostError::HostKey));
        };
        let identity = self.identity.as_ref().ok_or_else(|| {
            CliError::usage("--identity is missing: the private key to log in with").hint(
                "make one for this hub with `ssh-keygen -t ed25519 -N '' -f /etc/blueprint-hub/id_ed25519`",
            )
        })?;
        let door = Door::new(&self.address, self.port, &self.user, Pin::Key(key.clone()), identity)
            .map_err(CliError::usage)?;
        let folder = tempfile::tempdir()
            .map_err(|error| CliError::failure(format!("no folder for a while: {error}")))?;
        let size = runtime.block_on(detect(&door, folder.path())).map_err(|error| self.failed(&error))?;
        let problems = problems(&size, &self.user);
        let name = self.name.clone().unwrap_or_else(|| label(&size.hostname));
        let block = self.block(&name, key, &size, identity);
        match global.output {
            Output::Json => print_json(&json!({
                "name": name, "address": self.address, "port": self.port, "user": self.user,
                "host_key": key.to_string(), "fingerprint": key.fingerprint(), "cpu": size.cpu,
                "memory_mib": size.memory_mib, "disk_gb": size.disk_gb, "arch": size.arch,
                "gpu": size.gpu.as_ref().map(|(name, count, vram)| json!({ "name": name, "count": count, "vram_mib": vram })),
                "problems": problems, "toml": block,
            })),
            Output::Table => print_raw(&block),
        }
        for problem in &problems {
            eprint_line(&format!("{}: {problem}", self.address));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(CliError::unavailable("this host cannot become a node as it is"))
        }
    }

    /// The keys that a host shows, for a person to compare.
    fn show(&self, shown: &[HostKey], output: Output) {
        match output {
            Output::Json => {
                let rows = shown.iter().map(|key| {
                    json!({ "kind": key.kind(), "fingerprint": key.fingerprint(), "host_key": key.to_string() })
                });
                print_json(
                    &json!({ "address": self.address, "port": self.port, "keys": rows.collect::<Vec<_>>() }),
                );
            }
            Output::Table => {
                let mut table = Table::new(&["KIND", "FINGERPRINT", "HOST_KEY"]);
                for key in shown {
                    table.push(vec![key.kind().to_owned(), key.fingerprint().to_owned(), key.to_string()]);
                }
                table.print();
            }
        }
        let port = if self.port == 22 { String::new() } else { format!(" --port {}", self.port) };
        let first = shown.first().map_or("SHA256:...", HostKey::fingerprint);
        eprint_line(&format!(
            "This is what answers at {}; whose it is you find out on the machine itself:\n  for f in /etc/ssh/ssh_host_*_key.pub; \
             do ssh-keygen -lf $f; done\nWhere that shows the same fingerprint:\n  blueprint-hub host scan {}{port} --fingerprint {first} \
             --identity FILE",
            self.address, self.address
        ));
    }

    fn block(&self, name: &str, key: &HostKey, size: &Size, identity: &std::path::Path) -> String {
        let mut lines = vec![
            "[[host]]".to_owned(),
            format!("name = \"{name}\""),
            format!("address = \"{}\"", self.address),
            format!("port = {}", self.port),
            format!("user = \"{}\"", self.user),
            format!("host_key = \"{key}\""),
            format!("identity = \"{}\"", identity.display()),
            format!("cpu = {}", size.cpu),
            format!("memory_mib = {}", size.memory_mib),
            format!("disk_gb = {}", size.disk_gb),
        ];
        lines.extend(size.arch.map(|arch| format!("arch = \"{arch}\"")));
        if let Some((gpu, count, vram)) = &size.gpu {
            let is_known = blueprint_hub_provision_core::catalogue::GpuKind::named(gpu).is_some();
            let mark = if is_known { "" } else { "# not a kind that is known: " };
            lines.push(format!("{mark}gpu = {gpu:?}"));
            lines.push(format!("{mark}gpu_count = {count}"));
            lines.push(format!("{mark}gpu_vram_mib = {vram}"));
        }
        lines.join("\n") + "\n"
    }

    fn failed(&self, error: &HostError) -> CliError {
        said(&format!("{} port {}", self.address, self.port), error)
    }
}

/// What keeps a machine from becoming a node.
fn problems(size: &Size, user: &str) -> Vec<String> {
    let mut all: Vec<_> = size.lacks.iter().map(|what| format!("it lacks {what}")).collect();
    if size.arch.is_none() {
        all.push("its processor is neither x86_64 nor arm64".to_owned());
    }
    if !size.is_root {
        all.push(HostError::NoSudo { user: user.to_owned() }.to_string());
    }
    all
}

/// A name as the inventory takes it.
fn label(hostname: &str) -> String {
    let name = hostname.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "host".to_owned() } else { name.to_owned() }
}

fn said(what: &str, error: &HostError) -> CliError {
    let text = format!("{what}: {error}");
    match error {
        HostError::HostKey | HostError::Auth { .. } | HostError::NoSudo { .. } => CliError::denied(text),
        HostError::Unreached { .. }
        | HostError::Lacks { .. }
        | HostError::Foreign
        | HostError::Taken { .. }
        | HostError::Absent
        | HostError::Busy { .. }
        | HostError::Refused { .. }
        | HostError::Lost { .. }
        | HostError::Nonsense { .. } => CliError::unavailable(text),
        HostError::NoClient { .. } | HostError::State { .. } => CliError::failure(text),
    }
}

fn check(hosts: Option<PathBuf>, global: &Global) -> Result<(), CliError> {
    let file = match hosts {
        Some(file) => file,
        None => configured(&global.sources()?, global)?,
    };
    let inventory = Inventory::read(&file).map_err(|error| CliError::config(error.to_string()))?;
    let folder =
        tempfile::tempdir().map_err(|error| CliError::failure(format!("no folder for a while: {error}")))?;
    let looks = runtime()?.block_on(check_hosts(&inventory, folder.path().to_owned()));
    let state = |look: &HostLook| match (&look.machine, &look.problem) {
        (Some(_), _) => "taken",
        (None, Some(HostError::Unreached { .. })) => "unreached",
        (None, Some(_)) => "unfit",
        (None, None) => "free",
    };
    let count = looks.iter().filter(|look| look.problem.is_some()).count();
    match global.output {
        Output::Json => print_json(&json!({ "hosts": looks.iter().map(|look| json!({
            "name": look.host.name(), "address": look.host.door.address, "port": look.host.door.port,
            "region": look.host.region, "state": state(look), "machine": look.machine, "hub": look.hub,
            "problem": look.problem.as_ref().map(ToString::to_string),
        })).collect::<Vec<_>>() })),
        Output::Table => {
            let mut table =
                Table::new(&["NAME", "ADDRESS", "STATE", "CPU", "MEMORY_MIB", "MACHINE", "PROBLEM"]);
            for look in &looks {
                table.push(vec![
                    look.host.name().to_owned(),
                    format!("{}:{}", look.host.door.address, look.host.door.port),
                    state(look).to_owned(),
                    look.host.cpu.to_string(),
                    look.host.memory_mib.to_string(),
                    look.machine.clone().unwrap_or_else(|| "-".to_owned()),
                    look.problem.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                ]);
            }
            table.print();
        }
    }
    if count == 0 {
        Ok(())
    } else {
        Err(CliError::unavailable(format!("{count} of {} hosts cannot be used", looks.len())))
    }
}

/// The inventory of the configuration.
fn configured(sources: &Sources, global: &Global) -> Result<PathBuf, CliError> {
    let (config, _) = HubConfig::load(sources)?;
    let settings = config.providers.ssh.ok_or_else(|| {
        CliError::usage("providers.ssh is not switched on").hint(
            "give --hosts FILE, or set providers.ssh.enabled = true and providers.ssh.hosts in hub.toml",
        )
    })?;
    Ok(global.state()?.join(settings.hosts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_s_own_name_becomes_one_of_the_inventory() {
        for (own, name) in [("Rack_7.example.org", "rack-7"), ("-", "host"), ("", "host"), ("a", "a")] {
            assert_eq!(label(own), name);
        }
    }
}
