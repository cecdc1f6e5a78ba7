//! What a workload tells of itself.

use std::time::{Duration, SystemTime};

use blueprint_agent_workload_core::Done;
use blueprint_common_types::Timestamp;
use blueprint_common_types::workload::{MAX_STEPS, RecoveryStep, WorkloadStatus};
use tracing::info;

use super::Run;

impl Run<'_> {
    /// Tells where it stands, where that is news.
    pub(super) fn tell(&mut self) {
        self.note_steps();
        let status = self.workload.status(self.life.state());
        let earlier = self.told.as_ref().filter(|told| told.state == status.state);
        let now = WorkloadStatus {
            reason: self.life.reason().to_owned(),
            restarts: self.life.restarts().saturating_add(self.workload.falls),
            pid: self.running.as_ref().and_then(|running| running.instance.pid()),
            exit_code: self.life.exit_code(),
            since: earlier.map_or(status.since, |told| told.since),
            health: self.life.health(),
            health_reason: self.life.health_reason().to_owned(),
            asks_move: self.life.asks_move(),
            refused: self.life.is_refused(),
            steps: self.steps.iter().cloned().collect(),
            ..status
        };
        if self.told.as_ref() != Some(&now) {
            (self.workload.tell)(now.clone());
            self.told = Some(now);
        }
    }

    /// Gives what was done to make it well its time, each a later one than the last: that tells steps apart.
    fn note_steps(&mut self) {
        for Done { kind, reason } in self.life.take_done() {
            info!(service = %self.workload.seat.service, step = kind.label(), reason, "step of recovery");
            let now = Timestamp::from(SystemTime::now());
            let after = self.steps.back().map(|last| last.at.plus(Duration::from_millis(1)));
            self.steps.push_back(RecoveryStep {
                at: after.map_or(now, |after| after.max(now)),
                kind,
                reason,
            });
            while self.steps.len() > MAX_STEPS {
                self.steps.pop_front();
            }
        }
    }
}
