use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// One frame of an engine.
fn frame(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[kind, 0, 0, 0], &length[..], bytes].concat()
}

/// The lines of a stream that comes in these chunks.
fn lines<'a>(has_terminal: bool, chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<LogLine>, u8> {
    let (mut demultiplexer, mut lines) = (Demultiplexer::new(has_terminal), VecDeque::new());
    for chunk in chunks {
        demultiplexer.read(chunk, &mut lines)?;
    }
    demultiplexer.finish(&mut lines);
    Ok(lines.into())
}

fn whole(stream: LogStream, text: &str) -> LogLine {
    LogLine { stream, at: None, bytes: text.as_bytes().to_vec(), is_whole: true }
}

/// One that no end of line came for.
fn open(stream: LogStream, text: &str) -> LogLine {
    LogLine { is_whole: false, ..whole(stream, text) }
}

#[test]
fn both_outputs_are_taken_apart_in_order() {
    let stream =
        [frame(1, b"one\ntw"), frame(2, b"oh\r\n"), frame(1, b""), frame(1, b"o\n\n"), frame(2, b"no end")];
    let expected = [
        whole(LogStream::Stdout, "one"),
        whole(LogStream::Stderr, "oh"),
        whole(LogStream::Stdout, "two"),
        whole(LogStream::Stdout, ""),
        open(LogStream::Stderr, "no end"),
    ];
    assert_eq!(lines(false, [stream.concat().as_slice()]).unwrap(), expected);
}

#[test]
fn the_time_of_a_frame_is_no_text_however_it_is_cut() {
    let at = |seconds| Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
    let stream = [
        frame(1, b"1970-01-01T00:00:01.000000000Z one two\n"),
        frame(1, b"1970-01-01T00:00:02.000000000Z half "),
        frame(2, b"1970-01-01T00:00:03+01:00 elsewhere\n"),
        frame(1, b"1970-01-01T00:00:04.000000000Z a line\n"),
        frame(2, b"no time at the beginning of this frame, which is longer than one\n"),
        frame(2, b"short\n"),
        frame(2, b""),
    ]
    .concat();
    let line = |stream, at, text: &str| LogLine { at, ..whole(stream, text) };
    let expected = [
        line(LogStream::Stdout, at(1), "one two"),
        line(LogStream::Stderr, None, "elsewhere"),
        line(LogStream::Stdout, at(4), "half a line"),
        line(LogStream::Stderr, None, "no time at the beginning of this frame, which is longer than one"),
        line(LogStream::Stderr, None, "short"),
    ];
    for step in 1..stream.len() {
        assert_eq!(lines(false, stream.chunks(step)).unwrap(), expected, "in steps of {step}");
    }
}

#[test]
fn the_rest_begins_behind_what_was_read() {
    let (mut demultiplexer, mut lines) = (Demultiplexer::new(false), VecDeque::new());
    let first = frame(1, b"1970-01-01T00:00:01.000000000Z one\n");
    let second = frame(2, b"1970-01-01T00:00:02.000000000Z last words");
    demultiplexer.read(&first, &mut lines).unwrap();
    // A stream may be cut within a frame.
    demultiplexer.read(&second[..4], &mut lines).unwrap();
    let last = demultiplexer.begin_rest().unwrap();
    assert_eq!(last, SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1));
    demultiplexer.read(&[first, second].concat(), &mut lines).unwrap();
    demultiplexer.finish(&mut lines);
    let text: Vec<_> = lines.iter().map(LogLine::text).collect();
    assert_eq!(text, ["one", "last words"]);
}

#[test]
fn a_terminal_has_no_frames() {
    let expected = [whole(LogStream::Stdout, "\u{1}one"), open(LogStream::Stdout, "two")];
    assert_eq!(lines(true, [&b"\x01one\r\ntw"[..], b"o"]).unwrap(), expected);
}

#[test]
fn what_is_no_frame_ends_the_reading() {
    assert_eq!(lines(false, [&b"<html>... "[..]]), Err(b'<'));
}

#[test]
fn a_long_line_comes_in_pieces_that_keep_characters_whole() {
    let text = "x".to_owned() + &"ä".repeat(MAX_LOG_LINE_BYTES);
    let found = lines(false, [frame(1, format!("{text}\nnext\n").as_bytes()).as_slice()]).unwrap();
    let (last, pieces) = found.split_last().unwrap();
    assert_eq!(*last, whole(LogStream::Stdout, "next"));
    assert_eq!(pieces.len(), 3);
    assert!(pieces.iter().all(|piece| piece.bytes.len() <= MAX_LOG_LINE_BYTES));
    assert_eq!(pieces.iter().map(|piece| piece.is_whole).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(pieces.iter().map(LogLine::text).collect::<String>(), text);
}

#[test]
fn a_line_of_just_the_bound_is_one_line() {
    let text = "x".repeat(MAX_LOG_LINE_BYTES);
    let found = lines(false, [frame(2, format!("{text}\n").as_bytes()).as_slice()]).unwrap();
    assert_eq!(found, [whole(LogStream::Stderr, &text)]);
}

proptest! {
    /// However a stream is cut into chunks, its lines are the same; and each output has all its bytes.
    #[test]
    fn chunks_do_not_matter(
        frames in vec((1u8..=2, vec(prop_oneof![Just(b'\n'), b'a'..=b'c'], 0..40)), 0..12),
        cuts in vec(0usize..600, 0..12),
    ) {
        let stream = frames.iter().flat_map(|(kind, bytes)| frame(*kind, bytes)).collect::<Vec<u8>>();
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < stream.len()).collect();
        cuts.sort_unstable();
        let (mut chunks, mut rest, mut begin) = (Vec::new(), stream.as_slice(), 0);
        for cut in cuts {
            let (chunk, after) = rest.split_at(cut - begin);
            (rest, begin) = (after, cut);
            chunks.push(chunk);
        }
        chunks.push(rest);
        let found = lines(false, chunks).unwrap();
        prop_assert_eq!(&found, &lines(false, [stream.as_slice()]).unwrap());
        for (kind, output) in [(1, LogStream::Stdout), (2, LogStream::Stderr)] {
            let written: Vec<u8> =
                frames.iter().filter(|(of, _)| *of == kind).flat_map(|(_, bytes)| bytes.clone()).collect();
            let text = String::from_utf8(written).unwrap();
            let read = found.iter().filter(|line| line.stream == output).map(LogLine::text);
            prop_assert_eq!(read.collect::<Vec<_>>(), text.lines().collect::<Vec<_>>());
        }
    }

    /// Nothing that an engine sends makes it panic or keep more than a line of each output.
    #[test]
    fn nothing_makes_it_panic_or_hoard(chunks in vec(vec(any::<u8>(), 0..64), 0..32), has_terminal: bool) {
        let (mut demultiplexer, mut lines) = (Demultiplexer::new(has_terminal), VecDeque::new());
        for chunk in &chunks {
            if demultiplexer.read(chunk, &mut lines).is_err() {
                break;
            }
            prop_assert!(demultiplexer.stdout.len() <= MAX_LOG_LINE_BYTES);
            prop_assert!(demultiplexer.stderr.len() <= MAX_LOG_LINE_BYTES);
        }
    }
}
