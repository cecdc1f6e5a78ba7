//! TUN devices: network interfaces whose packets this process reads and writes.
//!
//! Opening one makes the interface; it is not persistent and vanishes with its last queue, also when the
//! process crashes. Addresses, routes and the MTU are set by [`super::netlink`].
//!
//! With a vnet header ([`TunQueue::has_header`]) every packet in both directions starts with the 10 bytes of
//! `struct virtio_net_hdr` (virtio 1.2, section 5.1.6, without `num_buffers`), numbers in this machine's byte order:
//! flags, `gso_type`, `hdr_len`, `gso_size`, `csum_start`, `csum_offset`. A packet read may then be a run of up to
//! 64 KiB for the reader to split, and lack its checksum. `gso_type` may carry the bit `VIRTIO_NET_HDR_GSO_ECN`
//! (0x80): the CWR flag of such a TCP run belongs to its first segment only.

#![expect(unsafe_code, reason = "devices are made by ioctl with raw pointers")]

mod queue;

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use libc::{c_int, c_uint, c_ulong};

pub(crate) use self::queue::TunQueue;
use super::check;

/// Bytes of the vnet header.
pub(crate) const HEADER_BYTES: usize = 10;
/// The device file.
const DEVICE: &str = "/dev/net/tun";
/// Longest name of an interface (`IFNAMSIZ` with its end).
const NAME_BYTES_MAX: usize = libc::IFNAMSIZ - 1;
/// Most queues of one device (`MAX_TAP_QUEUES` of Linux).
const QUEUES_MAX: usize = 256;

/// Which runs of packets the kernel may hand over whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Offload {
    /// Runs of TCP segments.
    pub(crate) tso: bool,
    /// Runs of UDP datagrams (Linux 6.2).
    pub(crate) uso: bool,
}

/// What device to make.
#[derive(Debug, Clone)]
pub(crate) struct TunConfig {
    /// Name of the interface, at most 15 bytes; the kernel puts a free number in place of `%d`.
    pub(crate) name: String,
    /// Queues, 1 to 256; the kernel spreads flows over them.
    pub(crate) queues: usize,
    /// Runs wanted; what the kernel refuses is done without.
    pub(crate) offload: Offload,
}

/// Why no device came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunError {
    /// The kernel or the container has no TUN devices.
    #[error("{DEVICE} is missing")]
    Missing {
        /// What the kernel said.
        source: io::Error,
    },
    /// The file may not be opened.
    #[error("{DEVICE} may not be opened")]
    Closed {
        /// What the kernel said.
        source: io::Error,
    },
    /// The process may not make interfaces.
    #[error("not allowed to make the interface {name}")]
    Denied {
        /// The name asked for.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An interface is called so already.
    #[error("an interface {name} exists")]
    InUse {
        /// The name asked for.
        name: String,
    },
    /// No interface can be called so.
    #[error("{name:?} cannot be the name of an interface")]
    Name {
        /// The name asked for.
        name: String,
    },
    /// The number of queues is out of bounds.
    #[error("a device has 1 to {QUEUES_MAX} queues, not {queues}")]
    Queues {
        /// The number asked for.
        queues: usize,
    },
    /// Anything else.
    #[error("cannot make the interface {name} ({call})")]
    Other {
        /// What was called.
        call: &'static str,
        /// The name asked for.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An interface that was made, as long as one of its queues lives.
#[derive(Debug)]
pub(crate) struct TunDevice {
    /// Name that the kernel gave it.
    pub(crate) name: String,
    /// Number of the interface.
    pub(crate) index: u32,
    offload: Offload,
    has_header: bool,
}

impl TunDevice {
    /// Makes the interface, down and without addresses, and opens its queues.
    ///
    /// Where the kernel refuses runs of UDP, then runs of TCP, then the vnet header, it is done without;
    /// [`Self::offload`] and [`Self::has_header`] tell.
    ///
    /// # Errors
    ///
    /// See [`TunError`]; nothing is left behind then.
    pub(crate) fn open(config: &TunConfig) -> Result<(Self, Vec<TunQueue>), TunError> {
        check_config(config)?;
        let shared = if config.queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | shared;
        let (first, name, offload) = open_first(config, flags)?;
        let has_header = offload.is_some();
        let flags = if has_header { flags | libc::IFF_VNET_HDR } else { flags };
        let mut files = vec![first];
        while files.len() < config.queues {
            files.push(attach(&name, flags)?.0);
        }
        let index = nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|error| other("if_nametoindex", &name)(error.into()))?;
        let queue = |file| TunQueue::new(file, has_header).map_err(other("fcntl, sigaction", &name));
        let queues = files.into_iter().map(queue).collect::<Result<_, _>>()?;
        Ok((Self { name, index, offload: offload.unwrap_or_default(), has_header }, queues))
    }

    /// The runs that were had, at most those asked for.
    pub(crate) const fn offload(&self) -> Offload {
        self.offload
    }

    /// True where packets carry a vnet header.
    pub(crate) const fn has_header(&self) -> bool {
        self.has_header
    }
}

fn check_config(config: &TunConfig) -> Result<(), TunError> {
    let TunConfig { name, queues, .. } = config;
    let plain = name.replacen("%d", "", 1);
    let is_name = plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if name.is_empty() || name == "." || name == ".." || name.len() > NAME_BYTES_MAX || !is_name {
        return Err(TunError::Name { name: name.clone() });
    }
    if !(1..=QUEUES_MAX).contains(queues) {
        return Err(TunError::Queues { queues: *queues });
    }
    Ok(())
}

/// Makes the interface: its first queue, its name, and the runs it has, `None` where it has no vnet header.
fn open_first(config: &TunConfig, flags: c_int) -> Result<(File, String, Option<Offload>), TunError> {
    // An interface that somebody else keeps under this name is not taken over.
    let flags = flags | libc::IFF_TUN_EXCL;
    match attach(&config.name, flags | libc::IFF_VNET_HDR) {
        Ok((file, name)) => {
            let offload = set_header_bytes(&file)
                .ok()
                .and_then(|()| negotiate(config.offload, |flags| set_offload(&file, flags).is_ok()));
            if let Some(offload) = offload {
                return Ok((file, name, Some(offload)));
            }
        }
        Err(TunError::Other { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {}
        Err(error) => return Err(error),
    }
    let (file, name) = attach(&config.name, flags)?;
    Ok((file, name, None))
}

/// Finds the most runs that `accepts` takes: without UDP, then without TCP, then nothing.
fn negotiate(wanted: Offload, accepts: impl Fn(c_uint) -> bool) -> Option<Offload> {
    let tcp = if wanted.tso { libc::TUN_F_TSO4 | libc::TUN_F_TSO6 } else { 0 };
    let ecn = if wanted.tso { libc::TUN_F_TSO_ECN } else { 0 };
    let udp = if wanted.uso { libc::TUN_F_USO4 | libc::TUN_F_USO6 } else { 0 };
    let only_tcp = Offload { uso: false, ..wanted };
    let candidates = [
        (tcp | ecn | udp, wanted),
        (tcp | udp, wanted),
        (tcp | ecn, only_tcp),
        (tcp, only_tcp),
        (0, Offload::default()),
    ];
    let accepted = candidates.into_iter().find(|(flags, _)| accepts(libc::TUN_F_CSUM | flags))?;
    Some(accepted.1)
}

/// Opens the device file and attaches it to the interface `name`, making it where there is none.
fn attach(name: &str, flags: c_int) -> Result<(File, String), TunError> {
    let file = OpenOptions::new().read(true).write(true).open(DEVICE);
    let file = file.map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::ENOTDIR) => TunError::Missing { source },
        Some(libc::EPERM | libc::EACCES) => TunError::Closed { source },
        Some(_) | None => other("open", name)(source),
    })?;
    let name_given = set_interface(&file, name, flags).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TunError::Denied { name: name.to_owned(), source },
        Some(libc::EBUSY | libc::EEXIST) => TunError::InUse { name: name.to_owned() },
        Some(_) | None => other("TUNSETIFF", name)(source),
    })?;
    Ok((file, name_given))
}

fn other(call: &'static str, name: &str) -> impl FnOnce(io::Error) -> TunError {
    let name = name.to_owned();
    move |source| TunError::Other { call, name, source }
}

/// `TUNSETIFF`; returns the name that the kernel gave.
fn set_interface(file: &File, name: &str, flags: c_int) -> io::Result<String> {
    // SAFETY: all zeros is a valid request: an empty name and a union of numbers and null pointers.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (to, from) in request.ifr_name.iter_mut().take(NAME_BYTES_MAX).zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = u16::try_from(flags).unwrap_or_default().cast_signed();
    // SAFETY: the kernel reads and writes one `ifreq`, which lives until the call has returned.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let bytes = request.ifr_name.iter().map(|byte| {
        let [byte] = byte.to_ne_bytes();
        byte
    });
    String::from_utf8(bytes.take_while(|byte| *byte != 0).collect())
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

/// `TUNSETVNETHDRSZ`, to [`HEADER_BYTES`].
fn set_header_bytes(file: &File) -> io::Result<()> {
    let size: c_int = super::control::narrow(HEADER_BYTES);
    // SAFETY: the kernel reads one `int`, which lives until the call has returned.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) })?;
    Ok(())
}

/// `TUNSETOFFLOAD`.
fn set_offload(file: &File, flags: c_uint) -> io::Result<()> {
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(flags)) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_given_up_one_kind_after_the_other() {
        let all = Offload { tso: true, uso: true };
        let check = |refused: c_uint, expected: Option<Offload>| {
            assert_eq!(negotiate(all, |flags| flags & refused == 0), expected, "without {refused:#x}");
        };
        check(0, Some(all));
        check(libc::TUN_F_TSO_ECN, Some(all));
        check(libc::TUN_F_USO4, Some(Offload { tso: true, uso: false }));
        check(libc::TUN_F_USO6 | libc::TUN_F_TSO_ECN, Some(Offload { tso: true, uso: false }));
        check(libc::TUN_F_TSO6, Some(Offload::default()));
        check(libc::TUN_F_CSUM, None);
        let none = negotiate(Offload::default(), |flags| flags == libc::TUN_F_CSUM);
        assert_eq!(none, Some(Offload::default()));
    }

    #[test]
    fn names_and_queues_that_no_device_can_have_are_refused() {
        let config =
            |name: &str, queues| TunConfig { name: name.to_owned(), queues, offload: Offload::default() };
        for name in ["", ".", "..", "a/b", "a b", "%s", "%d%d", "sixteen-letters-"] {
            assert!(matches!(check_config(&config(name, 1)), Err(TunError::Name { .. })), "{name}");
        }
        for queues in [0, QUEUES_MAX + 1] {
            assert!(matches!(check_config(&config("bp0", queues)), Err(TunError::Queues { .. })));
        }
        for name in ["bp0", "bp%d", "fifteen-letters"] {
            assert!(check_config(&config(name, QUEUES_MAX)).is_ok(), "{name}");
        }
    }
}
