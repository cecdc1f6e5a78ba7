//! Rings on a real disk.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use blueprint_agent_workload_core::log::{Filter, Line, encode};
use blueprint_common_types::{LogCursor, LogLevel, LogStream, Timestamp};

use super::writer::LogWriter;
use super::*;
use crate::container::Engine;

const LIMITS: RingLimits = RingLimits { bytes: 256 << 10 };

fn line(text: &str) -> Line {
    Line {
        seq: 0,
        at: Timestamp::from_millis(1000),
        generation: 3,
        stream: LogStream::Stdout,
        level: Some(LogLevel::Info),
        text: text.to_owned(),
        goes_on: false,
    }
}

fn open(folder: &Path, ask: &LogAsk) -> LogReader {
    LogReader::open(folder.to_owned(), ask).unwrap().unwrap()
}

/// Everything that is there at the moment, and how much was gone before it was read.
fn rest(reader: &mut LogReader) -> (Vec<Line>, u64) {
    let (mut lines, mut missed) = (Vec::new(), 0);
    loop {
        let batch = reader.read(10_000).unwrap();
        lines.extend(batch.lines);
        missed += batch.missed;
        if batch.is_end {
            return (lines, missed);
        }
    }
}

fn numbers(lines: &[Line]) -> Vec<u64> {
    lines.iter().map(|line| line.seq).collect()
}

#[test]
fn what_is_written_is_read_once_and_on_from_any_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("ring");
    assert!(LogReader::open(folder.clone(), &LogAsk::default()).unwrap().is_none());
    let mut writer = LogWriter::open(&folder, LIMITS).unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let mut reader = open(&folder, &LogAsk::default());
    let mut seen = Vec::new();
    for number in 1..=1000u64 {
        writer.append(line(&format!("line {number}"))).unwrap();
        if number % 7 == 0 {
            seen.extend(rest(&mut reader).0);
        }
    }
    seen.extend(rest(&mut reader).0);
    assert_eq!(numbers(&seen), (1..=1000).collect::<Vec<_>>());
    assert_eq!(seen[41].text, "line 42");

    let after = |seq| LogAsk { after: Some(LogCursor { ring: reader.ring(), seq }), ..LogAsk::default() };
    assert_eq!(numbers(&rest(&mut open(&folder, &after(998))).0), [999, 1000]);
    assert!(rest(&mut open(&folder, &after(1000))).0.is_empty());
    // A cursor of another ring means nothing here.
    let strange = LogAsk { after: Some(LogCursor { ring: !reader.ring(), seq: 998 }), ..LogAsk::default() };
    assert_eq!(rest(&mut open(&folder, &strange)).0.len(), 1000);
}

#[test]
fn the_newest_of_those_that_fit_come_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), LIMITS).unwrap();
    for number in 1..=100u64 {
        let level = if number % 10 == 0 { Some(LogLevel::Error) } else { Some(LogLevel::Info) };
        let at = Timestamp::from_millis(number * 1000);
        writer.append(Line { level, at, ..line(&format!("line {number} end")) }).unwrap();
    }
    let ask = |tail, filter| open(folder.path(), &LogAsk { after: None, tail, filter });
    let level = Filter { level: Some(LogLevel::Warn), ..Filter::default() };
    assert_eq!(numbers(&rest(&mut ask(Some(3), level.clone())).0), [80, 90, 100]);
    let grep = Filter { grep: " 7 ".to_owned(), ..Filter::default() };
    assert_eq!(numbers(&rest(&mut ask(None, grep)).0), [7]);
    let since = Filter { since: Timestamp::from_millis(98_500), ..Filter::default() };
    assert_eq!(numbers(&rest(&mut ask(None, since)).0), [99, 100]);
    let runs = |from_run, before_run| Filter { from_run, before_run, ..Filter::default() };
    let of = |filter| numbers(&rest(&mut ask(Some(2), filter)).0);
    for (from, before, wanted) in [(3, None, 2), (0, Some(4), 2), (4, None, 0), (0, Some(3), 0)] {
        assert_eq!(of(runs(from, before)).len(), wanted, "{from} {before:?}");
    }
    let mut none = ask(Some(0), Filter::default());
    assert!(rest(&mut none).0.is_empty());
    assert_eq!(none.reached(), 100, "another reader goes on there, though no line was read");
    writer.append(line("and one more")).unwrap();
    assert_eq!(numbers(&rest(&mut none).0), [101]);
    assert_eq!(rest(&mut ask(Some(1000), level)).0.len(), 10);
}

#[test]
fn a_reader_that_is_too_slow_is_told_how_much_it_missed() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), LIMITS).unwrap();
    writer.append(line("first")).unwrap();
    let mut reader = open(folder.path(), &LogAsk::default());
    assert_eq!(numbers(&rest(&mut reader).0), [1]);
    let text = "x".repeat(1000);
    for _ in 0..1000 {
        writer.append(line(&text)).unwrap();
    }
    let (lines, missed) = rest(&mut reader);
    // What it has open it reads to its end, also where that made room.
    assert!(lines[0].seq == 2 && missed > 0, "{missed}");
    assert_eq!(lines.len() + usize::try_from(missed).unwrap(), 1000);
    assert_eq!(lines.last().unwrap().seq, 1001);
    let size: u64 =
        fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!((200 << 10..=(256 << 10) + 64).contains(&size), "{size} bytes");
}

#[test]
fn a_segment_that_the_writer_took_back_is_read_from_the_one_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), LIMITS).unwrap();
    (1..=5).for_each(|number| writer.append(line(&format!("line {number}"))).unwrap());
    let mut reader = open(folder.path(), &LogAsk::default());
    assert_eq!(rest(&mut reader).0.len(), 5);
    // A disk that is full after the first bytes of a segment, until there is room again.
    let record = encode(&Line { seq: 6, ..line("line 6") });
    let file = segment(folder.path(), 6);
    fs::write(&file, &record[..7]).unwrap();
    assert!(rest(&mut reader).0.is_empty());
    fs::remove_file(&file).unwrap();
    assert!(rest(&mut reader).0.is_empty());
    fs::write(&file, &record).unwrap();
    let (lines, missed) = rest(&mut reader);
    assert_eq!((numbers(&lines), missed), (vec![6], 0));
}

#[test]
fn a_writer_goes_on_behind_what_was_torn_and_there_is_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), LIMITS).unwrap();
    (1..=5).for_each(|number| writer.append(line(&format!("line {number}"))).unwrap());
    let busy = LogWriter::open(folder.path(), LIMITS).unwrap_err();
    assert_eq!(busy.kind(), io::ErrorKind::WouldBlock);
    drop(writer);
    let file = segment(folder.path(), 1);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
    let mut reader = open(folder.path(), &LogAsk::default());
    assert_eq!(numbers(&rest(&mut reader).0), [1, 2, 3, 4]);
    let mut writer = LogWriter::open(folder.path(), LIMITS).unwrap();
    writer.append(line("another five")).unwrap();
    let (lines, missed) = rest(&mut reader);
    assert_eq!((numbers(&lines), lines[0].text.as_str(), missed), (vec![5], "another five", 0));
    drop(writer);

    // All of it is lost: it is another ring, and who reads the old one is told.
    fs::write(&file, b"nothing good").unwrap();
    let mut writer = LogWriter::open(folder.path(), LIMITS).unwrap();
    writer.append(line("a new beginning")).unwrap();
    assert_ne!(open(folder.path(), &LogAsk::default()).ring(), reader.ring());
    assert_eq!(reader.read(1000).unwrap_err().kind(), io::ErrorKind::StaleNetworkFileHandle);
}

fn errand(folder: &Path, lines: u32) -> LogErrand {
    let secrets = Secrets(vec![Secret::new(b"swordfish".to_vec())]);
    let errand = LogErrand { folder: folder.to_owned(), generation: 3, bytes: LIMITS.bytes, lines, secrets };
    assert!(!format!("{errand:?}").contains("115, 119"), "it prints its secrets");
    // As its keeper reads it.
    serde_json::from_slice(&serde_json::to_vec(&errand).unwrap()).unwrap()
}

#[test]
fn a_sink_keeps_lines_without_secrets_and_says_what_it_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = Sink::new(errand(folder.path(), 10));
    sink.take(LogStream::Stderr, b"ERROR no sword", None);
    sink.take(LogStream::Stdout, b"up\n", None);
    sink.take(LogStream::Stderr, b"fish today\n", None);
    for _ in 0..200 {
        sink.take(LogStream::Stdout, b"flood\n", None);
    }
    sink.take(LogStream::Stdout, b"the end is swordfish", None);
    sink.finish();
    assert_eq!(sink.last(), Some("the end is [redacted]"));
    let (lines, _) = rest(&mut open(folder.path(), &LogAsk::default()));
    assert_eq!(lines[0].text, "up");
    assert_eq!(
        (lines[1].text.as_str(), lines[1].level),
        ("ERROR no [redacted] today", Some(LogLevel::Error))
    );
    assert_eq!((lines[1].stream, lines[1].generation), (LogStream::Stderr, 3));
    let last = lines.last().unwrap();
    assert_eq!(last.stream, LogStream::Node);
    let left_out: usize = last.text.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(lines.len() - 1 + left_out, 203, "{last:?}");
    for entry in fs::read_dir(folder.path()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(9).any(|window| window == b"swordfish"));
    }
}

#[test]
fn a_ring_that_cannot_be_written_holds_nobody_up_and_what_is_lost_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("ring");
    let other = LogWriter::open(&folder, LIMITS).unwrap();
    let mut sink = Sink::new(errand(&folder, 1000));
    assert!(!sink.is_open());
    (0..5).for_each(|_| sink.take(LogStream::Stdout, b"lost\n", None));
    drop(other);
    assert!(sink.is_open());
    sink.take(LogStream::Stdout, b"kept\n", None);
    drop(sink);
    let (lines, _) = rest(&mut open(&folder, &LogAsk::default()));
    let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, ["5 lines lost: they could not be written: another process writes there", "kept"]);
}

#[test]
fn rings_of_services_that_left_go_once_there_are_many() {
    let state = tempfile::tempdir().unwrap();
    let at = |service| {
        folder(state.path(), Seat::first(blueprint_common_types::ServiceKey { blueprint: 7, service }))
    };
    for service in 0..130 {
        LogWriter::open(&at(service), LIMITS).unwrap();
    }
    let mut held = LogWriter::open(&at(0), LIMITS).unwrap();
    for service in 1..129 {
        LogWriter::open(&at(service), LIMITS).unwrap().append(line("x")).unwrap();
    }
    prune(state.path());
    assert!(at(0).exists(), "it has a writer");
    assert!(!at(129).exists(), "nothing was written to it");
    held.append(line("x")).unwrap();
    assert_eq!(fs::read_dir(state.path().join(FOLDER)).unwrap().count(), 129);
}

/// Serves one answer to each connection, as an engine; gives what was asked.
fn engine(socket: &Path, answers: Vec<Vec<u8>>) -> std::thread::JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(socket).unwrap();
    let serve = move |answer: Vec<u8>| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        let first = lines.next().unwrap();
        lines.take_while(|line| !line.is_empty()).for_each(drop);
        stream.write_all(&answer).unwrap();
        first
    };
    std::thread::Builder::new().spawn(move || answers.into_iter().map(serve).collect()).unwrap()
}

#[tokio::test]
async fn a_secret_of_a_container_is_redacted_in_binary_output_and_over_frames_and_streams() {
    let answer = |body: &[u8]| {
        let head = format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    let frame = |second: u8, bytes: &[u8]| {
        let stamp = format!("1970-01-01T00:00:0{second}.000000000Z ");
        let length = u8::try_from(stamp.len() + bytes.len()).unwrap();
        [&[1, 0, 0, 0, 0, 0, 0, length], stamp.as_bytes(), bytes].concat()
    };
    let version = answer(br#"{"Version":"1","ApiVersion":"1.43","MinAPIVersion":"1.12"}"#);
    let state = |pid: u32| {
        answer(format!(r#"{{"Id":"c1","State":{{"Running":{},"Pid":{pid}}}}}"#, pid > 0).as_bytes())
    };
    let (runs, ended) = (state(5), state(0));
    // Half of it in each of two frames, bytes that are no text around it, and half of it before the engine breaks off.
    let key = b"\xff\xfe\x00key\x80\x81binary";
    let (half, rest_of_it) = key.split_at(5);
    let first = [frame(1, b"\xf0\x9fa sword"), frame(2, b"fish \xc3b "), frame(3, half)].concat();
    let first = [first, frame(4, rest_of_it), frame(5, b"\nand sword")].concat();
    let (first, second) = (answer(&first), answer(&[frame(6, b"fish"), frame(7, b" end")].concat()));
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("e.sock");
    let all = [
        [&version, &runs, &first, &first, &version, &runs],
        [&version, &runs, &second, &second, &version, &ended],
    ];
    let served = engine(&socket, all.concat().into_iter().cloned().collect());
    let ring = folder.path().join("ring");
    let mut errand = errand(&ring, 1000);
    errand.secrets.0.push(Secret::new(key.to_vec()));
    let last = follow(&Engine::new(socket), "c1", Sink::new(errand)).await;
    assert_eq!(last.as_deref(), Some("and [redacted] end"));
    served.join().unwrap();
    let (lines, _) = rest(&mut open(&ring, &LogAsk::default()));
    let texts: Vec<_> =
        lines.iter().filter(|line| line.stream == LogStream::Stdout).map(|line| &line.text).collect();
    assert_eq!(texts, ["\u{fffd}a [redacted] \u{fffd}b [redacted]", "and [redacted] end"]);
    for entry in fs::read_dir(&ring).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"binary" || window == b"swordf"));
    }
}

#[tokio::test]
async fn a_container_is_read_on_where_the_engine_ends_its_output_early() {
    let answer = |body: &[u8]| {
        let head = format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    let frame = |text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        [&[1, 0, 0, 0, 0, 0, 0, length], text.as_bytes()].concat()
    };
    let version = answer(br#"{"Version":"1","ApiVersion":"1.43","MinAPIVersion":"1.12"}"#);
    let state = |pid: u32| {
        answer(format!(r#"{{"Id":"c1","State":{{"Running":{},"Pid":{pid}}}}}"#, pid > 0).as_bytes())
    };
    let (runs, ended) = (state(5), state(0));
    let one = answer(&frame("1970-01-01T00:00:01.000000000Z one\n"));
    let two = answer(&frame("1970-01-01T00:00:02.000000000Z two\n"));
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("e.sock");
    let [once, again] =
        [[&version, &runs, &one, &one, &version, &runs], [&version, &runs, &two, &two, &version, &ended]];
    let served = engine(&socket, [once, again].concat().into_iter().cloned().collect());
    let ring = folder.path().join("ring");
    let last = follow(&Engine::new(socket), "c1", Sink::new(errand(&ring, 1000))).await;
    assert_eq!(last.as_deref(), Some("two"));
    let asked = served.join().unwrap();
    assert!(asked[8].contains("&follow=1&since=1.000000001"), "{asked:?}");
    let (lines, _) = rest(&mut open(&ring, &LogAsk::default()));
    let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, ["one", "the engine ended the output while the container runs; it is read on", "two"]);
}
