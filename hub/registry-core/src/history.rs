//! A bounded history of one agent's quality of service.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use blueprint_common_types::{Health, MachineSample, ServiceKey, ServiceSample, Timestamp, TunnelSample};
use serde::Serialize;

/// Points kept per agent: 20 minutes at one sample in 10 s.
pub const HISTORY_POINTS: usize = 120;

/// Service points kept per agent over all points: four services through the whole history.
/// Where there are more, the oldest points lose their services first.
pub const SERVICE_POINTS: usize = 480;

/// Minutes kept of what agents give after the hub was away: a day and an hour, of each minute the last sample.
pub const LATE_MINUTES: usize = 1500;

/// How old a sample may be that an agent gives afterwards.
pub const LATE_AGE: Duration = Duration::from_secs(25 * 3600);

/// How far the clock of an agent may be ahead of the hub's for samples that it gives afterwards.
pub const AHEAD: Duration = Duration::from_secs(300);

/// Why a sample that comes late is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LateRefusal {
    /// By the hub's clock it is from the future by more than [`AHEAD`].
    #[error("it is from the future")]
    Future,
    /// It is older than [`LATE_AGE`].
    #[error("it is too old")]
    Old,
}

impl LateRefusal {
    /// Its name in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Future => "late_from_the_future",
            Self::Old => "late_too_old",
        }
    }
}

/// One report of an agent, whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QosSample {
    /// When the agent took it.
    pub at: Timestamp,
    /// The machine.
    pub machine: MachineSample,
    /// The tunnel.
    pub tunnel: TunnelSample,
    /// Every service it offers.
    pub services: Vec<ServiceSample>,
}

/// What is kept of a report for charts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QosPoint {
    /// When the agent took it.
    pub at: Timestamp,
    /// Busy share of all cores, 0 to 100.
    pub cpu_percent: f32,
    /// Echoes that did not come back, in percent.
    pub loss_percent: f32,
    /// Mean round trip through the tunnel in microseconds; zero where no echo came back.
    pub rtt_micros: u32,
    /// Mean difference of neighbouring round trips in microseconds.
    pub jitter_micros: u32,
    /// Memory in use.
    pub memory_used_bytes: u64,
    /// Used bytes of the file system with the agent's state.
    pub disk_used_bytes: u64,
    /// Bytes received by the machine since its boot.
    pub network_rx_bytes: u64,
    /// Bytes sent by the machine since its boot.
    pub network_tx_bytes: u64,
    /// Bytes received through the tunnel.
    pub tunnel_rx_bytes: u64,
    /// Bytes sent through the tunnel.
    pub tunnel_tx_bytes: u64,
    /// Services, empty for old points of an agent that offers many.
    pub services: Box<[ServicePoint]>,
}

/// One service at one point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ServicePoint {
    /// The service.
    pub service: ServiceKey,
    /// Resident memory of its process.
    pub memory_bytes: u64,
    /// Share of one core.
    pub cpu_percent: f32,
    /// Time of the last health check in microseconds.
    pub check_micros: u32,
    /// Overlay port of the target.
    pub port: u16,
    /// Result of the check.
    pub health: Health,
}

/// Last report and a ring of points; takes memory only as reports come in.
#[derive(Debug, Clone, Default)]
pub struct QosHistory {
    latest: Option<QosSample>,
    points: VecDeque<QosPoint>,
    /// What came late, by minute, without services.
    late: BTreeMap<u64, QosPoint>,
    /// Sum of the lengths of all `services`.
    service_points: usize,
    /// Points at the front whose services were given up or which had none.
    bare: usize,
}

impl QosHistory {
    /// Makes an empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a report. One with the time of the last is a repetition and is left out; an earlier
    /// time is a clock that was set back, and is kept.
    pub fn push(
        &mut self,
        at: Timestamp,
        machine: MachineSample,
        tunnel: TunnelSample,
        mut services: Vec<ServiceSample>,
    ) {
        if self.latest.as_ref().is_some_and(|latest| latest.at == at) {
            return;
        }
        services.truncate(crate::MAX_TARGETS_PER_AGENT);
        services.shrink_to_fit();
        if self.points.len() >= HISTORY_POINTS {
            self.drop_oldest();
        }
        let sample = QosSample { at, machine, tunnel, services };
        self.service_points += sample.services.len();
        self.points.push_back(QosPoint::from(&sample));
        self.latest = Some(sample);
        self.trim_services();
        self.drop_late(at);
    }

    /// Takes a sample that the agent could not send when it took it: of each minute the last one counts, and what comes
    /// again changes nothing. The last report stays what it is.
    ///
    /// # Errors
    ///
    /// [`LateRefusal`], by the hub's clock `now`.
    pub fn push_late(&mut self, sample: &QosSample, now: Timestamp) -> Result<(), LateRefusal> {
        if sample.at.since(now) > AHEAD {
            return Err(LateRefusal::Future);
        }
        if now.since(sample.at) > LATE_AGE {
            return Err(LateRefusal::Old);
        }
        let minute = sample.at.as_millis() / 60_000;
        if self.late.get(&minute).is_none_or(|known| known.at < sample.at) {
            self.late.insert(minute, QosPoint { services: Box::default(), ..QosPoint::from(sample) });
        }
        self.drop_late(now);
        Ok(())
    }

    /// Forgets minutes that are too old or too many.
    fn drop_late(&mut self, now: Timestamp) {
        let is_over = |point: &QosPoint| now.since(point.at) > LATE_AGE;
        while self.late.len() > LATE_MINUTES
            || self.late.first_key_value().is_some_and(|(_, point)| is_over(point))
        {
            self.late.pop_first();
        }
    }

    /// The last report, whole.
    #[must_use]
    pub const fn latest(&self) -> Option<&QosSample> {
        self.latest.as_ref()
    }

    /// How many points there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// True before the first report.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// At most `max_points` points, oldest first, evenly spread and always with the newest. What came late has what the
    /// others leave of that, and is spread apart from them.
    pub fn series(&self, max_points: usize) -> impl Iterator<Item = &QosPoint> {
        let mut points: Vec<&QosPoint> = spread(self.points.iter().collect(), max_points).collect();
        let left = max_points.saturating_sub(points.len());
        if !self.late.is_empty() && left > 0 {
            let live: BTreeSet<Timestamp> = points.iter().map(|point| point.at).collect();
            let late = self.late.values().filter(|point| !live.contains(&point.at)).collect();
            points.extend(spread(late, left));
            points.sort_by_key(|point| point.at);
        }
        points.into_iter()
    }

    fn drop_oldest(&mut self) {
        if let Some(old) = self.points.pop_front() {
            self.service_points -= old.services.len();
            self.bare = self.bare.saturating_sub(1);
        }
    }

    fn trim_services(&mut self) {
        while self.service_points > SERVICE_POINTS {
            let Some(point) = self.points.get_mut(self.bare) else { return };
            self.service_points -= point.services.len();
            point.services = Box::default();
            self.bare += 1;
        }
    }
}

/// At most `most` of these, evenly spread and always with the last.
fn spread(points: Vec<&QosPoint>, most: usize) -> impl Iterator<Item = &QosPoint> {
    let step = points.len().div_ceil(most.max(1)).max(1);
    let skip = points.len().saturating_sub(1) % step;
    points.into_iter().skip(skip).step_by(step).take(most)
}

impl From<&QosSample> for QosPoint {
    fn from(sample: &QosSample) -> Self {
        let QosSample { at, machine, tunnel, services } = sample;
        Self {
            at: *at,
            cpu_percent: machine.cpu_percent,
            loss_percent: tunnel.loss_percent,
            rtt_micros: tunnel.rtt_micros,
            jitter_micros: tunnel.jitter_micros,
            memory_used_bytes: machine.memory_used_bytes,
            disk_used_bytes: machine.disk_used_bytes,
            network_rx_bytes: machine.network_rx_bytes,
            network_tx_bytes: machine.network_tx_bytes,
            tunnel_rx_bytes: tunnel.rx_bytes,
            tunnel_tx_bytes: tunnel.tx_bytes,
            services: services.iter().map(ServicePoint::from).collect(),
        }
    }
}

impl From<&ServiceSample> for ServicePoint {
    fn from(sample: &ServiceSample) -> Self {
        Self {
            service: sample.service,
            memory_bytes: sample.memory_bytes,
            cpu_percent: sample.cpu_percent,
            check_micros: sample.check_micros,
            port: sample.port,
            health: sample.health,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: u16) -> ServiceSample {
        ServiceSample {
            service: ServiceKey { blueprint: 1, service: 1 },
            port,
            health: Health::Healthy,
            pid: None,
            cpu_percent: 1.0,
            memory_bytes: 1,
            check_micros: 1,
            whole: None,
        }
    }

    fn filled(reports: u64, services: u16) -> QosHistory {
        let mut history = QosHistory::new();
        for at in 1..=reports {
            let services = (1..=services).map(service).collect();
            let machine = MachineSample::default();
            history.push(Timestamp::from_millis(at), machine, TunnelSample::default(), services);
        }
        history
    }

    #[test]
    fn the_ring_keeps_the_newest_points() {
        let history = filled(500, 1);
        let times: Vec<_> = history.series(1000).map(|point| point.at.as_millis()).collect();
        assert_eq!(times, (381..=500).collect::<Vec<_>>());
        assert_eq!(history.latest().unwrap().at.as_millis(), 500);
        assert_eq!(history.service_points, HISTORY_POINTS);
    }

    #[test]
    fn a_series_is_thinned_and_ends_with_the_newest() {
        let history = filled(100, 0);
        for max in [1, 2, 3, 7, 99, 100, 101] {
            let times: Vec<_> = history.series(max).map(|point| point.at.as_millis()).collect();
            assert!(times.len() <= max && !times.is_empty(), "{max}");
            assert_eq!(times.last(), Some(&100), "{max}");
        }
        assert_eq!(history.series(0).count(), 0);
        assert_eq!(QosHistory::new().series(5).count(), 0);
    }

    #[test]
    fn many_services_cost_old_detail_and_not_memory() {
        let history = filled(300, 64);
        assert!(history.service_points <= SERVICE_POINTS);
        let kept = history.series(1000).filter(|point| !point.services.is_empty()).count();
        assert_eq!(kept, SERVICE_POINTS / 64);
        assert_eq!(history.series(1000).last().unwrap().services.len(), 64);
        assert_eq!(history.len(), HISTORY_POINTS);
    }

    fn late(at: Timestamp) -> QosSample {
        let (machine, tunnel) = (MachineSample::default(), TunnelSample::default());
        QosSample { at, machine, tunnel, services: vec![service(1)] }
    }

    #[test]
    fn what_comes_late_closes_the_gap_whatever_its_order_and_how_often_it_comes() {
        let now = Timestamp::from_millis(1_000_000_000);
        let minutes_ago = |minutes: u64| Timestamp::from_millis(now.as_millis() - minutes * 60_000);
        let mut history = QosHistory::new();
        history.push(now, MachineSample::default(), TunnelSample::default(), Vec::new());
        for minutes in (1..=60).chain((1..=60).rev()) {
            history.push_late(&late(minutes_ago(minutes)), now).unwrap();
        }
        history.push_late(&late(now), now).unwrap();
        let times: Vec<_> = history.series(1000).map(|point| point.at).collect();
        assert_eq!(times.len(), 61);
        assert!(times.is_sorted() && times.windows(2).all(|pair| pair[1].since(pair[0]).as_secs() == 60));
        assert_eq!(history.latest().unwrap().at, now, "what is new stays what is shown");
        // Of few points none is taken from what came in time.
        let few: Vec<_> = history.series(4).map(|point| point.at).collect();
        assert_eq!((few.len(), few.last()), (4, Some(&now)));
        assert_eq!(history.series(1).map(|point| point.at).collect::<Vec<_>>(), [now]);
        // A day later nothing of it is left.
        let later = now.plus(LATE_AGE).plus(Duration::from_secs(1));
        history.push(later, MachineSample::default(), TunnelSample::default(), Vec::new());
        assert_eq!(history.series(1000).count(), 2);
    }

    #[test]
    fn what_comes_from_the_future_or_too_late_is_refused_and_the_rest_is_bounded() {
        let now = Timestamp::from_millis(1_000_000_000);
        let mut history = QosHistory::new();
        let ahead = now.plus(AHEAD);
        assert_eq!(history.push_late(&late(ahead), now), Ok(()));
        let too_far = ahead.plus(Duration::from_millis(1));
        assert_eq!(history.push_late(&late(too_far), now), Err(LateRefusal::Future));
        let oldest = Timestamp::from_millis(now.as_millis() - 25 * 3_600_000);
        assert_eq!(history.push_late(&late(oldest), now), Ok(()));
        let older = Timestamp::from_millis(oldest.as_millis() - 1);
        assert_eq!(history.push_late(&late(older), now), Err(LateRefusal::Old));
        for second in 0..200_000u64 {
            let at = Timestamp::from_millis(now.as_millis() + second * 1000);
            history.push_late(&late(at), at).unwrap();
        }
        assert_eq!(history.series(usize::MAX).count(), LATE_MINUTES);
    }

    #[test]
    fn a_repeated_report_counts_once() {
        let mut history = filled(3, 1);
        let machine = MachineSample::default();
        history.push(Timestamp::from_millis(3), machine, TunnelSample::default(), Vec::new());
        assert_eq!(history.len(), 3);
    }
}
