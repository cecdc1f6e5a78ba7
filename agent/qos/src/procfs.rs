//! What `/proc` says, and how its files are read. Numbers that do not fit are refused, never wrapped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// A file of `/proc` is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not hold what it should.
    #[error("{} does not hold what was expected", path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
}

/// Processor time of the whole machine since its boot, in clock ticks of all cores together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuTimes {
    /// Time not spent idle or waiting for a disk.
    pub(crate) busy: u64,
    /// All time.
    pub(crate) total: u64,
}

/// Memory of the machine in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// In use, without what the kernel would give back.
    pub(crate) used: u64,
    /// All there is.
    pub(crate) total: u64,
}

/// One process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// Processor time in clock ticks, without children.
    pub(crate) ticks: u64,
    /// That of its children which ended, theirs included.
    pub(crate) waited: u64,
    /// Start in clock ticks since boot; with the pid it names the process for good.
    pub(crate) started: u64,
    /// Resident memory in pages.
    pub(crate) resident_pages: u64,
}

/// Where a TCP socket listens, and its inode.
type Listener = (SocketAddr, u64);

/// The listening TCP sockets of one moment, by their two tables, each read when it is needed first.
///
/// The kernel looks through all of its buckets to write one: some 10 ms on a machine with 24 GB, however few sockets there
/// are (measured in November 2026).
#[derive(Debug, Default)]
pub(crate) struct SocketTables {
    v4: Option<Vec<Listener>>,
    v6: Option<Vec<Listener>>,
}

/// A `/proc` file system, or a folder that looks like one.
#[derive(Debug, Clone)]
pub(crate) struct ProcFs {
    root: PathBuf,
}

impl ProcFs {
    /// The one at `root`.
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Times of all cores.
    pub(crate) fn cpu_times(&self) -> Result<CpuTimes, ProcError> {
        self.parse("stat", parse_cpu_times)
    }

    /// Memory of the machine.
    pub(crate) fn memory(&self) -> Result<Memory, ProcError> {
        self.parse("meminfo", parse_memory)
    }

    /// Bytes received and sent by all interfaces but loopback.
    pub(crate) fn network(&self) -> Result<(u64, u64), ProcError> {
        self.parse("net/dev", parse_network)
    }

    /// Inodes of the TCP sockets that listen where a connection to `address` arrives; several where they share the port.
    pub(crate) fn listening_inodes(&self, address: SocketAddr, tables: &mut SocketTables) -> Vec<u64> {
        let read = |file: &str| {
            let text = std::fs::read_to_string(self.root.join(file)).unwrap_or_default();
            listeners(&text)
        };
        let found = find_listeners(tables.v4.get_or_insert_with(|| read("net/tcp")), address);
        if !found.is_empty() {
            return found;
        }
        find_listeners(tables.v6.get_or_insert_with(|| read("net/tcp6")), address)
    }

    /// The processes that hold one of the sockets, lowest number first, among those whose files we may see.
    pub(crate) fn socket_owners(&self, inodes: &[u64]) -> Vec<u32> {
        let mut owners = std::fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| self.holds_any(*pid, inodes))
            .collect::<Vec<u32>>();
        owners.sort_unstable();
        owners
    }

    /// True where the process has one of the sockets open.
    pub(crate) fn holds_any(&self, pid: u32, inodes: &[u64]) -> bool {
        let Ok(files) = std::fs::read_dir(self.root.join(pid.to_string()).join("fd")) else { return false };
        let wanted: Vec<PathBuf> =
            inodes.iter().map(|inode| PathBuf::from(format!("socket:[{inode}]"))).collect();
        files
            .flatten()
            .any(|file| std::fs::read_link(file.path()).is_ok_and(|target| wanted.contains(&target)))
    }

    /// The children of a process, of all its threads; none where the kernel does not tell.
    pub(crate) fn children(&self, pid: u32) -> Vec<u32> {
        let threads = std::fs::read_dir(self.root.join(pid.to_string()).join("task"));
        let read = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("children")).ok();
        let texts: Vec<String> = threads.into_iter().flatten().flatten().filter_map(read).collect();
        texts
            .iter()
            .flat_map(|text| text.split_ascii_whitespace())
            .filter_map(|pid| pid.parse().ok())
            .collect()
    }

    /// Times and memory of one process.
    pub(crate) fn process(&self, pid: u32) -> Result<ProcessStat, ProcError> {
        self.parse(&format!("{pid}/stat"), parse_process)
    }

    fn parse<T>(&self, file: &str, parser: impl Fn(&str) -> Option<T>) -> Result<T, ProcError> {
        let path = self.root.join(file);
        let text = read(&path)?;
        parser(&text).ok_or(ProcError::Form { path })
    }
}

fn read(path: &Path) -> Result<String, ProcError> {
    // A process may give itself any bytes as its name.
    let read = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    read.map_err(|source| ProcError::Read { path: path.to_owned(), source })
}

/// First line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal; guest time after them
/// is already part of user.
fn parse_cpu_times(text: &str) -> Option<CpuTimes> {
    let mut words = text.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let (mut busy, mut total) = (0u64, 0u64);
    for position in 0..8 {
        let Some(word) = words.next() else { break };
        let ticks: u64 = word.parse().ok()?;
        total = total.checked_add(ticks)?;
        if !matches!(position, 3 | 4) {
            busy = busy.checked_add(ticks)?;
        }
    }
    Some(CpuTimes { busy, total })
}

fn parse_memory(text: &str) -> Option<Memory> {
    let bytes_of = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        rest.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let total = bytes_of("MemTotal")?;
    Some(Memory { used: total.saturating_sub(bytes_of("MemAvailable")?), total })
}

fn parse_network(text: &str) -> Option<(u64, u64)> {
    let (mut rx, mut tx) = (0u64, 0u64);
    for line in text.lines().skip(2) {
        let (name, counters) = line.split_once(':')?;
        if name.trim() == "lo" {
            continue;
        }
        let mut counters = counters.split_ascii_whitespace();
        rx = rx.checked_add(counters.next()?.parse().ok()?)?;
        tx = tx.checked_add(counters.nth(7)?.parse().ok()?)?;
    }
    Some((rx, tx))
}

/// The name in parentheses may hold anything, parentheses too, so fields are counted after the last one:
/// state is the third of the line, utime the 14th, stime the 15th, cutime and cstime the next two, starttime the 22nd, rss the
/// 24th (`proc_pid_stat(5)`).
fn parse_process(text: &str) -> Option<ProcessStat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields = rest.split_ascii_whitespace().collect::<Vec<_>>();
    let number = |line_field: usize| fields.get(line_field.checked_sub(3)?)?.parse::<u64>().ok();
    Some(ProcessStat {
        ticks: number(14)?.checked_add(number(15)?)?,
        waited: number(16)?.checked_add(number(17)?)?,
        started: number(22)?,
        resident_pages: number(24)?,
    })
}

fn listeners(table: &str) -> Vec<Listener> {
    table.lines().skip(1).filter_map(parse_listener).collect()
}

/// Those at the very address, or else those at the wildcard.
fn find_listeners(listeners: &[Listener], address: SocketAddr) -> Vec<u64> {
    let at_port = listeners.iter().filter(|(local, _)| local.port() == address.port());
    let is_exact = |local: &SocketAddr| local.ip().to_canonical() == address.ip().to_canonical();
    let (exact, others): (Vec<&Listener>, Vec<&Listener>) = at_port.partition(|(local, _)| is_exact(local));
    let wildcard = others.into_iter().filter(|(local, _)| local.ip().is_unspecified());
    let inodes = |found: Vec<&Listener>| found.into_iter().map(|(_, inode)| *inode).collect();
    if exact.is_empty() { inodes(wildcard.collect()) } else { inodes(exact) }
}

/// One line of a table, where its state is 0A: it listens.
fn parse_listener(line: &str) -> Option<Listener> {
    let mut words = line.split_ascii_whitespace();
    let local = words.nth(1)?;
    if words.nth(1)? != "0A" {
        return None;
    }
    let inode = words.nth(5)?.parse().ok()?;
    let (ip, port) = local.split_once(':')?;
    Some((SocketAddr::new(parse_hex_ip(ip)?, u16::from_str_radix(port, 16).ok()?), inode))
}

/// Addresses stand there as words of 32 bits in the machine's byte order.
fn parse_hex_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0u8; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
