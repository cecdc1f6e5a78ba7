//! Metrics that services showed of themselves while the hub was away.

use std::time::SystemTime;

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::qos::{PagePoint, entries};
use blueprint_hub_registry_core::{AHEAD, Agent, LATE_AGE, LateRefusal};
use blueprint_proto::v1;
use tonic::Status;

use super::{not_stored, offers};
use crate::qos::{KEPT_FOR, KEPT_PAGES, cut};
use crate::registrar::Recorded;
use crate::shared::Shared;

/// Longest page, in bytes.
const PAGE_BYTES: usize = 12 * 1024;

/// What a service showed.
pub(super) struct Page {
    pub(super) service: ServiceKey,
    pub(super) port: u16,
    point: PagePoint,
}

/// A page as it is kept.
pub(super) fn read(page: v1::ServicePage) -> Result<Page, String> {
    if page.text.len() > PAGE_BYTES {
        return Err(format!("a page of {} bytes", page.text.len()));
    }
    let port = u16::try_from(page.port).ok().filter(|port| *port != 0).ok_or("a page of no port")?;
    let service = ServiceKey { blueprint: page.blueprint_id, service: page.service_id };
    let point = (Timestamp::from_millis(page.time_millis), cut(entries(&page.text)));
    Ok(Page { service, port, point })
}

/// Stores what the agent may tell of, and gives how many pages it may not, or that are too old or from the future.
pub(super) async fn take(
    shared: &Shared,
    agent: &Agent,
    pages: Vec<Page>,
    recorded: &Recorded,
) -> Result<usize, Status> {
    if pages.is_empty() {
        return Ok(0);
    }
    let (count, now) = (pages.len(), Timestamp::from(SystemTime::now()));
    let snapshot = shared.registrar.snapshot();
    let mut kept: Vec<(ServiceKey, PagePoint)> = Vec::with_capacity(count);
    for Page { service, port, point } in pages {
        let is_its = offers(&snapshot, agent, (service, port)) || recorded.contains(&(service, port));
        if !is_its {
            shared.metrics.refused("late_page_not_offered");
        } else if let Some(refusal) = refusal(point.0, now) {
            shared.metrics.refused(refusal.label());
        } else if !point.1.is_empty() {
            kept.push((service, point));
        }
    }
    drop(snapshot);
    let refused = count - kept.len();
    if !kept.is_empty() {
        shared.store.write_late_pages(kept, KEPT_FOR, KEPT_PAGES).await.map_err(|_| not_stored())?;
    }
    Ok(refused)
}

fn refusal(at: Timestamp, now: Timestamp) -> Option<LateRefusal> {
    if at.since(now) > AHEAD {
        return Some(LateRefusal::Future);
    }
    (now.since(at) > LATE_AGE).then_some(LateRefusal::Old)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn page(port: u32, text: &str) -> v1::ServicePage {
        v1::ServicePage { blueprint_id: 7, service_id: 42, port, time_millis: 5, text: text.to_owned() }
    }

    #[test]
    fn a_page_becomes_names_and_values_and_one_that_is_none_is_refused() {
        let read = |page| read(page).map(|page| (page.service.to_string(), page.port, page.point));
        let (service, port, (at, found)) = read(page(80, "a 1\nb{c=\"d\"} 2\nwords\n")).unwrap();
        assert_eq!((service.as_str(), port, at), ("7/42", 80, Timestamp::from_millis(5)));
        assert_eq!(found.get("b{c=\"d\"}").map(String::as_str), Some("2"));
        for (port, text) in
            [(0, "a 1\n".to_owned()), (70_000, String::new()), (80, "x".repeat(PAGE_BYTES + 1))]
        {
            assert!(read(page(port, &text)).is_err(), "{port}");
        }
    }

    #[test]
    fn pages_of_another_time_are_refused() {
        let now = Timestamp::from_millis(200 * 3_600_000);
        assert_eq!(refusal(now, now), None);
        assert_eq!(refusal(now.plus(AHEAD + Duration::from_secs(1)), now), Some(LateRefusal::Future));
        let old = Timestamp::from_millis(100 * 3_600_000);
        assert_eq!(refusal(old, now), Some(LateRefusal::Old));
    }
}
