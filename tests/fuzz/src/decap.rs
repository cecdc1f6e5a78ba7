//! Any datagrams, from anywhere, in any order, against a hub with two spokes on virtual time.
//!
//! The input is a list of steps: datagrams are sent, damaged, cut, spliced, replayed, reordered and glued to runs of
//! any stride; spokes move, handshakes start, time passes. The network remembers every datagram that an end made, so
//! it knows what is genuine. Whatever happens:
//!
//! - Nothing panics, here or inside the cipher library.
//! - A packet comes out only where it was sent to, byte for byte, and once.
//! - Only genuine datagrams count as received, each once, and only they move an endpoint, to where they came from.
//! - What is neither genuine nor has a valid first MAC is not answered; what has one, by less than it is long.
//! - After `handle_timeout(now)`, `poll_timeout()` is later.
//! - In the end, on an honest network, both spokes come back.

mod net;
mod steps;

use self::net::Net;
use crate::input::Input;

/// Steps of one input at most, so that one execution takes milliseconds.
const MAX_STEPS: usize = 48;

/// Plays an input.
pub(crate) fn play(data: &[u8]) {
    let mut net = Net::up();
    let mut input = Input(data);
    for _ in 0..MAX_STEPS {
        if steps::step(&mut net, &mut input).is_none() {
            break;
        }
    }
    net.come_back();
    net.check_counts();
}
