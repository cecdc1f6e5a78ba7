//! What lies beyond a receive window that moved back.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::path_tests::Path;
use super::tests::ready;
use crate::netstack::TcpFlowStream;

/// What a socket of the tests can receive, in bytes; its window is told in units of 128.
const CAPACITY: usize = 4 << 20;
const ROUND_TRIP: Duration = Duration::from_millis(20);

fn wait(path: &mut Path, time: Duration) {
    let until = path.now + time;
    while path.now < until {
        path.step();
    }
}

fn pattern(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(|position| position.to_le_bytes()[0] ^ position.to_le_bytes()[1]).collect()
}

fn read_some(from: &mut TcpFlowStream, into: &mut Vec<u8>) -> Option<usize> {
    let mut room = [0; 64 << 10];
    let count = ready(from.read(&mut room))?.unwrap();
    into.extend_from_slice(&room[..count]);
    Some(count)
}

/// Fills the far end so that its window moves back while the near end's last bytes and its FIN are under way.
fn fill(path: &mut Path, near: &mut TcpFlowStream, before: usize, last: usize) -> usize {
    let total = CAPACITY - 1280 + before + last;
    let data = pattern(0..total);
    let mut written = 0;
    while written < CAPACITY - 1280 {
        if let Some(count) = ready(near.write(&data[written..CAPACITY - 1280])) {
            written += count.unwrap();
        }
        path.step();
    }
    wait(path, ROUND_TRIP * 50);
    // The far end has told of 1280 bytes of room. What comes first leaves less than 128 of them, or less than 256.
    ready(near.write_all(&data[written..written + before])).unwrap().unwrap();
    wait(path, ROUND_TRIP * 2 / 5);
    ready(near.write_all(&data[written + before..])).unwrap().unwrap();
    ready(near.shutdown()).unwrap().unwrap();
    wait(path, ROUND_TRIP * 2);
    total
}

#[test]
fn what_lies_beyond_a_window_that_moved_back_is_acknowledged_and_not_lost() {
    for (before, last) in [(1188, 40), (1088, 192), (1088, 64), (1280, 0)] {
        let mut path = Path::new(ROUND_TRIP, 1000, None);
        let (mut near, mut far) = path.open();
        let total = fill(&mut path, &mut near, before, last);

        // An echo that does not read before it has written: the far end learns what arrived from segments beyond its window.
        let answer = pattern(0..3 * CAPACITY);
        let (mut written, mut answered) = (0, Vec::new());
        let until = path.now + Duration::from_secs(30);
        while answered.len() < answer.len() && path.now < until {
            if let Some(count) = ready(far.write(&answer[written..])) {
                written += count.unwrap();
            }
            path.step();
            while read_some(&mut near, &mut answered).is_some_and(|count| count > 0) {}
        }
        assert_eq!(answered.len(), answer.len(), "{before} {last}: of {written} written");
        assert!(answered == answer);

        // Nobody hears that there is room again, and nobody asks for it but by sending.
        let (mut received, mut ended) = (Vec::new(), false);
        path.back.lose_one_in = Some(1);
        while read_some(&mut far, &mut received).is_some_and(|count| count > 0) {}
        wait(&mut path, ROUND_TRIP);
        path.back.lose_one_in = None;
        let until = path.now + Duration::from_secs(30);
        while !ended && path.now < until {
            while let Some(count) = read_some(&mut far, &mut received)
                && !ended
            {
                ended = count == 0;
            }
            path.step();
        }
        assert!(ended, "{before} {last}: {} of {total} came", received.len());
        assert_eq!(received.len(), total, "{before} {last}");
        assert!(received == pattern(0..total));
    }
}
