//! When a spoke renews, reconnects, and what it still has to tell its hub.
//!
//! Five pure machines, each told the time and seeded at construction:
//!
//! - [`Backoff`]: how long to wait before the next attempt;
//! - [`Ladder`]: which carrier to the hub is used, and when others are tried;
//! - [`Link`]: whether the control stream is down, connecting or up, and what the driver does next;
//! - [`Outbox`]: messages that the hub has not acknowledged yet;
//! - [`Renewal`]: when the certificate is exchanged for a fresh one.
//!
//! Left to the driver: sockets, TLS, the clock, and what the messages say.

mod backoff;
mod ladder;
mod link;
mod outbox;
mod renewal;
mod rng;

pub use backoff::Backoff;
pub use ladder::{CLIMB_PAUSE_MAX, Ladder, LadderEvent, SEARCH_PAUSE_MAX};
pub use link::{Link, LinkConfig, LinkEnd, LinkEvent, LinkState, LinkStats};
pub use outbox::{Outbox, OutboxFull, UnknownAck};
pub use renewal::Renewal;
