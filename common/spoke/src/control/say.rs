//! What goes to the hub, and what people are told of the stream.

use std::time::Duration;

use blueprint_proto::v1;
use blueprint_proto::v1::agent_message::Body as ToHub;
use tokio::time::timeout;
use tracing::warn;

use super::Driver;
use crate::join::now;
use crate::spoke::ControlState;

/// How long the hub may take to close its side of the last stream.
const FAREWELL: Duration = Duration::from_millis(300);

impl Driver {
    /// Tells all targets, where they are not what was told last, or at the start of a stream.
    pub(super) fn offer(&mut self, always: bool) {
        let targets = if self.is_draining { v1::TargetSet::default() } else { self.targets.clone() };
        let is_news = self.told.as_ref() != Some(&targets);
        if !always && !is_news {
            return;
        }
        if is_news {
            self.duties.offered_anew();
        }
        self.told = Some(targets.clone());
        let is_old = |old: &ToHub| matches!(old, ToHub::Targets(_));
        if self.outbox.push_latest(ToHub::Targets(targets), is_old).is_err() {
            warn!("the outbox is full; targets go out with the next change");
            self.told = None;
        }
    }

    /// Tells how all workloads are doing.
    pub(super) fn report_workloads(&mut self) {
        let Some(report) = &self.workloads else { return };
        let message = ToHub::Workloads(report.clone());
        let is_old = |old: &ToHub| matches!(old, ToHub::Workloads(_));
        if self.outbox.push_latest(message, is_old).is_err() {
            warn!("the outbox is full; how workloads are doing goes out with the next change");
        }
    }

    pub(super) fn drain(&mut self) {
        self.is_draining = true;
        let state = v1::AgentState { draining: true, dropped_messages: self.outbox.dropped() };
        let _ = self.outbox.push(ToHub::State(state), false);
        self.offer(true);
    }

    /// Puts what waits in the outbox on the stream.
    pub(super) fn flush(&mut self) {
        let Some(session) = &self.session else { return };
        while session.has_room() {
            let Some((seq, body)) = self.outbox.poll_transmit() else { return };
            session.send(seq, body.clone());
        }
    }

    /// Ends our side of the stream and lets the hub end its own.
    pub(super) async fn say_goodbye(&mut self) {
        let Some(session) = self.session.take() else { return };
        let mut inbound = session.finish();
        let _ = timeout(FAREWELL, async { while let Ok(Some(_)) = inbound.message().await {} }).await;
    }

    pub(super) fn down(&self, reason: String, hint: Option<String>) {
        self.spoke.control.send_modify(|control| {
            if control.state == ControlState::Up {
                control.since = now();
            }
            control.state = ControlState::Down;
            control.reason = Some(reason);
            control.hint = hint;
        });
    }

    pub(super) fn publish(&self) {
        let stats = self.link.stats();
        let (held, dropped) = (self.outbox.len(), self.outbox.dropped());
        let is_withdrawn = self.is_draining && (self.session.is_none() || self.outbox.is_empty());
        self.spoke.control.send_if_modified(|control| {
            let before =
                (control.attempts, control.sessions, control.held, control.dropped, control.is_withdrawn);
            control.attempts = stats.attempts;
            control.sessions = stats.sessions;
            control.held = held;
            control.dropped = dropped;
            control.is_withdrawn = is_withdrawn;
            before != (stats.attempts, stats.sessions, held, dropped, is_withdrawn)
        });
    }
}
