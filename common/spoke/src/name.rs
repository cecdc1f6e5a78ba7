//! Names of spokes.

/// Longest name of a spoke in bytes: a DNS label.
pub const MAX_NAME: usize = 63;

/// Whether `name` may be a spoke's name: 1 to 63 characters of a-z, 0-9 and '-'.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The machine's host name, made into a spoke's name.
#[must_use]
pub fn host_name() -> String {
    name_from(&nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
}

fn name_from(host: &str) -> String {
    let short = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let name: String = short
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(MAX_NAME)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "agent".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_becomes_a_name() {
        assert_eq!(name_from("GPU_Node-1.example.org"), "gpu-node-1");
        assert_eq!(name_from("..."), "agent");
        assert!(is_name(&host_name()));
    }
}
