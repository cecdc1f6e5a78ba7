//! Giving up the right to change the network, once the devices stand.
//!
//! Rights belong to threads (capabilities(7)). [`drop_net_admin`] takes `CAP_NET_ADMIN` from the thread that calls
//! it and so from every thread and program that this one starts later; threads that run already keep it. It
//! has to be called early in `main`, before a runtime has started threads, to cover the process.
//!
//! What it covers: the effective, permitted, inheritable and ambient sets, and the bounding set where the thread
//! has `CAP_SETPCAP`. Without that, and for the user root, who would get every capability of the bounding set
//! back with the next program, "no new privileges" (`PR_SET_NO_NEW_PRIVS`) closes the way: execve(2) then
//! grants nothing that the thread does not have. Other capabilities stay as they are.
//!
//! What stays: files and sockets that are open already. A TUN queue goes on to carry packets, since reading and
//! writing it takes no capability; making devices, addresses and routes does, and fails with `EPERM` from then on,
//! for root too. `SO_RCVBUFFORCE` and `SO_SNDBUFFORCE` fail likewise: sockets bound later have buffers within the
//! system's limit.

#![expect(unsafe_code, reason = "capget, capset and prctl have no safe wrapper here")]

use std::io;

use libc::{c_int, c_ulong};

use super::check;

/// Number of the capability (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
/// Version 3 of the interface, which has two words per set (linux/capability.h).
const VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`; process 0 is the calling thread.
#[repr(C)]
struct Header {
    version: u32,
    pid: c_int,
}

/// `struct __user_cap_data_struct`: 32 capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The effective capabilities of the calling thread, one bit each by their number.
///
/// # Errors
///
/// Those of capget(2); none is known on Linux.
pub(crate) fn effective() -> io::Result<u64> {
    let [low, high] = capabilities()?;
    Ok(u64::from(high.effective) << 32 | u64::from(low.effective))
}

/// Takes `CAP_NET_ADMIN` from the calling thread for good, as the module says.
///
/// Calling it again, or without the capability, succeeds.
///
/// # Errors
///
/// Those of capset(2) and prctl(2); what was given up before stays so.
pub(crate) fn drop_net_admin() -> io::Result<()> {
    let capability = c_ulong::from(CAP_NET_ADMIN);
    // A kernel without ambient capabilities (before 4.3) has none to take.
    let _ = control(libc::PR_CAP_AMBIENT, [c_ulong_of(libc::PR_CAP_AMBIENT_LOWER), capability, 0, 0]);
    // Refused without CAP_SETPCAP; see the module.
    let _ = control(libc::PR_CAPBSET_DROP, [capability, 0, 0, 0]);
    let [low, high] = capabilities()?;
    let bit = 1_u32 << CAP_NET_ADMIN;
    if [low.effective, low.permitted, low.inheritable].iter().all(|set| set & bit == 0) {
        // Nothing to take; and a service manager may have shut the system call away.
        return control(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]);
    }
    let mask = !bit;
    let low = Word {
        effective: low.effective & mask,
        permitted: low.permitted & mask,
        inheritable: low.inheritable & mask,
    };
    let header = Header { version: VERSION, pid: 0 };
    let words = [low, high];
    // SAFETY: header and both words have the layout of version 3 and live until the call has returned.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) };
    check(c_int::try_from(result).unwrap_or(-1))?;
    control(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0])
}

/// The sets of the calling thread.
fn capabilities() -> io::Result<[Word; 2]> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut words = [Word::default(); 2];
    // SAFETY: header and both words have the layout of version 3 and live until the call has returned.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    check(c_int::try_from(result).unwrap_or(-1))?;
    Ok(words)
}

/// prctl(2) for the operations above, none of which takes a pointer.
fn control(operation: c_int, [a, b, c, d]: [c_ulong; 4]) -> io::Result<()> {
    // SAFETY: these operations take plain numbers.
    check(unsafe { libc::prctl(operation, a, b, c, d) })?;
    Ok(())
}

fn c_ulong_of(constant: c_int) -> c_ulong {
    super::control::narrow(constant)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use blueprint_tests_support::{Need, require};

    use super::super::tun::{Offload, TunConfig, TunDevice, TunError};
    use super::*;

    fn has_net_admin() -> io::Result<bool> {
        Ok(effective()? & (1 << CAP_NET_ADMIN) != 0)
    }

    /// A set of the calling thread, as /proc shows it.
    fn set(name: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn the_right_is_gone_for_this_thread_and_what_it_starts_and_no_other_right_is() {
        if !require(&[Need::Root, Need::Program("ip"), Need::Device("/dev/net/tun")]) {
            return;
        }
        let check = || {
            assert!(has_net_admin().unwrap());
            let names = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];
            let before = names.map(set);
            drop_net_admin().unwrap();
            assert!(!has_net_admin().unwrap());
            assert_eq!(names.map(set), before.map(|set| set & !(1 << CAP_NET_ADMIN)));
            assert_eq!(set("NoNewPrivs:"), 1);

            let config = TunConfig { name: "bpcap%d".to_owned(), queues: 1, offload: Offload::default() };
            assert!(matches!(TunDevice::open(&config), Err(TunError::Denied { .. })));
            let child = Command::new("ip").args(["link", "add", "bpcap", "type", "dummy"]).output().unwrap();
            assert!(!child.status.success(), "a program that root starts has the right back");
            std::thread::scope(|scope| {
                scope.spawn(|| assert!(!has_net_admin().unwrap())).join().unwrap();
            });
            drop_net_admin().unwrap();
        };
        // A thread of its own: the others of this program keep their rights.
        std::thread::scope(|scope| scope.spawn(check).join()).unwrap();
        assert!(has_net_admin().unwrap());
    }
}
