//! Flows by identity, by their ends and by their next deadline.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::{ORPHAN_TIMEOUT, REST_AFTER};
use crate::flow::{Flow, FlowId, FlowState};
use crate::segment::Ends;

/// Who began a connection.
pub(super) enum Origin {
    /// We did, or the listener already has it.
    Dialed,
    /// A peer did, and the handshake is not over.
    Opening {
        /// The listener's port.
        port: u16,
    },
}

/// The engine's side of a flow.
pub(super) struct Entry {
    pub(super) flow: Arc<Flow>,
    pub(super) ends: Ends,
    pub(super) origin: Origin,
    /// It stands in the queue of flows with work.
    pub(super) waiting: bool,
    /// When it leaves the table, once in TIME-WAIT.
    pub(super) leave_at: Option<Instant>,
    orphan: Option<(Instant, usize)>,
    rest_at: Option<Instant>,
    timer: Option<Instant>,
}

impl Entry {
    pub(super) const fn new(flow: Arc<Flow>, ends: Ends, origin: Origin) -> Self {
        Self { flow, ends, origin, waiting: false, leave_at: None, orphan: None, rest_at: None, timer: None }
    }

    /// Lets a flow give memory back where it is time to, and says when it is the next time.
    pub(super) fn rest(&mut self, state: &mut FlowState, now: Instant) -> Option<Instant> {
        if !state.may_rest() {
            self.rest_at = None;
        } else if *self.rest_at.get_or_insert(now + REST_AFTER) <= now {
            state.rest();
            self.rest_at = state.may_rest().then_some(now + REST_AFTER);
        }
        self.rest_at
    }

    /// Until when a flow without a stream may go on; `None` where it made no progress for too long.
    pub(super) fn orphan_deadline(&mut self, queued_bytes: usize, now: Instant) -> Option<Instant> {
        let (deadline, before) = *self.orphan.get_or_insert((now + ORPHAN_TIMEOUT, queued_bytes));
        if now < deadline {
            return Some(deadline);
        }
        if queued_bytes >= before {
            return None;
        }
        self.orphan = Some((now + ORPHAN_TIMEOUT, queued_bytes));
        Some(now + ORPHAN_TIMEOUT)
    }
}

/// The flows of one netstack.
#[derive(Default)]
pub(super) struct FlowTable {
    entries: HashMap<FlowId, Entry>,
    by_ends: HashMap<Ends, FlowId>,
    timers: BTreeSet<(Instant, FlowId)>,
    last_id: FlowId,
}

impl FlowTable {
    pub(super) const fn next_id(&mut self) -> FlowId {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        self.by_ends.insert(entry.ends, entry.flow.id());
        self.entries.insert(entry.flow.id(), entry);
    }

    pub(super) fn remove(&mut self, id: FlowId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.by_ends.remove(&entry.ends);
        if let Some(timer) = entry.timer {
            self.timers.remove(&(timer, id));
        }
        Some(entry)
    }

    pub(super) fn entry(&mut self, id: FlowId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    pub(super) fn find(&self, ends: &Ends) -> Option<FlowId> {
        self.by_ends.get(ends).copied()
    }

    pub(super) fn contains(&self, ends: &Ends) -> bool {
        self.by_ends.contains_key(ends)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn ids(&self) -> Vec<FlowId> {
        self.entries.keys().copied().collect()
    }

    /// Sees to it that the flow is served at `at` or before.
    ///
    /// A timer that is already set for earlier stays: serving a flow for nothing once is cheaper
    /// than moving its timer with every packet.
    pub(super) fn schedule(&mut self, id: FlowId, at: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.timer.is_some_and(|timer| timer <= at) {
            return;
        }
        if let Some(timer) = entry.timer.replace(at) {
            self.timers.remove(&(timer, id));
        }
        self.timers.insert((at, id));
    }

    /// Takes the next flow whose time has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<FlowId> {
        let (at, id) = *self.timers.first()?;
        if at > now {
            return None;
        }
        self.timers.pop_first();
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.timer = None;
        }
        Some(id)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }
}
