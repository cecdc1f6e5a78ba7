//! Samples of the machine and of the processes behind its services.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blueprint_common_types::{Health, MachineSample, ServiceKey, ServiceSample, WholeSample, WorkloadUse};
use nix::unistd::{SysconfVar, sysconf};

use crate::group::{Group, SHORTEST_WINDOW, percent};
use crate::procfs::{CpuTimes, ProcFs, SocketTables};

/// A service not sampled for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// One service to sample, with what the last check found.
#[derive(Debug, Clone, Copy)]
pub struct ServiceProbe {
    /// The service.
    pub service: ServiceKey,
    /// Overlay port of the target.
    pub port: u16,
    /// Where the service listens on this machine.
    pub local: SocketAddr,
    /// Result of the local check.
    pub health: Health,
    /// Time the last health check took, in microseconds.
    pub check_micros: u32,
    /// What the workload that offers it uses as a whole; `None` for other services, and where that cannot be counted.
    pub uses: Option<WorkloadUse>,
}

/// Processor time of a whole workload, when it was looked at last.
#[derive(Debug)]
struct Whole {
    cpu: Duration,
    cpu_at: Instant,
    cpu_percent: f32,
}

/// Reads `/proc` and the size of one file system.
///
/// It reads synchronously: some tens of microseconds for the machine, and for a service whose process is not
/// known yet, or was found a minute ago, the table of all sockets, once for all services of a moment, and one pass over the
/// open files of every process. What cannot be read, in a container or on another
/// system, is zero in the sample and logged once.
///
/// Invariant: processor shares are differences between two samples at least 200 ms apart; the first is zero.
#[derive(Debug)]
pub struct Sampler {
    proc: ProcFs,
    state_path: PathBuf,
    cpu: Option<(CpuTimes, Instant)>,
    cpu_percent: f32,
    groups: BTreeMap<SocketAddr, (Group, Instant)>,
    /// By service and overlay port.
    wholes: BTreeMap<(ServiceKey, u16), Whole>,
    /// Tables of sockets, and when they were read.
    sockets: Option<(SocketTables, Instant)>,
    ticks_per_second: u64,
    page_bytes: u64,
    reported: BTreeSet<&'static str>,
}

impl Sampler {
    /// Samples this machine; `state_path` lies on the file system whose size is reported.
    #[must_use]
    pub fn new(state_path: impl Into<PathBuf>) -> Self {
        Self::with_proc("/proc", state_path)
    }

    fn with_proc(root: impl Into<PathBuf>, state_path: impl Into<PathBuf>) -> Self {
        let setting =
            |var, usual| sysconf(var).ok().flatten().and_then(|v| u64::try_from(v).ok()).unwrap_or(usual);
        Self {
            proc: ProcFs::new(root),
            state_path: state_path.into(),
            cpu: None,
            cpu_percent: 0.0,
            groups: BTreeMap::new(),
            wholes: BTreeMap::new(),
            sockets: None,
            ticks_per_second: setting(SysconfVar::CLK_TCK, 100),
            page_bytes: setting(SysconfVar::PAGE_SIZE, 4096),
            reported: BTreeSet::new(),
        }
    }

    /// The machine at `now`.
    pub fn sample_machine(&mut self, now: Instant) -> MachineSample {
        let cpu = self.proc.cpu_times();
        if let Some(cpu) = self.note("processor", cpu) {
            self.take_cpu(cpu, now);
        }
        let memory = self.proc.memory();
        let memory = self.note("memory", memory);
        let disk = disk_bytes(&self.state_path);
        let (disk_used_bytes, disk_total_bytes) = self.note("disk", disk).unwrap_or_default();
        let network = self.proc.network();
        let (network_rx_bytes, network_tx_bytes) = self.note("network", network).unwrap_or_default();
        MachineSample {
            cpu_percent: self.cpu_percent,
            memory_used_bytes: memory.map_or(0, |memory| memory.used),
            memory_total_bytes: memory.map_or(0, |memory| memory.total),
            disk_used_bytes,
            disk_total_bytes,
            network_rx_bytes,
            network_tx_bytes,
        }
    }

    /// The processes behind a service at `now`: what all that hold its sockets use, and their children, or the whole workload
    /// where that is known. Without a pid, and then without any figure of theirs, where nobody listens or we may not see who does.
    pub fn sample_service(&mut self, probe: &ServiceProbe, now: Instant) -> ServiceSample {
        self.groups.retain(|_, (_, seen)| now.saturating_duration_since(*seen) < FORGET_AFTER);
        let mut sample = ServiceSample {
            service: probe.service,
            port: probe.port,
            health: probe.health,
            pid: None,
            cpu_percent: 0.0,
            memory_bytes: 0,
            check_micros: probe.check_micros,
            whole: None,
        };
        let mut group = self.groups.remove(&probe.local).map(|(group, _)| group).unwrap_or_default();
        if (group.is_known(&self.proc, now) || self.find_group(&mut group, probe.local, now))
            && let Some(used) = group.look(&self.proc, self.ticks_per_second, now)
        {
            sample.pid = Some(used.pid);
            sample.cpu_percent = used.cpu_percent;
            sample.memory_bytes = used.pages.saturating_mul(self.page_bytes);
            self.groups.insert(probe.local, (group, now));
        }
        self.wholes.retain(|_, whole| now.saturating_duration_since(whole.cpu_at) < FORGET_AFTER);
        if let Some(uses) = probe.uses {
            sample.cpu_percent = self.take_whole_cpu((probe.service, probe.port), uses.cpu, now);
            sample.memory_bytes = uses.memory_bytes;
            let WorkloadUse { pids, read_bytes, written_bytes, .. } = uses;
            sample.whole = Some(WholeSample { pids, read_bytes, written_bytes });
        }
        sample
    }

    fn take_whole_cpu(&mut self, of: (ServiceKey, u16), cpu: Duration, now: Instant) -> f32 {
        let whole = self.wholes.entry(of).or_insert(Whole { cpu, cpu_at: now, cpu_percent: 0.0 });
        let window = now.saturating_duration_since(whole.cpu_at);
        if window >= SHORTEST_WINDOW {
            let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            // One that was started anew begins at zero.
            whole.cpu_percent = percent(micros(cpu.saturating_sub(whole.cpu)), micros(window));
            (whole.cpu, whole.cpu_at) = (cpu, now);
        }
        whole.cpu_percent
    }

    fn take_cpu(&mut self, cpu: CpuTimes, now: Instant) {
        let Some((earlier, at)) = self.cpu else {
            self.cpu = Some((cpu, now));
            return;
        };
        if now.saturating_duration_since(at) >= SHORTEST_WINDOW {
            let busy = cpu.busy.saturating_sub(earlier.busy);
            self.cpu_percent = percent(busy, cpu.total.saturating_sub(earlier.total)).min(100.0);
            self.cpu = Some((cpu, now));
        }
    }

    /// Looks for who listens; false where nobody is seen to.
    fn find_group(&mut self, group: &mut Group, local: SocketAddr, now: Instant) -> bool {
        let same = self.sockets.take().filter(|(_, at)| *at == now);
        let mut tables = same.map(|(tables, _)| tables).unwrap_or_default();
        let inodes = self.proc.listening_inodes(local, &mut tables);
        self.sockets = Some((tables, now));
        !inodes.is_empty() && group.find(&self.proc, inodes, now)
    }

    fn note<T, E: Error>(&mut self, part: &'static str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if self.reported.insert(part) {
                    let source = error.source().map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(part, %error, source, "part of the machine cannot be sampled");
                }
                None
            }
        }
    }
}

/// Used and all bytes of the file system that holds `path`.
fn disk_bytes(path: &Path) -> Result<(u64, u64), nix::Error> {
    fn wide(number: impl Into<u64>) -> u64 {
        number.into()
    }
    let stat = nix::sys::statvfs::statvfs(path)?;
    let unit = wide(stat.fragment_size());
    let used = wide(stat.blocks()).saturating_sub(wide(stat.blocks_free()));
    Ok((used.saturating_mul(unit), wide(stat.blocks()).saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;
    use std::os::unix::fs::symlink;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn probe(local: SocketAddr) -> ServiceProbe {
        let service = ServiceKey { blueprint: 7, service: 42 };
        ServiceProbe { service, port: 8080, local, health: Health::Healthy, check_micros: 350, uses: None }
    }

    /// A `/proc` whose process `pid` started at tick `started` and holds the socket listening on port 8080.
    fn write_proc(root: &Path, pid: u32, started: u32, ticks: u32) {
        let files = root.join(pid.to_string()).join("fd");
        fs::create_dir_all(&files).unwrap();
        let _ = fs::remove_file(files.join("3"));
        symlink("socket:[999]", files.join("3")).unwrap();
        let stat = format!("{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 {started} 1 10 0");
        fs::write(root.join(pid.to_string()).join("stat"), stat).unwrap();
        fs::create_dir_all(root.join("net")).unwrap();
        let row = "0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 999 1";
        fs::write(root.join("net/tcp"), format!("header\n{row}\n")).unwrap();
    }

    #[test]
    fn this_machine_has_memory_and_a_disk() {
        let mut sampler = Sampler::new(std::env::temp_dir());
        let sample = sampler.sample_machine(Instant::now());
        assert!(sample.memory_used_bytes > 0 && sample.memory_used_bytes <= sample.memory_total_bytes);
        assert!(sample.disk_used_bytes > 0 && sample.disk_used_bytes <= sample.disk_total_bytes);
        assert!(sampler.reported.is_empty(), "{:?}", sampler.reported);
    }

    #[test]
    fn the_process_behind_a_port_of_ours_is_us() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let probe = probe(listener.local_addr().unwrap());
        let mut sampler = Sampler::new("/");
        let sample = sampler.sample_service(&probe, Instant::now());
        assert_eq!(sample.pid, Some(std::process::id()));
        assert!(sample.memory_bytes > 100_000, "{}", sample.memory_bytes);
        assert_eq!((sample.port, sample.check_micros), (8080, 350));
        drop(listener);
        assert_eq!(sampler.sample_service(&probe, Instant::now()).pid, None);
    }

    #[test]
    fn the_share_of_the_processor_is_taken_between_samples() {
        let root = tempfile::tempdir().unwrap();
        let mut sampler = Sampler::with_proc(root.path(), root.path());
        let now = Instant::now();
        let mut sample = |busy: u32, idle: u32, at: Instant| {
            fs::write(root.path().join("stat"), format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n")).unwrap();
            sampler.sample_machine(at).cpu_percent
        };
        assert_eq!(sample(1000, 1000, now), 0.0);
        assert_eq!(sample(1025, 1075, now + SECOND), 25.0);
        assert_eq!(sample(1026, 1075, now + SECOND + SECOND / 100), 25.0);
        assert_eq!(sample(1125, 1075, now + SECOND * 2), 100.0);
        assert_eq!(sample(5, 5, now + SECOND * 3), 0.0);
    }

    #[test]
    fn a_process_may_use_more_than_one_core_and_be_replaced_under_its_pid() {
        let root = tempfile::tempdir().unwrap();
        let mut sampler = Sampler::with_proc(root.path(), root.path());
        let second = sampler.ticks_per_second;
        let now = Instant::now();
        let mut sample = |pid: u32, started: u32, seconds: u64, at: Instant| {
            write_proc(root.path(), pid, started, u32::try_from(seconds * second).unwrap());
            let sample = sampler.sample_service(&probe("127.0.0.1:8080".parse().unwrap()), at);
            (sample.pid, sample.cpu_percent)
        };
        assert_eq!(sample(50, 1, 10, now), (Some(50), 0.0));
        assert_eq!(sample(50, 1, 14, now + SECOND * 2), (Some(50), 200.0));
        assert_eq!(sample(50, 2, 40, now + SECOND * 3), (Some(50), 0.0));
    }

    #[test]
    fn a_workload_is_counted_whole_and_not_by_the_process_that_listens() {
        let root = tempfile::tempdir().unwrap();
        write_proc(root.path(), 50, 1, 1);
        let mut sampler = Sampler::with_proc(root.path(), root.path());
        let now = Instant::now();
        let mut sample = |millis: u64, at: Instant| {
            let uses = WorkloadUse {
                cpu: Duration::from_millis(millis),
                memory_bytes: 5 << 20,
                pids: 7,
                read_bytes: 1,
                written_bytes: 2,
            };
            let probe = ServiceProbe { uses: Some(uses), ..probe("127.0.0.1:8080".parse().unwrap()) };
            sampler.sample_service(&probe, at)
        };
        let first = sample(9000, now);
        assert_eq!((first.pid, first.cpu_percent, first.memory_bytes), (Some(50), 0.0, 5 << 20));
        assert_eq!(first.whole, Some(WholeSample { pids: 7, read_bytes: 1, written_bytes: 2 }));
        assert_eq!(sample(12_000, now + SECOND * 2).cpu_percent, 150.0);
        assert_eq!(sample(100, now + SECOND * 3).cpu_percent, 0.0, "it was started anew");
        assert_eq!(sample(600, now + SECOND * 4).cpu_percent, 50.0);
    }

    #[test]
    fn the_table_of_sockets_is_read_once_for_a_moment_and_not_for_who_is_known() {
        let root = tempfile::tempdir().unwrap();
        write_proc(root.path(), 50, 1, 1);
        let mut sampler = Sampler::with_proc(root.path(), root.path());
        let now = Instant::now();
        let mut pid = |local: &str, at| sampler.sample_service(&probe(local.parse().unwrap()), at).pid;
        assert_eq!(pid("127.0.0.1:8080", now), Some(50));
        fs::remove_file(root.path().join("net/tcp")).unwrap();
        assert_eq!(pid("127.0.0.2:8080", now), Some(50), "read twice");
        assert_eq!(pid("127.0.0.1:8080", now + SECOND), Some(50), "read for one that is known");
        assert_eq!(pid("127.0.0.3:8080", now + SECOND), None, "an old table");
    }

    #[test]
    fn what_cannot_be_read_is_zero_and_reported_once() {
        let root = tempfile::tempdir().unwrap();
        let mut sampler = Sampler::with_proc(root.path(), root.path().join("missing"));
        for _ in 0..2 {
            assert_eq!(sampler.sample_machine(Instant::now()), MachineSample::default());
        }
        assert_eq!(sampler.reported.len(), 4);
    }

    #[test]
    fn services_that_are_gone_are_forgotten() {
        let root = tempfile::tempdir().unwrap();
        write_proc(root.path(), 50, 1, 1);
        let mut sampler = Sampler::with_proc(root.path(), root.path());
        let now = Instant::now();
        for host in 1..=20 {
            sampler.sample_service(&probe(SocketAddr::from(([127, 0, 0, host], 8080))), now);
        }
        assert_eq!(sampler.groups.len(), 20);
        sampler.sample_service(&probe("127.0.0.1:8080".parse().unwrap()), now + FORGET_AFTER);
        assert_eq!(sampler.groups.len(), 1);
    }
}
