//! Months, objectives and reports.

use super::*;

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
