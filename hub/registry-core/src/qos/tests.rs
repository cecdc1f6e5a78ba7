//! Samples on virtual time.

mod months;
mod sight;

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
