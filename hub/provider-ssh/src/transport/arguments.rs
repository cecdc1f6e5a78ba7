//! The arguments of OpenSSH's client.
//!
//! Every option that matters is named, and no file of configuration is read, so neither the user's nor the host's says anything
//! here. What comes from the inventory was held to few characters there, and stands behind `--` where it could be an option.

use crate::inventory::{Door, OwnHost};
use crate::key::HostKey;

/// Seconds that a connection may take to come up.
pub(crate) const CONNECT_SECS: u64 = 5;

/// Options of every connection.
const OPTIONS: [&str; 31] = [
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    "CheckHostIP=no",
    "HashKnownHosts=no",
    "UpdateHostKeys=no",
    "VerifyHostKeyDNS=no",
    "CanonicalizeHostname=no",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "AddKeysToAgent=no",
    "PreferredAuthentications=publickey",
    "PubkeyAuthentication=yes",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "GSSAPIAuthentication=no",
    "HostbasedAuthentication=no",
    "NumberOfPasswordPrompts=0",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ExitOnForwardFailure=yes",
    "Tunnel=no",
    "PermitLocalCommand=no",
    "ControlMaster=no",
    "ControlPath=none",
    "RequestTTY=no",
    "EscapeChar=none",
    "TCPKeepAlive=yes",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "LogLevel=ERROR",
];

/// What a door is for. A host and a machine on the way may have one name, and neither is known by the other's key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Host,
    Jump,
}

/// What a door is called in the file of known hosts.
fn alias(role: Role, door: &Door) -> String {
    match role {
        Role::Host => format!("bp-{}", door.name),
        // No name of a host makes this of the other.
        Role::Jump => format!("bp.jump-{}", door.name),
    }
}

/// The line of the file of known hosts for a door with this key.
pub(crate) fn known_host(role: Role, door: &Door, key: &HostKey) -> String {
    format!("{} {key}\n", alias(role, door))
}

/// The options for one door, whose key lies in `known_hosts`.
fn door_options(role: Role, door: &Door, key: &HostKey, known_hosts: &str) -> Vec<String> {
    let mut all: Vec<String> = ["-F", "none", "-T", "-x", "-a"].map(str::to_owned).into();
    let own = [
        format!("ConnectTimeout={CONNECT_SECS}"),
        format!("UserKnownHostsFile={known_hosts}"),
        format!("HostKeyAlias={}", alias(role, door)),
        format!("HostKeyAlgorithms={}", key.algorithms()),
        format!("IdentityFile={}", door.identity.display()),
        format!("Port={}", door.port),
        format!("User={}", door.user),
    ];
    for option in OPTIONS.into_iter().map(str::to_owned).chain(own) {
        all.extend(["-o".to_owned(), option]);
    }
    all
}

/// All arguments to run `sh` on `host`, as root where `as_root`; the script comes over standard input.
pub(crate) fn arguments(
    host: &OwnHost,
    (key, jump_key): (&HostKey, Option<&HostKey>),
    known_hosts: &str,
    as_root: bool,
) -> Vec<String> {
    let door = &host.door;
    let mut all = door_options(Role::Host, door, key, known_hosts);
    let way = match (&host.jump, jump_key) {
        (Some(jump), Some(key)) => {
            let mut words = vec!["ssh".to_owned()];
            words.extend(door_options(Role::Jump, jump, key, known_hosts));
            words.extend(["-W".to_owned(), format!("[{}]:{}", door.address, door.port)]);
            words.extend(["--".to_owned(), jump.address.clone()]);
            words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
        }
        (None, _) | (Some(_), None) => "none".to_owned(),
    };
    all.extend(["-o".to_owned(), format!("ProxyCommand={way}"), "--".to_owned(), door.address.clone()]);
    let become_root = if as_root && door.user != "root" { "sudo -n -- " } else { "" };
    // sudo keeps no variable; the host's own shell puts in what the connection is.
    all.push(format!("exec {become_root}sh -s -- \"$SSH_CONNECTION\""));
    all
}

/// A word as a shell reads it back, also where OpenSSH replaces `%` before.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''").replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Format, Inventory};
    use crate::key::Pin;
    use crate::key::tests::KEY;

    fn inventory() -> Inventory {
        let door = |name: &str| {
            format!(
                "name = \"{name}\"\naddress = \"{name}.example.org\"\nhost_key = \"{KEY}\"\nidentity = \"/k/{name}\"\n"
            )
        };
        let size = "cpu = 8\nmemory_mib = 32000\ndisk_gb = 400\n";
        let text = format!(
            "[[jump]]\n{}\n[[host]]\n{}{size}user = \"ops\"\nport = 2222\n[[host]]\n{}{size}jump = \"way\"\n",
            door("way"),
            door("one"),
            door("two")
        );
        Inventory::parse(&text, Format::Toml).unwrap()
    }

    fn of(name: &str, as_root: bool) -> Vec<String> {
        let inventory = inventory();
        let host = inventory.host(name).unwrap();
        let key: HostKey = KEY.parse().unwrap();
        assert!(matches!(host.door.pin, Pin::Key(_)));
        arguments(host, (&key, host.jump.as_ref().map(|_| &key)), name, as_root)
    }

    #[test]
    fn nothing_but_the_pinned_key_and_the_named_identity_counts() {
        let all = of("one", true);
        let has = |option: &str| all.windows(2).any(|pair| pair == ["-o", option]);
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "UserKnownHostsFile=one",
            "GlobalKnownHostsFile=/dev/null",
            "HostKeyAlias=bp-one",
            "HostKeyAlgorithms=ssh-ed25519",
            "IdentitiesOnly=yes",
            "IdentityFile=/k/one",
            "IdentityAgent=none",
            "ForwardAgent=no",
            "ControlMaster=no",
            "ProxyCommand=none",
            "Port=2222",
            "User=ops",
            "ConnectTimeout=5",
        ] {
            assert!(has(option), "{option}: {all:?}");
        }
        assert_eq!(all.get(..2).unwrap(), ["-F", "none"]);
        assert_eq!(
            all.get(all.len() - 3..).unwrap(),
            ["--", "one.example.org", "exec sudo -n -- sh -s -- \"$SSH_CONNECTION\""]
        );
        assert_eq!(of("one", false).last().unwrap(), "exec sh -s -- \"$SSH_CONNECTION\"");
        // Root needs no sudo.
        assert!(!of("two", true).last().unwrap().contains("sudo"));
    }

    #[test]
    fn a_jump_host_is_held_to_its_own_key_as_strictly() {
        let all = of("two", true);
        let way = all.iter().find_map(|word| word.strip_prefix("ProxyCommand=")).unwrap();
        assert!(way.starts_with("'ssh' '-F' 'none'"), "{way}");
        for part in ["'StrictHostKeyChecking=yes'", "'HostKeyAlias=bp.jump-way'", "'IdentityFile=/k/way'"] {
            assert!(way.contains(part), "{way}");
        }
        assert!(way.ends_with("'-W' '[two.example.org]:22' '--' 'way.example.org'"), "{way}");
        assert!(!way.contains('%'), "{way}");
    }

    #[test]
    fn a_host_and_a_jump_host_of_one_name_are_not_known_by_each_other_s_key() {
        let door = inventory().host("one").unwrap().door.clone();
        let named = |name: &str| Door { name: name.to_owned(), ..door.clone() };
        for (host, jump) in [("two", "two"), ("jump-two", "two"), ("two", "jump-two")] {
            assert_ne!(alias(Role::Host, &named(host)), alias(Role::Jump, &named(jump)), "{host} {jump}");
        }
    }

    #[test]
    fn a_quoted_word_is_one_word() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("a'b%h"), "'a'\\''b%%h'");
    }
}
