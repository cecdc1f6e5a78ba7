//! How much memory the process uses, compared with what it may use; and what it gives back at rest.

use std::fs;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_tunnel::give_back_memory;
use blueprint_hub_proxy::Pressure;
use blueprint_hub_proxy_core::Watermark;
use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How often the process is looked at.
const PACE: Duration = Duration::from_secs(1);

/// When most of what a start needs has been used, and how often is looked whether there is more to give back.
const SETTLED: Duration = Duration::from_secs(10);

/// By how much of itself, as a divisor, and by what at least, the process's own memory has to have grown for that.
const GROWTH_SHARE: u64 = 8;
const GROWTH_BYTES: u64 = 4 << 20;

/// What counts as no growth between two looks.
const STILL_BYTES: u64 = 1 << 20;

type Bytes = Gauge<u64, AtomicU64>;

/// Looks at the process and tells the proxy.
pub(crate) struct MemoryWatch {
    mark: Watermark,
    limit: u64,
    pressure: Pressure,
    used: Bytes,
    refuses: Gauge,
}

impl MemoryWatch {
    /// A watch over `limit` bytes, or over what there is; its metrics have the prefix `hub_memory_`.
    pub(crate) fn new(limit: Option<u64>, pressure: Pressure, metrics: &Metrics) -> Self {
        let limit = limit.unwrap_or_else(available);
        let (used, most, refuses) = (Bytes::default(), Bytes::default(), Gauge::default());
        most.set(limit);
        metrics.with(|registry| {
            registry.register("hub_memory_used_bytes", "Memory in use by this process", used.clone());
            registry.register("hub_memory_limit_bytes", "Memory that this process may use", most);
            let help = "1 while new work is refused for want of memory";
            registry.register("hub_memory_refuses", help, refuses.clone());
        });
        Self { mark: Watermark::of(limit), limit, pressure, used, refuses }
    }

    /// Looks once a second until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(pace.tick()).await.is_some() {
            // Where the system does not say, nothing is refused.
            let Some(used) = resident() else { continue };
            self.look(used);
        }
    }

    fn look(&mut self, used: u64) {
        self.used.set(used);
        let refuses = self.mark.see(used);
        self.refuses.set(i64::from(refuses));
        if refuses == self.pressure.refuses() {
            return;
        }
        self.pressure.set(refuses);
        if refuses {
            warn!(used, limit = self.limit, "short of memory: new connections and requests are refused");
        } else {
            info!(used, limit = self.limit, "memory again: new connections and requests are taken");
        }
    }
}

/// Gives back what was freed and what is not used of the program: once after the start, and whenever something large
/// seems over, which is when the process's own memory has grown and grows no more. As long as the process lives, which
/// it belongs to: where several hubs are in one, that one decides.
pub(crate) async fn rest() {
    let (mut settled, mut before) = (0, 0);
    loop {
        sleep(SETTLED).await;
        let used = private().unwrap_or(0);
        let is_due = settled == 0 || (has_grown(settled, used) && !is_growing(before, used));
        before = used;
        if !is_due {
            continue;
        }
        match tokio::task::spawn_blocking(give_back_memory).await {
            Ok(Ok(())) => debug!("memory that is not used is given back"),
            Ok(Err(error)) => debug!(%error, "memory that is not used is kept"),
            // The process ends.
            Err(_) => return,
        }
        settled = private().unwrap_or(used).max(1);
        before = settled;
    }
}

/// Whether so much more is used than after memory was given back last that it is worth a try.
const fn has_grown(settled: u64, used: u64) -> bool {
    used.saturating_sub(settled) > settled / GROWTH_SHARE + GROWTH_BYTES
}

/// Whether a work that needs memory still goes on, as two looks show.
const fn is_growing(before: u64, used: u64) -> bool {
    used > before.saturating_add(STILL_BYTES)
}

/// Bytes of this process that are in memory.
fn resident() -> Option<u64> {
    statm().map(|(resident, _)| resident)
}

/// Those of them that belong to no file.
fn private() -> Option<u64> {
    statm().map(|(resident, of_files)| resident.saturating_sub(of_files))
}

/// Bytes in memory, and those of them that belong to files (proc_pid_statm(5)).
fn statm() -> Option<(u64, u64)> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok().flatten()?).ok()?;
    let mut fields =
        statm.split_ascii_whitespace().skip(1).map(|pages| pages.parse::<u64>().ok()?.checked_mul(page));
    Some((fields.next()??, fields.next()??))
}

/// The least of what the machine has and what the control groups of this process allow.
fn available() -> u64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_groups = groups.lines().filter_map(group_file).filter_map(|file| {
        // `max` in the second version is no number; the first one writes a number larger than any machine.
        fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
    });
    let machine = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total);
    of_groups.chain(machine).min().unwrap_or(u64::MAX)
}

/// Where a line of `/proc/self/cgroup` has its limit.
fn group_file(line: &str) -> Option<String> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?.trim_end_matches('/'));
    match controllers {
        "" => Some(format!("/sys/fs/cgroup{path}/memory.max")),
        "memory" => Some(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")),
        _ => None,
    }
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_what_there_is() {
        let (used, most) = (resident().unwrap(), available());
        assert!((1 << 20..most).contains(&used), "{used} of {most}");
        assert_eq!(total("MemTotal:       16315204 kB\nMemFree: 1 kB\n"), Some(16_315_204 * 1024));
        assert_eq!(group_file("0::/a/b").unwrap(), "/sys/fs/cgroup/a/b/memory.max");
        assert_eq!(group_file("9:memory:/").unwrap(), "/sys/fs/cgroup/memory/memory.limit_in_bytes");
        assert_eq!(group_file("3:cpu,cpuacct:/x"), None);
    }

    #[test]
    fn memory_is_given_back_after_large_works_alone() {
        const MIB: u64 = 1 << 20;
        assert!(!has_grown(40 * MIB, 49 * MIB), "an eighth and 4 MiB at least");
        assert!(has_grown(40 * MIB, 50 * MIB));
        assert!(!has_grown(40 * MIB, 30 * MIB));
        assert!(is_growing(50 * MIB, 52 * MIB));
        assert!(!is_growing(50 * MIB, 51 * MIB));
        let (used, of_files) = statm().unwrap();
        assert!(of_files > 0 && private().unwrap() < used, "{used} with {of_files} of files");
    }

    #[test]
    fn the_proxy_is_told_at_both_marks() {
        let pressure = Pressure::default();
        let metrics = Metrics::new();
        let mut watch = MemoryWatch::new(Some(1000), pressure.clone(), &metrics);
        let told = [500, 900, 850, 799].map(|used| {
            watch.look(used);
            pressure.refuses()
        });
        assert_eq!(told, [false, true, true, false]);
        let text = metrics.encode();
        assert!(
            text.contains("hub_memory_used_bytes 799") && text.contains("hub_memory_refuses 0"),
            "{text}"
        );
    }
}
