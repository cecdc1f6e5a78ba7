//! One connection or flow: in the counters, in the sums of its service, and in the logs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blueprint_hub_proxy_core::Transport;
use blueprint_hub_proxy_core::tls::Channel;
use blueprint_hub_proxy_core::usage::Used;
use tokio::time::Instant;
use tracing::info;

use super::Line;
use super::counters::{End, Passed};
use crate::ids::RequestId;
use crate::open::SETTLE_EVERY;

/// What the audit log says of one that a change of settings has cut.
const CUT: &str = "forward_cut";

/// What is kept of one while it is open. Its end is where it is dropped, so that a hub that stops forgets none.
pub(super) struct Account {
    /// Bytes from the client to the service, counted by whoever passes them on.
    pub(super) up: Arc<AtomicU64>,
    /// Bytes from the service to the client.
    pub(super) down: Arc<AtomicU64>,
    line: Arc<Line>,
    transport: Transport,
    id: RequestId,
    source: IpAddr,
    target: SocketAddr,
    /// Whom the certificate names that its client has shown, and its serial number.
    shown: Option<(String, String)>,
    begun: Instant,
    settled: Settled,
    ended: End,
}

/// What is in the sums already.
struct Settled {
    at: Instant,
    is_counted: bool,
    up: u64,
    down: u64,
}

impl Account {
    pub(super) fn begin(line: &Arc<Line>, transport: Transport, source: IpAddr, target: SocketAddr) -> Self {
        line.open.fetch_add(1, Ordering::Relaxed);
        line.shared.counters.begin(transport);
        let begun = Instant::now();
        let settled = Settled { at: begun, is_counted: false, up: 0, down: 0 };
        let (line, id) = (Arc::clone(line), line.shared.ids.fresh());
        let (up, down) = (Arc::default(), Arc::default());
        let shown = None;
        Self { up, down, line, transport, id, source, target, shown, begun, settled, ended: End::Stopped }
    }

    /// Its client has shown this.
    pub(super) fn of_client(mut self, channel: &Channel) -> Self {
        self.shown = channel.client().map(|client| (client.account(), client.facts().serial.to_string()));
        self
    }

    /// Adds to the sums what is not in them yet, where the last time is long enough ago.
    pub(super) fn settle_now_and_then(&mut self) {
        if self.settled.at.elapsed() >= SETTLE_EVERY {
            self.settle();
        }
    }

    /// Gives what has passed in all, from the client and to it.
    fn settle(&mut self) -> (u64, u64) {
        let (up, down) = (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed));
        let settled = Settled { at: Instant::now(), is_counted: true, up, down };
        let before = std::mem::replace(&mut self.settled, settled);
        let used = Used {
            requests: u64::from(!before.is_counted),
            refused: 0,
            bytes_in: up.saturating_sub(before.up),
            bytes_out: down.saturating_sub(before.down),
            open: self.settled.at.saturating_duration_since(before.at),
        };
        let identity = self.shown.as_ref().map(|(identity, _)| identity.as_str());
        self.line.shared.ledger.add(self.line.service, identity, &used);
        (up, down)
    }

    /// Ends it: this is why no more passes.
    pub(super) fn end(mut self, end: End) {
        self.ended = end;
    }

    fn write(&self, passed: &Passed, end: End) {
        let is_well = matches!(end, End::Closed | End::Idle);
        if !self.line.shared.access.writes_forward(is_well) {
            return;
        }
        info!(
            target: "access",
            request_id = self.id.as_str(),
            source = %self.source,
            protocol = %self.transport,
            forward = self.line.forward.load().name,
            service = %self.line.service,
            target_address = %self.target,
            identity = self.shown.as_ref().map(|(identity, _)| identity.as_str()),
            credential = self.shown.as_ref().map(|(_, serial)| serial.as_str()),
            ended = end.label(),
            bytes_in = passed.up,
            bytes_out = passed.down,
            total_us = micros(passed.took),
            "forward",
        );
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let (up, down) = self.settle();
        let (line, end) = (&self.line, self.ended);
        line.open.fetch_sub(1, Ordering::Relaxed);
        let passed = Passed { up, down, took: self.begun.elapsed() };
        line.shared.counters.end(self.transport, &passed, end);
        match end {
            End::Removed | End::Source | End::Certificate => {
                line.audit(CUT, self.transport, self.source);
                info!(
                    target: "audit", service = %line.service, request_id = self.id.as_str(),
                    reason = end.label(), "forward cut"
                );
            }
            End::Closed | End::Broken | End::Idle | End::Target | End::Stopped => {}
        }
        self.write(&passed, end);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
