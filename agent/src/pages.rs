//! Metrics that services show of themselves, kept while the hub is away: it reads them itself while it is there.

use std::sync::Arc;
use std::time::Duration;

use blueprint_agent_qos::{ask, scrape};
use blueprint_common_types::{Health, MetricsAsk};
use blueprint_proto::v1;
use futures_util::StreamExt;
use futures_util::stream::iter;
use tokio::time::{Instant, sleep};

use crate::agent::AgentError;
use crate::late::Late;
use crate::service::ServiceSpec;
use crate::shared::Shared;

/// Time between two looks whether the hub is there.
const LOOK: Duration = Duration::from_secs(1);

/// A hub that is away for less is reconnecting.
const AWAY: Duration = Duration::from_secs(3);

/// Pages that are read at once, and how long a service may take for one.
const READS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(5);

/// Services of which pages are kept in one round; the hub has as many at once.
const MOST_SERVICES: usize = 500;

/// Most bytes of a page that are kept; the hub keeps 8 KiB of it.
const PAGE_BYTES: usize = 12 * 1024;

/// Keeps a page of each healthy service at the pace that the configuration names, for as long as the hub is away.
pub(crate) async fn run(shared: Arc<Shared>, late: Arc<Late>) -> Result<(), AgentError> {
    let every = shared.config.pages_every;
    let (mut away_since, mut taken_at): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        let is_there = shared.spoke.caller().is_some() && shared.spoke.plane().is_alive();
        away_since = if is_there { None } else { away_since.or_else(|| Some(Instant::now())) };
        let is_away = away_since.is_some_and(|since| since.elapsed() >= AWAY);
        let pause = if is_away && taken_at.is_none_or(|at| at.elapsed() >= every) {
            taken_at = Some(Instant::now());
            if shared.stop.run_until_cancelled(round(&shared, &late)).await.is_none() {
                return Ok(());
            }
            LOOK.min(every)
        } else {
            LOOK
        };
        if shared.stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return Ok(());
        }
    }
}

/// Reads each service once.
async fn round(shared: &Shared, late: &Arc<Late>) {
    let health = Arc::clone(&shared.health.borrow());
    let table = shared.services();
    let is_well = |port: &u16| health.get(port).is_some_and(|known| known.health == Health::Healthy);
    let shown = table.iter().map(|entry| &entry.spec).filter(|spec| is_well(&spec.port));
    let shown: Vec<ServiceSpec> = shown.take(MOST_SERVICES).cloned().collect();
    let reads = iter(shown).map(|spec| async move { (spec.service, spec.port, read(&spec).await) });
    let mut reads = reads.buffer_unordered(READS);
    while let Some((service, port, text)) = reads.next().await {
        // A service that shows nothing has no page, as while the hub reads it.
        let Some(text) = text.map(|text| cut(&text)).filter(|text| !text.is_empty()) else { continue };
        late.keep_page(v1::ServicePage {
            blueprint_id: service.blueprint,
            service_id: service.service,
            port: port.into(),
            time_millis: blueprint_common_spoke::now().as_millis(),
            text,
        })
        .await;
    }
}

async fn read(spec: &ServiceSpec) -> Option<String> {
    match spec.metrics.of(spec.local)? {
        MetricsAsk::Page(address, path) => {
            let page = scrape(address, path, PATIENCE).await.ok()?;
            Some(String::from_utf8_lossy(&page.body).into_owned())
        }
        MetricsAsk::Grpc(address) => ask(address, spec.service, PATIENCE).await.ok(),
    }
}

/// The first lines that there is room for, without comments.
fn cut(page: &str) -> String {
    let mut kept = String::new();
    for line in page.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if kept.len() + line.len() + 1 > PAGE_BYTES {
            break;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_page_whole_lines_are_kept_and_no_comments() {
        assert_eq!(
            cut("# HELP a b\n# TYPE a counter\na 1\r\n\n  b{c=\"#\"} 2\n# EOF\n"),
            "a 1\nb{c=\"#\"} 2\n"
        );
        assert_eq!(cut("# only words\n"), "");
        let long = "metric_of_a_service 1\n".repeat(10_000);
        let kept = cut(&long);
        assert!(kept.len() <= PAGE_BYTES && kept.len() > PAGE_BYTES - 30 && kept.ends_with(" 1\n"));
        assert_eq!(cut(&"x".repeat(PAGE_BYTES)), "", "a line that has no room");
    }
}
