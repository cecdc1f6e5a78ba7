//! Alerts by a meter that is made up.

use std::time::Duration;

use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::InstanceKey;
use crate::catalogue::Day;
use crate::cost::egress::{Egress, EgressPrice};
use crate::cost::{Limits, Span};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: u64 = 86_400_000;
/// 2026-11-30T14:00:00Z, ten hours before day and month end.
const NOW: Timestamp = Timestamp::from_millis(1_796_047_200_000);
const LIMITS: Limits = Limits {
    max_machines: None,
    max_hourly: None,
    max_monthly: None,
    max_order_hourly: None,
    counts_sim: true,
};

fn id(number: u8) -> DeploymentId {
    DeploymentId::from_bytes([number; 10])
}

fn before(hours: u64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() - hours * 3_600_000)
}

/// A cent an hour, billed by the second.
fn span(deployment: u8, provider: &str, hours_ago: u64, hours: Option<u32>) -> Span {
    let from = before(hours_ago);
    Span {
        key: InstanceKey::of(&id(deployment), 1),
        deployment: id(deployment),
        provider: provider.to_owned(),
        from,
        until: hours.map(|hours| from.plus(HOUR * hours)),
        is_off: false,
        hourly: Micros::new(10_000),
    }
}

fn alert(period: Period, cents: u64, action: AlertAction) -> Alert {
    Alert {
        name: "team".to_owned(),
        terms: AlertTerms {
            scope: Scope::All,
            period,
            amount: Micros::new(cents * 10_000),
            thresholds: THRESHOLDS.into(),
            action,
            anomaly: None,
            webhook: None,
        },
        edition: 1,
        released: None,
        created_at: NOW,
        changed_at: NOW,
    }
}

fn bill(spans: &[Span]) -> Bill<'_> {
    Bill { spans, egress: &[], limits: &LIMITS, now: NOW, last: None }
}

fn told(alert: &Alert, bill: &Bill<'_>) -> Vec<(u16, String)> {
    let due = alert.due(bill, &BTreeSet::new());
    due.into_iter().map(|finding| (finding.mark.threshold, finding.text)).collect()
}

#[test]
fn thresholds_are_told_from_their_amount_on_and_once_a_period() {
    let spans = [span(1, "aws", 4, None)];
    assert_eq!(told(&alert(Period::Day, 9, AlertAction::Notify), &bill(&spans)), []);
    let half = told(&alert(Period::Day, 8, AlertAction::Notify), &bill(&spans));
    let text = "alert team: 50 % of $0.08 is spent (all, 2026-11-30): $0.04; at this rate $0.14 at the end";
    assert_eq!(half, [(50, text.to_owned())]);
    let all = alert(Period::Month, 4, AlertAction::Hold);
    let found = all.due(&bill(&spans), &BTreeSet::new());
    assert_eq!(found.iter().map(|it| it.mark.threshold).collect::<Vec<_>>(), [50, 80, 100]);
    assert!(found.last().unwrap().text.ends_with("nothing more is ordered"));
    let marks: BTreeSet<Mark> = found.into_iter().map(|it| it.mark).collect();
    assert_eq!(all.due(&bill(&spans), &marks), [], "once");
    let tomorrow = Bill { now: NOW.plus(HOUR * 24), ..bill(&spans) };
    assert_eq!(all.due(&tomorrow, &marks).len(), 3, "it is another month");
}

#[test]
fn what_held_when_time_was_believed_last_is_held_until_it_is_believed_again() {
    let spans = [span(1, "aws", 4, Some(4))];
    let year = HOUR * 24 * 365;
    let bill = |last| Bill { now: NOW.plus(year), last, ..bill(&spans) };
    let mut hold = alert(Period::Month, 4, AlertAction::Hold);
    assert!(!hold.standing(&bill(None)).is_in_force);
    let standing = hold.standing(&bill(Some(NOW)));
    assert_eq!((standing.is_in_force, standing.period.as_str()), (true, "2026-11"));
    assert!(held(std::slice::from_ref(&hold), &bill(Some(NOW)), &id(1), "aws").is_some());
    hold.released = Some(standing.period);
    assert!(!hold.standing(&bill(Some(NOW))).is_in_force);
    assert_eq!(last_believed(Some(NOW), NOW.plus(year)), Some(NOW));
    assert_eq!(last_believed(Some(NOW.plus(year)), NOW), Some(NOW.plus(year)));
    assert_eq!([last_believed(Some(NOW), NOW.plus(HOUR / 60)), last_believed(None, NOW)], [None, None]);
}

#[test]
fn what_follows_the_host_of_a_webhook_is_not_shown() {
    assert_eq!(Hook::shortened("https://hooks.example/T0/secret"), "https://hooks.example/...");
    assert_eq!(Hook::shortened("https://hooks.example:8443?key=secret"), "https://hooks.example:8443/...");
    assert_eq!(Hook::shortened("http://127.0.0.1:80"), "http://127.0.0.1:80");
}

#[test]
fn scopes_and_periods_count_what_is_theirs() {
    let spans = [
        span(1, "aws", 30, None),
        span(2, "vultr", 5, None),
        span(3, "sim", 5, None),
        span(4, "aws", 60, Some(1)),
    ];
    let spent = |scope: Scope, period| {
        let base = alert(period, 1, AlertAction::Notify);
        let one = Alert { terms: AlertTerms { scope, ..base.terms.clone() }, ..base };
        one.standing(&Bill { limits: &Limits { counts_sim: false, ..LIMITS }, ..bill(&spans) }).spent.get()
            / 10_000
    };
    assert_eq!([Period::Day, Period::Month].map(|period| spent(Scope::All, period)), [14 + 5, 30 + 5 + 1]);
    assert_eq!(spent(Scope::Provider("aws".to_owned()), Period::Month), 31);
    assert_eq!(spent(Scope::Provider("sim".to_owned()), Period::Month), 0, "play money");
    assert_eq!(spent(Scope::Deployment(id(4)), Period::Total), 1);
    assert_eq!(spent(Scope::Deployment(id(4)), Period::Day), 0);
    let first = Bill { now: NOW.plus(HOUR * 10), ..bill(&spans) };
    assert_eq!(alert(Period::Month, 1, AlertAction::Notify).standing(&first).spent, Micros::ZERO);
}

#[test]
fn sending_counts_beyond_what_is_included() {
    let price = EgressPrice { gb: Micros::new(90_000), included_gb: 1 };
    let sent = |number, price| Egress {
        key: InstanceKey::of(&id(1), number),
        deployment: id(1),
        provider: "aws".to_owned(),
        day: Day::from(NOW),
        bytes: 3_000_000_000,
        price,
    };
    let egress = [sent(1, Some(price)), sent(2, None)];
    let bill = Bill { egress: &egress, ..bill(&[]) };
    assert_eq!(alert(Period::Day, 1, AlertAction::Notify).standing(&bill).spent.get(), 180_000);
}

#[test]
fn an_action_is_in_force_from_the_amount_to_the_end_of_the_period_unless_it_is_called_off() {
    let spans = [span(1, "aws", 4, None)];
    let hold = |cents| alert(Period::Day, cents, AlertAction::Hold);
    let by = |alerts: &[Alert], now| held(alerts, &Bill { now, ..bill(&spans) }, &id(9), "vultr");
    assert_eq!(by(&[hold(5)], NOW), None);
    assert_eq!(by(&[alert(Period::Day, 1, AlertAction::Notify)], NOW), None);
    let refused = by(&[hold(5), hold(4)], NOW).unwrap();
    let text = "alert team holds orders of all: $0.04 of $0.04 was spent (2026-11-30)";
    assert_eq!(refused.to_string(), text);
    assert!(by(&[alert(Period::Day, 4, AlertAction::Terminate)], NOW).is_some());
    let released = Alert { released: Some("2026-11-30".to_owned()), ..hold(4) };
    assert_eq!(by(std::slice::from_ref(&released), NOW), None);
    assert!(by(&[released], NOW.plus(HOUR * 24)).is_some(), "the next day is another");
    let base = hold(4);
    let aws = Alert {
        terms: AlertTerms { scope: Scope::Provider("aws".to_owned()), ..base.terms.clone() },
        ..base
    };
    assert_eq!(by(std::slice::from_ref(&aws), NOW), None, "it is for another provider");
    assert!(held(&[aws], &bill(&spans), &id(9), "aws").is_some());
    let free = Bill { limits: &Limits { counts_sim: false, ..LIMITS }, ..bill(&spans) };
    assert_eq!(held(&[hold(4)], &free, &id(9), "sim"), None, "play money is not held");
}

#[test]
fn a_day_is_unusual_where_it_costs_many_times_the_usual_and_more_than_the_floor() {
    let watch = |times, floor| {
        let base = alert(Period::Month, 100_000, AlertAction::Notify);
        let anomaly = Some(Anomaly { times, floor: Micros::new(floor) });
        Alert { terms: AlertTerms { anomaly, ..base.terms.clone() }, ..base }
    };
    let usual = span(1, "aws", 24 * 9, None);
    let more: Vec<Span> = (2..8).map(|number| span(number, "aws", 14, None)).collect();
    let spans = [vec![usual.clone()], more.clone()].concat();
    // 0.24 a day, and now 7 * 0.14.
    let found = watch(3, 0).due(&bill(&spans), &BTreeSet::new());
    let finding = found.first().unwrap();
    assert_eq!((finding.mark.kind, finding.mark.period.as_str()), (AlertKind::Anomaly, "2026-11-30"));
    let text = "alert team: 2026-11-30 costs $0.98 so far, more than 3 times the usual $0.24 a day (all)";
    assert_eq!(finding.text, text);
    assert_eq!(watch(3, 0).due(&bill(&spans), &[finding.mark.clone()].into()), [], "one a day");
    for (alert, spans, why) in [
        (watch(5, 0), spans.clone(), "not so many times"),
        (watch(3, 980_000), spans, "not more than the floor"),
        (watch(3, 0), vec![usual], "as usual"),
        (watch(3, 0), [vec![span(1, "aws", 24 * 6, None)], more].concat(), "too few days to compare with"),
    ] {
        assert_eq!(alert.due(&bill(&spans), &BTreeSet::new()), [], "{why}");
    }
}

#[test]
fn a_message_is_tried_for_half_a_day_and_no_longer() {
    let mut delivery = Delivery::new(true, NOW);
    let mut pauses = Vec::new();
    while let Some(at) = delivery.next_at {
        delivery = delivery.tried(Err("no connection".to_owned()), at);
        pauses.extend(delivery.next_at.map(|next| next.since(at).as_secs()));
    }
    assert_eq!(pauses.get(..4), Some([2, 4, 8, 16].as_slice()));
    assert_eq!((pauses.len(), pauses.iter().max()), (23, Some(&3600)));
    assert!((8 * 3600..24 * 3600).contains(&pauses.iter().sum::<u64>()));
    assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Failed, 24));
    assert_eq!(Delivery::new(true, NOW).tried(Ok(()), NOW).state, DeliveryState::Delivered);
    assert_eq!(Delivery::new(false, NOW).state, DeliveryState::None);
}

#[test]
fn words_survive_their_names() {
    for period in Period::ALL {
        assert_eq!(period.label().parse(), Ok(*period));
    }
    for action in AlertAction::ALL {
        assert_eq!(action.label().parse(), Ok(*action));
    }
    let error = "stop".parse::<AlertAction>().unwrap_err().to_string();
    assert_eq!(error, "\"stop\" is none of notify, hold and terminate");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// However often the meter is read while it grows, and whatever was stored of what was told.
    #[test]
    fn each_threshold_is_told_exactly_once_in_each_period(
        began in 0..200u64, minutes in proptest::collection::vec(1..3000u32, 1..30), cents in 1..400u64, month in proptest::bool::ANY,
    ) {
        let period = if month { Period::Month } else { Period::Day };
        let alert = alert(period, cents, AlertAction::Hold);
        let spans = [span(1, "aws", began, None)];
        let (mut marks, mut now) = (BTreeSet::new(), NOW);
        for minutes in minutes {
            now = now.plus(Duration::from_secs(60) * minutes);
            let bill = Bill { now, ..bill(&spans) };
            let standing = alert.standing(&bill);
            for finding in alert.due(&bill, &marks) {
                prop_assert!(marks.insert(finding.mark.clone()), "told twice: {finding:?}");
                prop_assert_eq!(&finding.mark.period, &standing.period);
            }
            let own: Vec<u16> = marks.iter().filter(|mark| mark.period == standing.period).map(|mark| mark.threshold).collect();
            let reached = THRESHOLDS.into_iter().filter(|it| standing.spent.get() * 100 >= cents * 10_000 * u64::from(*it));
            prop_assert_eq!(own, reached.collect::<Vec<_>>());
            prop_assert_eq!(standing.is_over, standing.is_in_force);
            prop_assert_eq!(standing.is_in_force, held(std::slice::from_ref(&alert), &bill, &id(7), "aws").is_some());
            prop_assert!(standing.forecast.is_some_and(|forecast| forecast >= standing.spent));
            prop_assert!(now.as_millis() > DAY);
        }
    }
}
