//! Metrics of machines and their services, read through the tunnel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::http_get::{Get, Page};
use blueprint_common_runtime::places::Places;
use blueprint_common_tunnel::Tunnel;
use blueprint_common_types::{AGENT_METRICS_PORT, OverlayLease};
use blueprint_hub_admin::ScrapeFailed;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest page in bytes; an agent passes on less.
const MAX_PAGE: usize = 4 * 1024 * 1024;

/// Pages that are read at once: of all machines, and of one, so that a slow one keeps nobody else's back.
const PAGES: usize = 64;
const PAGES_OF_ONE: u32 = 4;

/// Longest wait for the connection, and for all of it: the usual patience of a scraper.
const CONNECT: Duration = Duration::from_secs(3);
const WITHIN: Duration = Duration::from_secs(9);

const FORMATS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// Reads pages of agents. Clones share their bounds.
#[derive(Debug, Clone)]
pub(crate) struct Scraper {
    tunnel: Tunnel,
    all: Arc<Semaphore>,
    each: Arc<Places<OverlayLease>>,
}

impl Scraper {
    pub(crate) fn new(tunnel: Tunnel) -> Self {
        Self { tunnel, all: Arc::new(Semaphore::new(PAGES)), each: Places::new(PAGES_OF_ONE) }
    }

    /// Asks the agent with this lease for a page.
    pub(crate) async fn page(&self, lease: OverlayLease, path: &str) -> Result<Page, ScrapeFailed> {
        let _own = self.each.begin(lease).ok_or(ScrapeFailed::Busy)?;
        let asked = async {
            // It is never closed.
            let _place = self.all.acquire().await.map_err(|_| ScrapeFailed::Busy)?;
            let address = SocketAddr::from((lease.v4, AGENT_METRICS_PORT));
            let stream = self.tunnel.connect(address, CONNECT).await.map_err(|error| {
                ScrapeFailed::Unreachable(format!(
                    "the agent shows no metrics at overlay port {AGENT_METRICS_PORT} (observe.hub): {error}"
                ))
            })?;
            let host = address.to_string();
            let get = Get { host: &host, path, accept: FORMATS, agent: "blueprint-hub", most: MAX_PAGE };
            get.send(stream).await.map_err(|error| ScrapeFailed::Unreachable(error.to_string()))
        };
        timeout(WITHIN, asked).await.unwrap_or(Err(ScrapeFailed::Late(WITHIN)))
    }
}
