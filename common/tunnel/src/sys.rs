//! What the engine asks of Linux: sockets, devices, waiting, rights.
//!
//! The only place of the workspace with `unsafe`. Each module wraps one part of the kernel's interface in a
//! safe one that allocates nothing per call; decisions are left to the engine.
//!
//! # Invariants
//!
//! - Every file descriptor has one owner and is closed on exec.
//! - What the kernel may refuse because of its age or configuration has a fall-back that is taken at run time.
//! - No pointer outlives the call that it was made for.

pub(crate) mod caps;
mod control;
pub(crate) mod flow_socket;
pub(crate) mod interrupt;
pub(crate) mod memory;
pub(crate) mod netlink;
pub(crate) mod poll;
pub(crate) mod sched;
pub(crate) mod tun;
pub(crate) mod udp;

#[cfg(test)]
mod tests;

/// Turns the `-1` of a system call into the error it stands for.
fn check(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}
