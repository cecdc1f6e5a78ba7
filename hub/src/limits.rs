//! What clients may take of this hub: read from the configuration, given to the proxy.

use std::time::Duration;

use blueprint_common_runtime::accept::AcceptLimits;
use blueprint_common_runtime::config::{ByteSize, Problems, Settings, Span};
use blueprint_hub_proxy::{FILES_OF_FORWARD, FORWARD_PLACES, ForwardConfig, ProxyConfig};
use blueprint_hub_proxy_core::pace::LeastRate;
use tracing::info;

/// Files that the rest of the hub needs: its store, the control plane, carriers, the operator's sockets.
const RESERVED_FILES: u64 = 64;

/// Those of a thread for clients: what its runtime waits with.
const FILES_OF_LANE: usize = 4;

/// Limits of the proxy, and the memory of the process.
#[derive(Debug, Clone)]
pub(crate) struct LimitsConfig {
    connections: AcceptLimits,
    header: Duration,
    idle: Duration,
    reader: Duration,
    least_body_rate: u64,
    /// In bytes; `None` for what the machine has.
    pub(crate) memory: Option<u64>,
}

impl LimitsConfig {
    /// Takes the keys; what cannot be used is a problem.
    pub(crate) fn take(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        const MINUTE: u64 = 60_000;
        let most = 1..=1_000_000;
        let total = settings.take_within("proxy.max_connections", most.clone(), problems);
        let per_ip = settings.take_within("proxy.max_connections_per_source", most, problems);
        let header = span(settings, "proxy.header_timeout", (100, 10 * MINUTE), problems);
        let idle = span(settings, "proxy.idle_timeout", (1000, 60 * MINUTE), problems);
        let reader = span(settings, "proxy.reader_timeout", (1000, 60 * MINUTE), problems);
        let rate = settings.take::<ByteSize>("proxy.least_body_rate", problems);
        let memory = match settings.text("memory.limit") {
            Some("auto") => Some(None),
            Some(_) | None => settings.take::<ByteSize>("memory.limit", problems).map(|size| Some(size.0)),
        };
        Some(Self {
            connections: AcceptLimits { total: total?, per_ip: per_ip? },
            header: header?,
            idle: idle?,
            reader: reader?,
            least_body_rate: rate?.0,
            memory: memory?,
        })
    }

    /// Gives the proxy its limits in a process that may have `files` open.
    ///
    /// Raw forwards, where there are any, get what all their places need, and half of the files at most. Half of the
    /// rest is for clients, since each of them may need a connection to a service. Two listeners share what there is.
    pub(crate) fn apply(&self, proxy: &mut ProxyConfig, files: u64) {
        let listeners = 1 + usize::from(proxy.tls_listen.is_some());
        let room = usize::try_from(files.saturating_sub(RESERVED_FILES)).unwrap_or(usize::MAX);
        let room = room.saturating_sub(proxy.lanes.saturating_mul(FILES_OF_LANE));
        let of_forwards = proxy.forwards.as_mut().map_or(0, |forwards| share(forwards, room / 2, files));
        let most = (room.saturating_sub(of_forwards) / 2).max(1);
        if self.connections.total > most {
            info!(
                asked = self.connections.total,
                allowed = most,
                files,
                "fewer connections than proxy.max_connections: the system allows too few open files"
            );
        }
        let total = self.connections.total.min(most).div_ceil(listeners);
        proxy.limits = AcceptLimits { total, ..self.connections };
        proxy.header_timeout = self.header;
        proxy.idle_timeout = self.idle;
        proxy.reader_timeout = self.reader;
        proxy.least_rate = LeastRate { bytes_per_second: self.least_body_rate, ..LeastRate::default() };
    }
}

/// Gives raw forwards as many places as `most` files allow; the files that those may take.
fn share(forwards: &mut ForwardConfig, most: usize, files: u64) -> usize {
    forwards.limits.total = FORWARD_PLACES.min(most / FILES_OF_FORWARD).max(1);
    if forwards.limits.total < FORWARD_PLACES {
        info!(
            usual = FORWARD_PLACES,
            allowed = forwards.limits.total,
            files,
            "fewer connections and flows of raw forwards: the system allows too few open files"
        );
    }
    forwards.limits.total.saturating_mul(FILES_OF_FORWARD)
}

fn span(
    settings: &Settings,
    key: &str,
    (least, most): (u64, u64),
    problems: &mut Problems,
) -> Option<Duration> {
    let Span(value) = settings.take::<Span>(key, problems)?;
    if (Duration::from_millis(least)..=Duration::from_millis(most)).contains(&value) {
        return Some(value);
    }
    settings.refuse(key, &format!("not within {least} ms and {most} ms"), problems);
    None
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn limits(total: usize) -> LimitsConfig {
        LimitsConfig {
            connections: AcceptLimits { total, per_ip: 10 },
            header: Duration::from_secs(5),
            idle: Duration::from_secs(75),
            reader: Duration::from_secs(60),
            least_body_rate: 1024,
            memory: None,
        }
    }

    #[test]
    fn clients_never_get_the_files_that_the_hub_needs() {
        let limits = limits(1000);
        for (files, total) in [(u64::MAX, 1000), (1024, 480), (256, 96), (10, 1)] {
            let mut proxy = ProxyConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
            proxy.lanes = 0;
            limits.apply(&mut proxy, files);
            assert_eq!(proxy.limits, AcceptLimits { total, per_ip: 10 }, "{files} files");
            proxy.tls_listen = Some(proxy.listen);
            limits.apply(&mut proxy, files);
            assert_eq!(proxy.limits.total, total.div_ceil(2), "{files} files for two listeners");
        }
    }

    #[test]
    fn the_places_of_forwards_are_files_too() {
        let limits = limits(1_000_000);
        for (files, places, total) in [(1_000_000, 4096, 493_824), (1024, 160, 240), (10, 1, 1)] {
            let mut proxy = ProxyConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
            proxy.lanes = 0;
            let ports = "20000-20999".parse().unwrap();
            proxy.forwards = Some(ForwardConfig::new(proxy.listen.ip(), ports));
            limits.apply(&mut proxy, files);
            assert_eq!(proxy.forwards.as_ref().unwrap().limits.total, places, "{files} files");
            assert_eq!(proxy.limits.total, total, "{files} files");
            let taken = 2 * total + FILES_OF_FORWARD * places;
            let taken = u64::try_from(taken).unwrap() + RESERVED_FILES;
            assert!(files < RESERVED_FILES || taken <= files, "{taken} of {files} files");
        }
    }
}
