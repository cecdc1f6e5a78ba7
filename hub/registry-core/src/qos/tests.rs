use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::workload::{WorkloadState, WorkloadStatus};
use blueprint_common_types::{
    AgentId, Health, MachineSample, OverlayLease, ServiceKey, ServiceSample, TargetKey, Timestamp,
    TunnelSample, WgPublicKey,
};
use proptest::prelude::*;

use super::*;
use crate::workload::{WorkloadRecord, WorkloadsView};
use crate::{Agent, MAX_CLOCK_SKEW, OfferedTarget, Registry, ServiceGrant};

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };
const SECOND: Duration = Duration::from_secs(1);
/// 2026-10-31T23:59:30Z.
const NOW: Timestamp = Timestamp::from_millis(1_793_491_170_000);

fn agent() -> AgentId {
    AgentId::from_bytes([1; 16])
}

fn mark(at: u64, cpu: u32) -> Mark {
    Mark { at: Timestamp::from_millis(at), cpu, memory: 100, is_healthy: Some(true), ..Mark::default() }
}

#[test]
fn a_sample_counts_once_and_late_ones_come_into_their_own_minute() {
    let mut row = Row::default();
    assert!(row.take(&mark(61_000, 500)) && row.take(&mark(59_999, 1500)));
    assert!(!row.take(&mark(61_999, 9999)), "its second is counted");
    assert_eq!((row.samples, row.cpu_sum, row.cpu_most, row.mean(row.cpu_sum)), (2, 2000, 1500, 1000));
    assert_eq!(row.last.at.as_millis(), 61_000, "the newest, not the last that came");
    assert_eq!((row.healthy, row.unhealthy), (2, 0));
}

#[test]
fn a_row_has_no_more_seen_time_than_it_is_long() {
    let mut row = Row::default();
    assert_eq!(row.see(Seen { up: 50_000, down: 0 }, Step::Minute), Seen { up: 50_000, down: 0 });
    // A clock that was set back passes the same minute again.
    assert_eq!(row.see(Seen { up: 30_000, down: 5_000 }, Step::Minute), Seen { up: 5_000, down: 5_000 });
    assert_eq!(row.see(Seen { up: 1, down: 1 }, Step::Minute), Seen::default());
    assert_eq!(row.seen.both(), 60_000);
}

#[test]
fn shares_survive_hundredths_and_nonsense_is_zero() {
    for (share, wanted) in [(0.0, 0), (12.34, 1234), (99.999, 10_000), (250.5, 25_050)] {
        assert_eq!(hundredths(share), wanted, "{share}");
    }
    for nonsense in [f32::NAN, -1.0, f32::NEG_INFINITY] {
        assert_eq!(hundredths(nonsense), 0);
    }
    assert!(hundredths(f32::INFINITY) <= 10_000_000);
    assert!((percent(1234) - 12.34).abs() < 0.001);
}

fn samples() -> (MachineSample, TunnelSample, Vec<ServiceSample>) {
    let service = ServiceSample {
        service: SERVICE,
        port: 80,
        health: Health::Healthy,
        pid: None,
        cpu_percent: 1.0,
        memory_bytes: u64::MAX,
        check_micros: 1,
        whole: None,
    };
    (MachineSample::default(), TunnelSample::default(), vec![service; 3])
}

#[test]
fn a_book_takes_late_samples_and_says_why_it_takes_others_not() {
    let mut book = Book::new();
    let (machine, tunnel, services) = samples();
    let day = Duration::from_secs(86_400);
    let mut note = |at| book.note(agent(), at, (&machine, &tunnel, &services), (day, false), NOW);
    assert_eq!(note(NOW), Ok(()));
    assert_eq!(note(Timestamp::from_millis(NOW.as_millis() - 86_400_000)), Ok(()));
    assert_eq!(note(Timestamp::from_millis(NOW.as_millis() - 86_400_001)), Err(LeftOut::TooOld));
    assert_eq!(note(NOW.plus(MAX_CLOCK_SKEW)), Ok(()));
    assert_eq!(note(NOW.plus(MAX_CLOCK_SKEW + SECOND)), Err(LeftOut::FromTheFuture));
    let batch = book.take();
    assert_eq!(batch.marks.len(), 12);
    assert!(batch.marks.iter().all(|(_, mark)| mark.memory <= 1 << 50), "an hour of them can be added up");
    assert!(book.take().is_empty());
}

#[test]
fn a_book_that_cannot_be_stored_has_a_bound_and_keeps_the_newest() {
    let mut book = Book::new();
    let (machine, tunnel, _) = samples();
    let mut full = 0;
    for second in 0..=u64::try_from(MAX_MARKS).unwrap() {
        let at = NOW.plus(Duration::from_millis(second));
        full += u32::from(book.note(agent(), at, (&machine, &tunnel, &[]), (SECOND, false), at).is_err());
    }
    assert_eq!(full, 1);
    let batch = book.take();
    assert_eq!(batch.marks.len(), MAX_MARKS);
    assert_eq!(batch.marks.front().unwrap().1.at, NOW.plus(Duration::from_millis(1)));
    assert_eq!(book.put_back(batch), Ok(()));
}

#[test]
fn seen_time_is_split_at_the_minutes_it_passed() {
    let mut book = Book::new();
    let subject = Subject::Service(SERVICE);
    let end = Timestamp::from_millis(NOW.as_millis() + 31_000);
    book.see(subject, true, Duration::from_secs(92), end).unwrap();
    book.see(subject, false, Duration::from_millis(500), NOW).unwrap();
    let seen: Vec<_> = book.take().seen.into_values().map(|seen| (seen.up, seen.down)).collect();
    assert_eq!(seen, [(31_000, 0), (60_000, 500), (1_000, 0)]);
}

fn registry() -> Registry {
    let mut registry = Registry::restore(
        Vec::new(),
        Vec::new(),
        std::collections::BTreeMap::new(),
        1,
        NOW,
        Duration::from_secs(3),
    );
    registry.add_agent(Agent {
        id: agent(),
        name: "one".to_owned(),
        wireguard_key: WgPublicKey::from_bytes([1; 32]),
        lease: OverlayLease { v4: [10, 88, 0, 2].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, 2].into() },
        joined_at: NOW,
        generation: 1,
        token: "0000000000000000".parse().unwrap(),
        services: ServiceGrant::FirstClaim,
        agent_version: String::new(),
    });
    registry
}

/// Looks once a second for so many seconds; gives what was seen of the service, up and down, in seconds.
struct Watch {
    sight: Sight,
    workloads: WorkloadsView,
    now: Timestamp,
}

impl Watch {
    fn new(patience: Duration) -> Self {
        Self { sight: Sight::new(patience), workloads: WorkloadsView::default(), now: NOW }
    }

    fn look(&mut self, registry: &mut Registry, seconds: u64) -> (u64, u64) {
        let mut book = Book::new();
        for _ in 0..seconds {
            self.now = self.now.plus(SECOND);
            let snapshot = registry.snapshot();
            self.sight.look(&snapshot, &self.workloads, SECOND, self.now, &mut book).unwrap();
        }
        let mut all = Seen::default();
        for ((subject, _), seen) in book.take().seen {
            if subject == Subject::Service(SERVICE) {
                all.add(seen);
            }
        }
        (all.up / 1000, all.down / 1000)
    }
}

fn offer(registry: &mut Registry, health: Health, now: Timestamp) {
    let target = OfferedTarget { service: SERVICE, port: 80, health, reason: String::new(), generation: 0 };
    registry.set_targets(agent(), vec![target], now);
}

#[test]
fn what_vanishes_is_down_and_what_is_taken_back_is_gone() {
    let mut registry = registry();
    let mut watch = Watch::new(Duration::ZERO);
    watch.look(&mut registry, 1);
    registry.set_connected(agent(), true, NOW);
    registry.set_data_plane(agent(), true);
    offer(&mut registry, Health::Unknown, NOW);
    assert_eq!(watch.look(&mut registry, 5), (0, 0), "not checked yet");
    offer(&mut registry, Health::Healthy, NOW);
    assert_eq!(watch.look(&mut registry, 10), (10, 0));
    offer(&mut registry, Health::Unhealthy, NOW);
    assert_eq!(watch.look(&mut registry, 10), (0, 10));
    offer(&mut registry, Health::Healthy, NOW);
    registry.set_data_plane(agent(), false);
    assert_eq!(watch.look(&mut registry, 10), (0, 10), "nobody can reach it");
    registry.set_connected(agent(), false, NOW);
    registry.handle_timeout(NOW.plus(Duration::from_secs(60)));
    assert!(registry.snapshot().by_service.is_empty());
    assert_eq!(watch.look(&mut registry, 10), (0, 10), "its machine vanished");
    registry.set_connected(agent(), true, NOW);
    registry.set_data_plane(agent(), true);
    assert_eq!(watch.look(&mut registry, 10), (0, 0), "its machine is there, and offers it no more");
}

fn workload(document: &str) -> WorkloadsView {
    let record = WorkloadRecord {
        service: SERVICE,
        generation: 1,
        document: document.to_owned(),
        nodes: BTreeSet::new(),
        node: Some(agent()),
        keystore: None,
        changed_at: NOW,
        version: 1,
        slot: 0,
    };
    let status = WorkloadStatus::new(SERVICE, 1, WorkloadState::Running, NOW);
    WorkloadsView {
        records: [(SERVICE, Arc::new(record))].into(),
        statuses: [(SERVICE, status)].into(),
        ..WorkloadsView::default()
    }
}

#[test]
fn a_workload_that_ran_is_down_once_its_machine_vanished_or_its_port_is_gone() {
    let mut registry = registry();
    registry.set_connected(agent(), true, NOW);
    registry.set_data_plane(agent(), true);
    let mut watch = Watch::new(Duration::ZERO);
    watch.workloads = workload("one");
    watch.look(&mut registry, 1);
    assert_eq!(watch.look(&mut registry, 5), (5, 0), "it has no port, and runs");
    registry.set_data_plane(agent(), false);
    assert_eq!(watch.look(&mut registry, 5), (0, 5));
    registry.set_connected(agent(), false, NOW);
    assert_eq!(watch.look(&mut registry, 5), (0, 5), "what it said last counts no more");
    registry.set_connected(agent(), true, NOW);
    registry.set_data_plane(agent(), true);
    offer(&mut registry, Health::Healthy, NOW);
    assert_eq!(watch.look(&mut registry, 5), (5, 0));
    registry.set_targets(agent(), Vec::new(), NOW);
    assert_eq!(watch.look(&mut registry, 5), (0, 5), "its process runs, and its port is gone");
    watch.workloads = workload("a version without a port");
    assert_eq!(watch.look(&mut registry, 5), (5, 0));
}

#[test]
fn an_agent_offers_what_it_does_and_not_what_another_might() {
    let mut registry = registry();
    let target = |port, agent| TargetKey { service: SERVICE, agent, port };
    assert!(!registry.offers(target(80, agent())));
    offer(&mut registry, Health::Healthy, NOW);
    assert!(registry.offers(target(80, agent())));
    assert!(!registry.offers(target(81, agent())));
    assert!(!registry.offers(target(80, AgentId::from_bytes([2; 16]))));
    registry.set_targets(agent(), Vec::new(), NOW);
    assert!(!registry.offers(target(80, agent())));
}

#[test]
fn an_outage_goes_on_over_a_restart_of_the_hub() {
    let mut registry = registry();
    let mut watch = Watch::new(Duration::from_secs(30));
    watch.sight.remember([(SERVICE, agent())].into());
    assert_eq!(watch.look(&mut registry, 29), (0, 0), "it has time to come back");
    assert_eq!(watch.look(&mut registry, 10), (0, 10));
    registry.set_connected(agent(), true, NOW);
    registry.set_data_plane(agent(), true);
    assert_eq!(watch.look(&mut registry, 10), (0, 0), "its machine is back, and offers it no more");
}

#[test]
fn a_clock_that_is_ahead_or_was_set_deletes_nothing() {
    let hour = |hours: u32| Duration::from_secs(3600) * hours;
    let mut good = ClockWatch::new(Some(NOW), NOW.plus(hour(1)));
    assert_eq!(good.may_forget(NOW.plus(hour(2)), hour(1)), Ok(()));
    assert_eq!(good.may_forget(NOW.plus(hour(9000)), hour(2)), Err(ClockDoubt::Stepped));
    assert_eq!(good.may_forget(NOW.plus(hour(9001)), hour(3)), Err(ClockDoubt::Ahead));
    assert_eq!(good.may_forget(NOW.plus(hour(4)), hour(4)), Err(ClockDoubt::Stepped), "it is set back");
    assert_eq!(good.may_forget(NOW.plus(hour(5)), hour(5)), Ok(()));
    let mut ahead = ClockWatch::new(Some(NOW), NOW.plus(hour(1000)));
    assert_eq!(ahead.may_forget(NOW.plus(hour(1023)), hour(23)), Err(ClockDoubt::Ahead));
    assert_eq!(ahead.may_forget(NOW.plus(hour(1024)), hour(24)), Ok(()), "the hub was off so long");
    assert_eq!(ClockWatch::new(None, NOW).may_forget(NOW, Duration::ZERO), Ok(()));
}

#[test]
fn after_a_start_machines_have_time_to_come_back_and_a_stopped_hub_saw_nothing() {
    let mut registry = registry();
    registry.set_connected(agent(), true, NOW);
    offer(&mut registry, Health::Healthy, NOW);
    let mut watch = Watch::new(Duration::from_secs(30));
    assert_eq!(watch.look(&mut registry, 20), (0, 0), "its tunnel is not back yet");
    assert_eq!(watch.look(&mut registry, 20), (0, 11), "and now it should be");
    registry.set_data_plane(agent(), true);
    assert_eq!(watch.look(&mut registry, 5), (5, 0));
    let (mut book, snapshot) = (Book::new(), registry.snapshot());
    let later = watch.now.plus(Duration::from_secs(3600));
    let hour = Duration::from_secs(3600);
    watch.sight.look(&snapshot, &WorkloadsView::default(), hour, later, &mut book).unwrap();
    assert!(book.take().is_empty(), "the hub did not run, or was stopped");
}

#[test]
fn months_have_their_lengths_leap_years_too_and_their_borders() {
    let days = |text: &str| text.parse::<Month>().unwrap().days().count();
    let lengths = [
        ("2026-10", 31),
        ("2026-11", 30),
        ("2027-02", 28),
        ("2028-02", 29),
        ("2000-02", 29),
        ("2100-02", 28),
    ];
    for (text, length) in lengths {
        assert_eq!(days(text), length, "{text}");
    }
    for (text, start) in [
        ("1970-01", "1970-01-01T00:00:00Z"),
        ("2028-03", "2028-03-01T00:00:00Z"),
        ("2027-01", "2027-01-01T00:00:00Z"),
    ] {
        let month: Month = text.parse().unwrap();
        assert_eq!((month.start().to_string(), month.to_string()), (start.to_owned(), text.to_owned()));
        assert_eq!(Month::of(month.start()), month);
        let last = Timestamp::from_millis(month.end().as_millis() - 1);
        assert_eq!(Month::of(last), month);
        assert_ne!(Month::of(month.end()), month);
    }
    assert_eq!(Month::of(Timestamp::from_millis(u64::MAX)).to_string(), "9999-12");
    for bad in ["", "2026", "2026-13", "2026-00", "2026-1", "1969-12", "26-01", "2026-10-01", "+026-10"] {
        assert!(bad.parse::<Month>().is_err(), "{bad}");
    }
}

#[test]
fn an_objective_is_percent_with_three_decimals_and_its_budget_is_exact() {
    for (text, shown) in
        [("99.9", "99.9"), ("100", "100"), ("99.995", "99.995"), ("0.001", "0.001"), ("99.90", "99.9")]
    {
        assert_eq!(text.parse::<Objective>().unwrap().to_string(), shown);
    }
    for bad in ["0", "100.001", "99.9999", "-1", "99,9", "", ".", "1e1", "99.", "+99"] {
        assert!(bad.parse::<Objective>().is_err(), "{bad}");
    }
    let month = 30 * 86_400_000;
    let budget = Objective::default().budget(month, 1_000_000);
    assert_eq!((budget.allowed_ms, budget.left_ms), (2_592_000, 1_592_000), "43 min 12 s");
    assert_eq!(Objective::default().budget(month, month).left_ms, 0);
}

#[test]
fn a_report_counts_the_hours_of_its_month_and_unknown_is_neither_up_nor_down() {
    let month: Month = "2026-10".parse().unwrap();
    let hour = 3_600_000;
    let start = month.start().as_millis();
    let mut rows = QosRows::new();
    let mut add = |at: u64, up: u64, down: u64| {
        let row = Row { seen: Seen { up, down }, ..Row::default() };
        rows.insert((Timestamp::from_millis(at), Subject::Service(SERVICE)), row);
    };
    add(start, hour - 36_000, 36_000);
    add(month.end().as_millis() - hour, hour, 0);
    add(month.end().as_millis(), 0, hour);
    let report = Report::new(
        "hub",
        (ReportOf::Service(SERVICE), month),
        (&rows, Some(Timestamp::from_millis(start - hour))),
        Objective::default(),
        NOW.plus(Duration::from_secs(60)),
    );
    assert_eq!(
        (report.total.up_ms, report.total.down_ms),
        (2 * hour - 36_000, 36_000),
        "November is another month"
    );
    assert_eq!(report.total.span_ms, 31 * 24 * hour);
    assert_eq!(report.total.unknown_ms, (31 * 24 - 2) * hour);
    assert_eq!(report.total.availability, Some(99_500), "of what was seen");
    assert_eq!((report.verdict, report.is_whole), (Verdict::Missed, true));
    assert_eq!(report.days.len(), 31);
    assert_eq!(report.days[0].line.down_ms, 36_000);
    assert_eq!(report.days[1].line.availability, None);
    assert!(report.text().contains("99.500 %") && report.csv().lines().count() == 33);
    let json = format!("{}\"end\": 1}}", report.json().unwrap());
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
}

#[test]
fn what_agents_measured_while_the_hub_was_away_is_neither_unknown_nor_simply_up() {
    let mut minute = Row::default();
    minute.see(Seen { up: 15_000, down: 5_000 }, Step::Minute);
    minute.measure(0, 0);
    assert_eq!(minute.late, Seen::default(), "nothing was checked");
    // Three of four checks were good: of the 40 s that nobody saw, 30 were up, and of the 5 s that were down, 3.75 could not be reached.
    let mut hour = Row::default();
    hour.remeasure(minute.measure(3, 4), &minute);
    assert_eq!((minute.late, minute.unreached), (Seen { up: 30_000, down: 10_000 }, 3_750));
    // The same again, with one sample more, counts once in the hour.
    hour.remeasure(minute.measure(3, 5), &minute);
    assert_eq!((hour.late, hour.unreached), (Seen { up: 24_000, down: 16_000 }, 3_000));
    // What the hub saw itself counts before that.
    minute.see(Seen { up: 30_000, down: 0 }, Step::Minute);
    hour.remeasure(minute.yield_to_seen(), &minute);
    assert_eq!((minute.late, hour.late), (Seen { up: 0, down: 10_000 }, Seen { up: 0, down: 10_000 }));

    let month: Month = "2026-10".parse().unwrap();
    let hour_ms = 3_600_000;
    let (seen, late) = (Seen { up: 600_000, down: 600_000 }, Seen { up: 1_800_000, down: 300_000 });
    let row = Row { seen, late, unreached: 400_000, ..Row::default() };
    let of = |subject, of| {
        let rows = QosRows::from([((month.start(), subject), row)]);
        let until = Timestamp::from_millis(month.start().as_millis() + hour_ms);
        Report::new("hub", (of, month), (&rows, Some(month.start())), Objective::default(), until)
    };
    let service = of(Subject::Service(SERVICE), ReportOf::Service(SERVICE));
    let total = &service.total;
    assert_eq!((total.late_up_ms, total.late_down_ms, total.unknown_ms), (1_800_000, 300_000, 300_000));
    assert_eq!((total.down_ms, total.unreached_ms), (600_000, 400_000), "nobody reached it: that is down");
    assert_eq!((total.availability, service.budget.used_ms), (Some(72_727), 900_000));
    assert!(service.text().contains("came late") && service.csv().contains("late_up_seconds"));
    // The machine ran while its tunnel was away; the tunnel did not, and nobody measures it but the hub.
    let name = "rack-7".to_owned();
    let node = of(Subject::Node(agent()), ReportOf::Node(agent(), name.clone()));
    assert_eq!((node.total.down_ms, node.total.unreached_ms), (200_000, 400_000));
    assert_eq!(node.total.availability, Some(84_848));
    let tunnel = of(Subject::Node(agent()), ReportOf::Tunnel(agent(), name));
    assert_eq!((tunnel.total.down_ms, tunnel.total.unknown_ms), (600_000, 2_400_000));
    assert_eq!(tunnel.total.availability, Some(50_000));
    assert!(tunnel.csv().starts_with("span,tunnel,") && node.text().contains("node          rack-7"));
}

#[test]
fn a_month_that_is_not_over_ends_now_and_begins_with_the_service() {
    let month = Month::of(NOW);
    let begins = Timestamp::from_millis(NOW.as_millis() - 7_200_000);
    let report = Report::new(
        "hub",
        (ReportOf::Service(SERVICE), month),
        (&QosRows::new(), Some(begins)),
        Objective::default(),
        NOW,
    );
    assert_eq!((report.total.span_ms, report.is_whole), (7_200_000, false));
    assert_eq!((report.verdict, report.days.len()), (Verdict::NotSeen, 1));
}

#[test]
fn a_page_becomes_names_and_values_and_hostile_ones_have_bounds() {
    let page = "# HELP up Up\n# TYPE up gauge\nup 1\nrequests_total{code=\"200\",path=\"/a }b\\\"\"} 12 1700000000000\n\
                latency_bucket{le=\"0.5\"} 3 # {trace=\"x\"} 0.4\nnot a line\nbad{open 1\nnan NaN\n{x} 1\n# EOF\n";
    let found = entries(page);
    let names: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        names,
        [
            ("latency_bucket{le=\"0.5\"}", "3"),
            ("nan", "NaN"),
            ("requests_total{code=\"200\",path=\"/a }b\\\"\"}", "12"),
            ("up", "1"),
        ]
    );
    let many: String = (0..100_000).map(|number| format!("metric_{number} 1\n")).collect();
    assert_eq!(entries(&many).len(), MAX_ENTRIES);
}

proptest! {
    #[test]
    fn thinning_keeps_order_ends_and_bounds(count in 0usize..500, most in 1usize..600) {
        let thinned = thin((0..count).collect(), most);
        prop_assert_eq!(thinned.len(), count.min(most));
        prop_assert!(thinned.is_sorted() && thinned.iter().collect::<BTreeSet<_>>().len() == thinned.len());
        prop_assert_eq!(thinned.last().copied(), count.checked_sub(1));
        if most > 1 {
            prop_assert_eq!(thinned.first().copied(), (count > 0).then_some(0));
        }
        let gaps: Vec<_> = thinned.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let spread = gaps.iter().max().unwrap_or(&0) - gaps.iter().min().unwrap_or(&0);
        prop_assert!(spread <= 1, "{:?}", gaps);
    }

    #[test]
    fn no_page_panics(page in "\\PC*") {
        prop_assert!(entries(&page).len() <= MAX_ENTRIES);
    }

    #[test]
    fn joined_rows_are_the_row_of_all_their_samples(cpus in proptest::collection::vec(0u32..10_000, 1..60)) {
        let (mut all, mut odd, mut even) = (Row::default(), Row::default(), Row::default());
        for (second, cpu) in (0u64..).zip(&cpus) {
            let mark = mark(second * 1000, *cpu);
            all.take(&mark);
            if second % 2 == 0 { even.take(&mark) } else { odd.take(&mark) };
        }
        even.join(&odd);
        even.taken = all.taken;
        prop_assert_eq!(even, all);
    }
}

#[test]
fn targets_and_machines_are_different_subjects() {
    let key = TargetKey { service: SERVICE, agent: agent(), port: 80 };
    let all = [Subject::Service(SERVICE), Subject::Target(key), Subject::Node(agent())];
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 3);
}
