use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn open(folder: &Path) -> Backlog {
    Backlog::open(folder, MIN_BACKLOG_BYTES).unwrap()
}

fn all(backlog: &mut Backlog) -> Vec<Kept> {
    backlog.oldest(usize::MAX, usize::MAX)
}

fn numbers(backlog: &mut Backlog) -> Vec<u64> {
    all(backlog).iter().map(|kept| kept.number).collect()
}

#[test]
fn what_is_kept_comes_back_after_a_restart_and_goes_once_it_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut backlog = open(folder.path());
    assert!(backlog.is_empty());
    for number in 1..=5u8 {
        backlog.push(at(number.into()), &[number; 10]).unwrap();
    }
    drop(backlog);
    let mut backlog = open(folder.path());
    let kept = all(&mut backlog);
    assert_eq!(kept.len(), 5);
    assert_eq!(kept[4], Kept { number: 5, at: at(5), bytes: vec![5; 10] });
    assert_eq!(backlog.oldest(2, usize::MAX).len(), 2);
    assert_eq!(backlog.oldest(5, 25).len(), 2);
    assert_eq!(backlog.oldest(5, 1).len(), 1, "one at least");
    backlog.acknowledge(3).unwrap();
    backlog.acknowledge(1).unwrap();
    assert_eq!(numbers(&mut backlog), [4, 5]);
    drop(backlog);
    let mut backlog = open(folder.path());
    assert_eq!(numbers(&mut backlog), [4, 5]);
    backlog.push(at(6), b"x").unwrap();
    backlog.acknowledge(u64::MAX).unwrap();
    assert!(backlog.is_empty() && backlog.bytes() == 0);
    drop(backlog);
    let mut backlog = open(folder.path());
    backlog.push(at(7), b"y").unwrap();
    assert_eq!(numbers(&mut backlog), [7], "no number is given twice");
}

#[test]
fn a_day_of_many_services_fits_by_the_minute_without_a_gap_and_the_newest_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let mut backlog = Backlog::open(folder.path(), 8 << 20).unwrap();
    backlog.is_synced = false;
    // A sample of 64 services each 5 s, for 24 h.
    let sample = vec![7; 2200];
    for step in 0..17_280u64 {
        backlog.push(at(step * 5000), &sample).unwrap();
    }
    assert_eq!(backlog.dropped(), 0);
    assert!(backlog.bytes() <= 8 << 20, "{}", backlog.bytes());
    let kept = all(&mut backlog);
    let minutes: std::collections::BTreeSet<u64> =
        kept.iter().map(|kept| kept.at.as_millis() / MINUTE).collect();
    assert_eq!((minutes.len(), minutes.first(), minutes.last()), (1440, Some(&0), Some(&1439)));
    assert!(kept.windows(2).all(|pair| pair[0].number < pair[1].number && pair[0].at < pair[1].at));
    assert!(kept.windows(2).rev().take(60).all(|pair| pair[1].at.since(pair[0].at).as_secs() == 5));
}

#[test]
fn where_there_is_no_room_the_oldest_go_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut backlog = open(folder.path());
    for minute in 0..200u64 {
        backlog.push(at(minute * MINUTE), &[1; 20_000]).unwrap();
    }
    let kept = all(&mut backlog);
    assert!(backlog.bytes() <= MIN_BACKLOG_BYTES);
    assert_eq!((count(&kept) + backlog.dropped(), kept.last().unwrap().number), (200, 200));
    let too_long = backlog.push(at(0), &vec![0; MAX_SAMPLE_BYTES + 1]).unwrap_err();
    assert!(too_long.to_string().contains("longer than 65536"), "{too_long}");
}

#[test]
fn what_is_of_many_things_is_not_thinned_and_the_oldest_go_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut backlog = open(folder.path()).unthinned();
    // Rounds of 8 services, all within a minute, as often as more than half of the room is taken.
    for number in 0..64u64 {
        backlog.push(at(number / 8 * MINUTE + number % 8), &[1; 12_000]).unwrap();
    }
    assert!(backlog.bytes() > MIN_BACKLOG_BYTES / 2);
    assert_eq!(numbers(&mut backlog), (1..=64).collect::<Vec<_>>(), "every one of each round");
    assert_eq!(backlog.dropped(), 0);
    for number in 64..200u64 {
        backlog.push(at(number / 8 * MINUTE + number % 8), &[1; 12_000]).unwrap();
    }
    let kept = numbers(&mut backlog);
    assert!(backlog.bytes() <= MIN_BACKLOG_BYTES && backlog.dropped() > 0);
    assert_eq!(
        kept,
        (backlog.dropped() + 1..=200).collect::<Vec<_>>(),
        "the newest, and none between them is missing"
    );
}

#[test]
fn a_file_that_cannot_be_read_costs_its_own_samples_and_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut backlog = open(folder.path());
    for number in 1..=40u64 {
        backlog.push(at(number * MINUTE), &[1; 20_000]).unwrap();
    }
    let files: Vec<u64> = backlog.segments.iter().map(|segment| segment.first).collect();
    let (bad, worse) = (files[0], files[3]);
    let lost = backlog.segments[0].records + backlog.segments[3].records;
    // A folder is no file to read, and is not removed like one either.
    fs::remove_file(backlog.path(bad)).unwrap();
    fs::create_dir(backlog.path(bad)).unwrap();
    fs::write(backlog.path(worse), [7; 100]).unwrap();
    let kept = all(&mut backlog);
    assert_eq!((count(&kept) + lost, backlog.dropped()), (40, lost));
    drop(backlog);
    let mut backlog = open(folder.path());
    assert_eq!(backlog.dropped(), 1);
    assert_eq!(all(&mut backlog), kept);
    backlog.push(at(41 * MINUTE), b"x").unwrap();
    assert!(all(&mut backlog).last().unwrap().number > 40);
}

#[test]
fn what_the_disk_refuses_leaves_no_file_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut backlog = open(folder.path());
    let files = || fs::read_dir(folder.path()).unwrap().count();
    backlog.push(at(1), b"whole").unwrap();
    // A disk without room, as far as writing goes.
    backlog.open = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
    backlog.push(at(2), b"lost").unwrap_err();
    backlog.open = None;
    for number in 3..10 {
        let segment = Segment { first: number, last: number, records: 0, bytes: 0, is_thin: false };
        fs::write(backlog.path(number), b"half").unwrap();
        backlog.segments.push_back(segment);
        backlog.open = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        backlog.push(at(number), b"lost").unwrap_err();
    }
    assert_eq!((files(), backlog.dropped(), numbers(&mut backlog)), (1, 8, vec![1]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A crash at any byte of the last file leaves the records before it; the next start goes on behind them.
    #[test]
    fn a_crash_at_any_byte_leaves_what_was_whole(count in 1u64..40, length in 0usize..200, cut in 0usize..10_000, garbage in any::<u8>()) {
        let folder = tempfile::tempdir().unwrap();
        let mut backlog = open(folder.path());
        for number in 1..=count {
            backlog.push(at(number), &vec![3; length]).unwrap();
        }
        drop(backlog);
        let path = folder.path().join("1.samples");
        let bytes = fs::read(&path).unwrap();
        let cut = cut % (bytes.len() + 1);
        let torn: Vec<u8> = bytes[..cut].iter().copied().chain([garbage | 0x80; 7]).collect();
        fs::write(&path, torn).unwrap();
        fs::write(folder.path().join(".new"), [garbage; 3]).unwrap();
        let mut backlog = open(folder.path());
        let whole = u64::try_from(cut / (record::HEAD_BYTES + length)).unwrap();
        let found = numbers(&mut backlog);
        prop_assert_eq!(&found, &(1..=whole).collect::<Vec<_>>());
        backlog.push(at(1000), b"new").unwrap();
        let last = *numbers(&mut backlog).last().unwrap();
        prop_assert!(last > whole);
        drop(backlog);
        prop_assert_eq!(numbers(&mut open(folder.path())).len(), found.len() + 1);
    }

    /// Whatever file is damaged: it opens, and numbers grow.
    #[test]
    fn any_bytes_in_its_files_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), taken in prop::collection::vec(any::<u8>(), 0..20)) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("5.samples"), &bytes).unwrap();
        fs::write(folder.path().join("taken"), &taken).unwrap();
        let mut backlog = open(folder.path());
        backlog.push(at(1), b"x").unwrap();
        let found = numbers(&mut backlog);
        prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]) && !found.is_empty());
    }
}
