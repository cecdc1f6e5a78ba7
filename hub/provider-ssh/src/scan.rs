//! What a host shows of itself before it is trusted: its keys.

use std::time::Duration;

use blueprint_common_types::Secret;
use tokio::process::Command;

use crate::error::HostError;
use crate::inventory::check_address;
use crate::key::HostKey;
use crate::transport::run;

/// Seconds that `ssh-keyscan` waits for one key.
const SECS: &str = "5";

/// How long it may take for all.
const WITHIN: Duration = Duration::from_secs(20);

/// The keys that a host shows at `address` and `port`, the best first. Whoever answers there shows them: they are worth nothing before
/// they are compared with what the host itself says.
///
/// # Errors
///
/// [`HostError::Unreached`] where nobody answers, [`HostError::NoClient`] where `ssh-keyscan` is not installed.
pub async fn keys(address: &str, port: u16) -> Result<Vec<HostKey>, HostError> {
    check_address(address).map_err(|said| HostError::Unreached { said })?;
    let mut command = Command::new("ssh-keyscan");
    command.args(["-T", SECS, "-p", &port.to_string(), "-t", "ed25519,ecdsa,rsa", "--", address]);
    let ending = run(command, "ssh-keyscan", &Secret::new(String::new()), WITHIN).await?;
    let lines = ending.out.lines().filter(|line| !line.starts_with('#'));
    let keys = lines.filter_map(|line| line.split_once(' ')?.1.parse::<HostKey>().ok());
    let mut keys: Vec<_> = keys.collect();
    keys.sort_by_key(|key| match key.kind() {
        "ssh-ed25519" => 0,
        "ssh-rsa" => 2,
        _ => 1,
    });
    keys.dedup();
    if keys.is_empty() {
        let said = ending.err.lines().find(|line| !line.starts_with('#') && !line.is_empty());
        let said: String =
            said.unwrap_or("it shows no key").chars().filter(|c| !c.is_control()).take(200).collect();
        return Err(HostError::Unreached { said });
    }
    Ok(keys)
}
