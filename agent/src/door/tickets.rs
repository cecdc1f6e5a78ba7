//! Which connections of the hub are about to come.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blueprint_common_types::DoorTicket;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// Tickets that are held; the oldest goes where there are more. The hub has far fewer connections on their way.
const MOST: usize = 256;

/// How long a ticket is good.
const GOOD_FOR: Duration = Duration::from_secs(30);

/// How much later than its connection a ticket may come: the two take different ways.
const LATE: Duration = Duration::from_secs(5);

/// Tickets that the hub gave over the control stream, and nobody has shown yet.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    held: Mutex<VecDeque<(Instant, DoorTicket)>>,
    came: Notify,
    refused: AtomicU64,
}

impl Tickets {
    /// Takes one in that came at `now`.
    pub(crate) fn put(&self, ticket: DoorTicket, now: Instant) {
        let mut held = self.held.lock();
        held.retain(|(came, _)| now.saturating_duration_since(*came) < GOOD_FOR);
        if held.len() >= MOST {
            held.pop_front();
            self.refuse();
        }
        held.push_back((now, ticket));
        drop(held);
        self.came.notify_waiters();
    }

    /// Hands out the ticket that a first line names, once; waits a little for one that is on its way.
    pub(super) async fn take(&self, hello: &[u8]) -> Option<DoorTicket> {
        let wait = async {
            loop {
                let mut came = pin!(self.came.notified());
                came.as_mut().enable();
                if let Some(ticket) = self.take_now(hello, Instant::now()) {
                    return ticket;
                }
                came.await;
            }
        };
        timeout(LATE, wait).await.ok()
    }

    fn take_now(&self, hello: &[u8], now: Instant) -> Option<DoorTicket> {
        let mut held = self.held.lock();
        held.retain(|(came, _)| now.saturating_duration_since(*came) < GOOD_FOR);
        let place = held.iter().position(|(_, ticket)| ticket.is_hello(hello))?;
        held.remove(place).map(|(_, ticket)| ticket)
    }

    /// Counts a connection that was not announced, or a ticket that was thrown away.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were refused since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_grow_old_and_are_bounded() {
        let tickets = Tickets::default();
        let now = Instant::now();
        let new = || DoorTicket::new(b"ask").unwrap();
        let take = |ticket: &DoorTicket, now| tickets.take_now(ticket.hello().expose().as_bytes(), now);
        let (first, old) = (new(), new());
        tickets.put(old.clone(), now);
        assert_eq!(take(&old, now + GOOD_FOR), None);
        tickets.put(first.clone(), now);
        for _ in 0..MOST {
            tickets.put(new(), now);
        }
        assert_eq!((take(&first, now), tickets.held.lock().len(), tickets.refused()), (None, MOST, 1));
    }

    #[tokio::test]
    async fn a_ticket_may_come_behind_its_connection() {
        let tickets = Tickets::default();
        let ticket = DoorTicket::new(b"ask").unwrap();
        let hello = ticket.hello();
        let put = async {
            tokio::task::yield_now().await;
            tickets.put(ticket.clone(), Instant::now());
        };
        let (taken, ()) = tokio::join!(tickets.take(hello.expose().as_bytes()), put);
        assert_eq!(taken, Some(ticket));
    }
}
