//! Brings refused requests into the audit log, a bounded number of rows a minute.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blueprint_common_types::Timestamp;
use blueprint_hub_proxy::Ledger;
use blueprint_hub_proxy_core::refused::RefusedRow;
use blueprint_hub_registry_core::{AuditEvent, AuditKind, Store};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// How often rows are written.
const PACE: Duration = Duration::from_secs(60);

/// How long the last rows may take when the hub stops.
const LAST: Duration = Duration::from_secs(1);

/// Writes what was refused, each minute and once more at `stop`.
pub(crate) async fn write_refusals(store: Arc<dyn Store>, ledger: Ledger, stop: CancellationToken) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(pace.tick()).await.is_some() {
        write(store.as_ref(), &ledger).await;
    }
    let _ = timeout(LAST, write(store.as_ref(), &ledger)).await;
    let lost: u64 = ledger.take_refused().iter().map(|row| row.count).sum();
    if lost > 0 {
        error!(requests = lost, "refused requests not in the audit log, the hub stops");
    }
}

/// Rows on their way into the store; those that do not get there are counted once more.
struct Rows<'l> {
    ledger: &'l Ledger,
    rows: VecDeque<RefusedRow>,
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        self.ledger.keep_refused(self.rows.drain(..));
    }
}

async fn write(store: &dyn Store, ledger: &Ledger) {
    let mut left = Rows { ledger, rows: ledger.take_refused().into() };
    while let Some(row) = left.rows.front() {
        let event = event(row);
        info!(target: "audit", service = event.subject, detail = event.detail, "requests refused");
        if let Err(error) = store.audit(event, Timestamp::from(SystemTime::now())).await {
            return error!(%error, rows = left.rows.len(), "audit rows not stored, they are tried again");
        }
        left.rows.pop_front();
    }
}

fn event(row: &RefusedRow) -> AuditEvent {
    let subject = row.by.service.map_or_else(|| "-".to_owned(), |service| service.to_string());
    let source =
        row.by.source.map_or_else(|| "several or unproved networks".to_owned(), |source| source.to_string());
    let noun = if row.count == 1 { "request" } else { "requests" };
    let whose = row.identity.as_ref().map_or_else(String::new, |id| format!(", the last with {id}"));
    let detail = format!("{}: {} {noun} from {source}{whose}", row.by.code, row.count);
    AuditEvent::new(AuditKind::RequestRefuse, subject, detail)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use blueprint_common_types::ServiceKey;
    use blueprint_hub_proxy_core::refused::RefusedBy;

    use super::*;

    #[test]
    fn rows_that_did_not_get_into_the_store_are_counted_once_more() {
        let ledger = Ledger::default();
        let row = |number: u8| {
            let source = Some(IpAddr::from([192, 0, 2, number]));
            let by = RefusedBy { service: None, code: "rule_refused", source };
            RefusedRow { by, count: 3, identity: None }
        };
        let mut left = Rows { ledger: &ledger, rows: VecDeque::from([row(1), row(2)]) };
        left.rows.pop_front();
        drop(left);
        assert_eq!(ledger.take_refused(), [row(2)]);
    }

    #[test]
    fn a_row_says_what_was_refused_and_to_whom() {
        let service = Some(ServiceKey { blueprint: 7, service: 42 });
        let source = Some(IpAddr::from([192, 0, 2, 7]));
        let by = RefusedBy { service, code: "rule_refused", source };
        let full = event(&RefusedRow { by, count: 12, identity: Some("ak_1".to_owned()) });
        assert_eq!(
            (full.subject.as_str(), full.detail.as_str()),
            ("7/42", "rule_refused: 12 requests from 192.0.2.7, the last with ak_1")
        );
        let by = RefusedBy { service: None, code: "invalid_token", source: None };
        let bare = event(&RefusedRow { by, count: 1, identity: None });
        assert_eq!(
            (bare.subject.as_str(), bare.detail.as_str()),
            ("-", "invalid_token: 1 request from several or unproved networks")
        );
    }
}
