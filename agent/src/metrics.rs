//! The agent's metrics: read from the snapshots at each scrape, kept nowhere else.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_spoke::ControlState;
use blueprint_common_types::{Carrier, Health, WorkloadUse};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::forward::StreamStats;
use crate::late::Late;
use crate::service::Entry;
use crate::shared::Shared;

/// Makes the metrics of an agent part of `metrics`.
pub(crate) fn register(metrics: &Metrics, shared: &Arc<Shared>) {
    let page = Page(Arc::clone(shared));
    metrics.with(|registry| registry.register_collector(Box::new(page)));
}

#[derive(Debug)]
struct Page(Arc<Shared>);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        tunnel(&self.0, &mut encoder)?;
        discards(&self.0, &mut encoder)?;
        control(&self.0, &mut encoder)?;
        services(&self.0, &mut encoder)?;
        workloads(&self.0, &mut encoder)?;
        let help = "connections for exec and forward that did not prove to be the hub's";
        counter(&mut encoder, "agent_door_refused", help, self.0.tickets.refused())?;
        if let Some(node) = self.0.node.get() {
            let help = "connections to bridges of workloads that were no process of the workload's own";
            counter(&mut encoder, "agent_bridge_refused", help, node.bridges_refused())?;
        }
        machine(&self.0, &mut encoder)
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> Result<(), fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

/// A number for a gauge, which has only this type for all; past 2^53 it is the nearest one.
fn number(value: u64) -> f64 {
    let (high, low) = (value >> 32, value & u64::from(u32::MAX));
    let half = |half: u64| f64::from(u32::try_from(half).unwrap_or(u32::MAX));
    half(high) * 4_294_967_296.0 + half(low)
}

fn tunnel(shared: &Shared, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let sample = shared.spoke.plane().sample();
    let alive = f64::from(u8::from(shared.spoke.plane().is_alive()));
    gauge(encoder, "agent_tunnel_alive", "1 while the hub echoes through the tunnel", alive)?;
    carriers(shared, encoder)?;
    let seconds = |micros: u32| f64::from(micros) / 1e6;
    gauge(
        encoder,
        "agent_tunnel_rtt_seconds",
        "mean round trip of the last echoes",
        seconds(sample.rtt_micros),
    )?;
    gauge(
        encoder,
        "agent_tunnel_jitter_seconds",
        "mean difference of neighbouring round trips",
        seconds(sample.jitter_micros),
    )?;
    let loss = f64::from(sample.loss_percent) / 100.0;
    gauge(encoder, "agent_tunnel_loss_ratio", "share of the last echoes that did not come back", loss)?;
    if let Some(age) = sample.handshake_age_secs {
        gauge(encoder, "agent_tunnel_handshake_age_seconds", "time since the last handshake", age.into())?;
    }
    counter(encoder, "agent_tunnel_received_bytes", "bytes received from the hub", sample.rx_bytes)?;
    counter(encoder, "agent_tunnel_sent_bytes", "bytes sent to the hub", sample.tx_bytes)?;
    let flows = u64::try_from(shared.spoke.plane().tunnel().snapshot().flows).unwrap_or(u64::MAX);
    gauge(encoder, "agent_tunnel_flows", "TCP connections inside the tunnel", number(flows))
}

fn carriers(shared: &Shared, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let used = shared.spoke.plane().carrier();
    let help = "1 for the carrier that the tunnel uses";
    let mut metric = encoder.encode_descriptor("agent_tunnel_carrier", help, None, MetricType::Gauge)?;
    for carrier in Carrier::ALL {
        let value = f64::from(u8::from(used == Some(carrier.label())));
        metric.encode_family(&[("carrier", carrier.label())])?.encode_gauge(&value)?;
    }
    Ok(())
}

fn discards(shared: &Shared, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let snapshot = shared.spoke.plane().tunnel().snapshot();
    let help = "datagrams, packets and connections refused or dropped, by reason";
    let mut metric = encoder.encode_descriptor("agent_tunnel_discards", help, None, MetricType::Counter)?;
    for (reason, count) in &snapshot.discards {
        metric.encode_family(&[("reason", *reason)])?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
    }
    Ok(())
}

fn control(shared: &Shared, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let control = shared.spoke.control().borrow().clone();
    let up = f64::from(u8::from(control.state == ControlState::Up));
    gauge(encoder, "agent_control_up", "1 while the control stream stands", up)?;
    counter(encoder, "agent_control_attempts", "attempts to open a control stream", control.attempts)?;
    counter(encoder, "agent_control_sessions", "control streams that the hub welcomed", control.sessions)?;
    let held = number(u64::try_from(control.held).unwrap_or(u64::MAX));
    gauge(encoder, "agent_control_outbox_messages", "messages that the hub has not acknowledged", held)?;
    counter(
        encoder,
        "agent_control_outbox_dropped",
        "messages dropped because the outbox was full",
        control.dropped,
    )?;
    let of = |late: &OnceLock<Arc<Late>>| late.get().map(|late| late.waiting()).unwrap_or_default();
    let (samples, pages) = (of(&shared.late), of(&shared.late_pages));
    let help = "bytes on the disk of samples that the hub has not got";
    gauge(encoder, "agent_samples_backlog_bytes", help, number(samples.bytes))?;
    let help = "samples for a hub that was away that had no room, were refused by the disk or cannot be read";
    counter(encoder, "agent_samples_backlog_dropped", help, samples.dropped)?;
    let help = "bytes on the disk of metrics of services that the hub has not got";
    gauge(encoder, "agent_pages_backlog_bytes", help, number(pages.bytes))?;
    let help = "metrics of services for a hub that was away that had no room, were refused by the disk or cannot be read";
    counter(encoder, "agent_pages_backlog_dropped", help, pages.dropped)?;
    let end = shared.spoke.identity().credential.not_after.as_secs();
    gauge(
        encoder,
        "agent_control_certificate_end_seconds",
        "end of the certificate's life, seconds since 1970",
        number(end),
    )
}

fn services(shared: &Shared, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let health = Arc::clone(&shared.health.borrow());
    let table = shared.services();
    let healthy = |entry: &Entry, _: &StreamStats| {
        let known = health.get(&entry.spec.port);
        f64::from(u8::from(known.is_some_and(|known| known.health == Health::Healthy)))
    };
    let check = |entry: &Entry, _: &StreamStats| {
        health.get(&entry.spec.port).map_or(0.0, |known| f64::from(known.check_micros) / 1e6)
    };
    let open = |_: &Entry, stats: &StreamStats| {
        number(u64::try_from(stats.open.load(Ordering::Relaxed)).unwrap_or(u64::MAX))
    };
    type Read<'a> = &'a dyn Fn(&Entry, &StreamStats) -> f64;
    let gauges: [(&str, &str, Read<'_>); 3] = [
        ("agent_service_healthy", "1 while the service answers its check", &healthy),
        ("agent_service_check_seconds", "time the last check took", &check),
        ("agent_service_streams", "streams open now", &open),
    ];
    for (name, help, read) in gauges {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for entry in table.iter() {
            let stats = shared.streams.of(entry.spec.port);
            metric.encode_family(&labels(entry))?.encode_gauge(&read(entry, &stats))?;
        }
    }
    type Count<'a> = &'a dyn Fn(&StreamStats) -> u64;
    let counters: [(&str, &str, Count<'_>); 3] = [
        ("agent_service_streams_accepted", "streams accepted", &|stats| {
            stats.accepted.load(Ordering::Relaxed)
        }),
        ("agent_service_streams_refused", "streams refused because there were too many", &|stats| {
            stats.refused.load(Ordering::Relaxed)
        }),
        ("agent_service_streams_failed", "streams whose service took no connection", &|stats| {
            stats.failed.load(Ordering::Relaxed)
        }),
    ];
    for (name, help, read) in counters {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for entry in table.iter() {
            let count = read(&shared.streams.of(entry.spec.port));
            metric.encode_family(&labels(entry))?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

/// What workloads use, each with all that it started.
fn workloads(shared: &Shared, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let (samples, table) = (Arc::clone(&shared.samples.borrow()), shared.services());
    let found = || table.iter().filter_map(|entry| Some((entry, samples.uses.get(&entry.spec.port)?)));
    type Read<'a> = &'a dyn Fn(&WorkloadUse) -> f64;
    let gauges: [(&str, &str, Read<'_>); 2] = [
        (
            "agent_workload_memory_bytes",
            "memory of the workload with all that it started, without caches",
            &|uses| number(uses.memory_bytes),
        ),
        ("agent_workload_pids", "processes and threads of the workload", &|uses| number(uses.pids)),
    ];
    for (name, help, read) in gauges {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (entry, uses) in found() {
            metric.encode_family(&labels(entry))?.encode_gauge(&read(uses))?;
        }
    }
    let counters: [(&str, &str, Read<'_>); 3] = [
        (
            "agent_workload_cpu_seconds",
            "processor time of the workload with all that it started, since its start",
            &|uses| uses.cpu.as_secs_f64(),
        ),
        ("agent_workload_read_bytes", "bytes that the workload read from disks since its start", &|uses| {
            number(uses.read_bytes)
        }),
        ("agent_workload_written_bytes", "bytes that the workload wrote to disks since its start", &|uses| {
            number(uses.written_bytes)
        }),
    ];
    for (name, help, read) in counters {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (entry, uses) in found() {
            metric.encode_family(&labels(entry))?.encode_counter::<NoLabelSet, _, f64>(&read(uses), None)?;
        }
    }
    Ok(())
}

/// At most 64 of them: as many as there may be services.
fn labels(entry: &Entry) -> [(&'static str, String); 2] {
    [("service", entry.spec.service.to_string()), ("port", entry.spec.port.to_string())]
}

fn machine(shared: &Shared, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let samples = Arc::clone(&shared.samples.borrow());
    let machine = samples.machine;
    let cpu = f64::from(machine.cpu_percent) / 100.0;
    gauge(encoder, "agent_machine_cpu_ratio", "busy share of all cores", cpu)?;
    let used = number(machine.memory_used_bytes);
    gauge(encoder, "agent_machine_memory_used_bytes", "memory in use, without caches", used)?;
    let total = number(machine.memory_total_bytes);
    gauge(encoder, "agent_machine_memory_total_bytes", "memory of the machine", total)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_number_survives_as_a_gauge() {
        for value in [0, 1, 1 << 31, (1 << 53) - 1, 1_700_000_000] {
            assert_eq!(super::number(value).to_string(), value.to_string());
        }
    }
}
