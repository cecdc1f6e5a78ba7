//! What a spoke inside a program does at its hub: nothing but being there.

use std::time::SystemTime;

use blueprint_common_spoke::{CallError, Duties, Refusal};
use blueprint_common_types::Timestamp;
use blueprint_common_types::workload::WorkloadState;
use blueprint_proto::v1;
use tokio::sync::watch;
use tracing::warn;

/// Why a workload does not run here.
const NO_WORKLOADS: &str =
    "this node is a program that only opens streams and runs no workloads; name other nodes with --node";

/// Tells the hub that nothing is run here, whatever it assigns.
#[derive(Debug)]
pub(crate) struct Bystander {
    pub(crate) report: watch::Sender<v1::WorkloadReport>,
}

impl Duties for Bystander {
    fn offered_anew(&self) {}

    fn refused(&self, _: v1::TargetRefused) {}

    fn assigned(&self, set: v1::WorkloadSet) {
        if !set.workloads.is_empty() {
            warn!(workloads = set.workloads.len(), "the hub assigns workloads to a program that runs none");
        }
        let since_millis = Timestamp::from(SystemTime::now()).as_millis();
        let failed = |row: v1::WorkloadRef| v1::WorkloadStatus {
            blueprint_id: row.blueprint_id,
            service_id: row.service_id,
            generation: row.generation,
            state: WorkloadState::Failed.label().to_owned(),
            reason: NO_WORKLOADS.to_owned(),
            refused: true,
            since_millis,
            ..v1::WorkloadStatus::default()
        };
        let workloads = set.workloads.into_iter().map(failed).collect();
        self.report.send_replace(v1::WorkloadReport { workloads });
    }

    fn logs(&self, request: v1::LogRequest) {
        // The hub hears nothing, and says so to whoever asked.
        warn!(request = request.id, "the hub asks a program that runs no workloads for their output");
    }

    fn door(&self, _: v1::DoorTicket) {
        // Nobody takes the connection, and the hub says so to whoever asked.
        warn!("the hub wants to begin exec or forward at a program that runs no workloads");
    }

    fn hint(&self, error: &CallError) -> Option<String> {
        let hint = match error.refusal()? {
            Refusal::Revoked | Refusal::Outdated => REJOIN,
            Refusal::ClockSkew => "set this machine's clock",
            Refusal::Expired => "the certificate is renewed for 7 days after its end; after that join again",
            Refusal::Full => "remove nodes that are gone: `blueprint-hub node rm`",
            Refusal::BadRequest => "check that hub and program are of matching versions",
            Refusal::TokenUnknown | Refusal::TokenUsed | Refusal::TokenExpired => {
                "make a new join line with `blueprint-hub token create`"
            }
            Refusal::Identity => "join with a line of `blueprint-hub token create`",
            Refusal::Unavailable => "it is tried again by itself",
            Refusal::Other => "look at the hub's log",
        };
        Some(hint.to_owned())
    }
}

/// What to do once the hub does not know this spoke any more.
pub(crate) const REJOIN: &str =
    "empty the state folder, and join with a new line from `blueprint-hub token create`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_assigned_is_said_to_fail_and_why() {
        let (report, told) = watch::channel(v1::WorkloadReport::default());
        let row = v1::WorkloadRef { blueprint_id: 7, service_id: 42, generation: 3, ends: false, slot: 0 };
        Bystander { report }.assigned(v1::WorkloadSet { workloads: vec![row] });
        let told = told.borrow();
        let [row] = told.workloads.as_slice() else { unreachable!("one row") };
        assert_eq!((row.blueprint_id, row.service_id, row.generation), (7, 42, 3));
        assert_eq!(row.state, "failed");
        assert!(row.reason.contains("--node"));
    }
}
