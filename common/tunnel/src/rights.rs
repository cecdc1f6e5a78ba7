//! What the process may do, and giving up what it needs no more.

use std::fmt;
use std::io;

use crate::sys::caps;

/// Names of the capabilities by their number (linux/capability.h of Linux 6.12).
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// The capabilities that a thread can use (capabilities(7)), for people: such as `none` or `all but net_admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights(u64);

impl Rights {
    /// Those of the calling thread.
    ///
    /// # Errors
    ///
    /// Those of capget(2); none is known on Linux.
    pub fn held() -> io::Result<Self> {
        caps::effective().map(Self)
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |is_held: bool| {
            let named = (0..).zip(NAMES).filter(|(number, _)| (self.0 >> number & 1 == 1) == is_held);
            named.map(|(_, name)| name).collect::<Vec<_>>()
        };
        let (held, missing) = (of(true), of(false));
        match (held.len(), missing.len()) {
            (0, _) => f.write_str("none"),
            (_, 0) => f.write_str("all"),
            (held_count, count) if count < held_count => write!(f, "all but {}", missing.join(", ")),
            _ => f.write_str(&held.join(", ")),
        }
    }
}

/// Takes the right to change the network (`CAP_NET_ADMIN`) from the calling thread and from all that it starts
/// later, threads and programs, for good. Devices and sockets that are open go on to work.
///
/// Threads that run already keep theirs: it is to be called before there are any, after [`Tunnel::bind`].
///
/// [`Tunnel::bind`]: crate::Tunnel::bind
///
/// # Errors
///
/// Those of capset(2) and prctl(2). A thread without that right succeeds.
pub fn give_up_net_admin() -> io::Result<()> {
    caps::drop_net_admin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_named_the_shorter_way() {
        let all = (1 << NAMES.len()) - 1;
        for (held, text) in [
            (0, "none"),
            (all, "all"),
            (1 << 12, "net_admin"),
            (1 << 10 | 1 << 13, "net_bind_service, net_raw"),
            (all & !(1 << 12), "all but net_admin"),
        ] {
            assert_eq!(Rights(held).to_string(), text);
        }
    }
}
