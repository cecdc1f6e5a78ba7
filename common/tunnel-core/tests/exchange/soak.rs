//! Real minutes over several rekeys, with the library's own clock running: does the pinned boringtun have issue 495?
//!
//! `TUNNEL_SOAK_SECONDS=600 cargo test -p blueprint-common-tunnel-core soak -- --nocapture` runs it; without the variable it
//! passes at once. Seen to pass is what counts: no echo lost and no packet lost over the whole time.

use std::time::{Duration, Instant};

use blueprint_common_tunnel_core::Event;

use crate::net::{A, HUB, Net, packet};

#[test]
fn soak_no_session_goes_deaf_on_the_real_clock() {
    let Some(seconds) = std::env::var("TUNNEL_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()) else {
        return;
    };
    let start = Instant::now();
    let mut net = Net::up();
    // `up` ran ahead of the real clock; a core keeps the latest time it saw.
    std::thread::sleep(net.now.saturating_duration_since(Instant::now()));
    let (mut sent, mut arrived) = (0u32, 0usize);
    while start.elapsed() < Duration::from_secs(seconds) {
        for (from, to) in [(A, HUB), (HUB, A)] {
            net.ends[from].core.handle_packet(&packet(from, to, &sent.to_be_bytes()), net.now);
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(100));
        net.run(Instant::now().saturating_duration_since(net.now));
        arrived += [A, HUB].map(|end| std::mem::take(&mut net.ends[end].packets).len()).iter().sum::<usize>();
    }
    let handshakes = net.ends[HUB].core.stats().handshakes;
    let lost =
        net.ends.iter().flat_map(|end| &end.events).filter(|event| matches!(event, Event::EchoLost { .. }));
    assert_eq!(lost.count(), 0, "echoes were lost");
    let in_flight = usize::try_from(sent).unwrap() - arrived;
    assert!(in_flight <= 4, "{in_flight} of {sent} packets did not arrive");
    assert!(handshakes >= seconds / 120, "{handshakes} handshakes in {seconds} s");
}
