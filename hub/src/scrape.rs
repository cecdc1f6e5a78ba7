//! Metrics of machines and their services, read through the tunnel.

use std::net::SocketAddr;
use std::time::Duration;

use blueprint_common_runtime::http_get::{Get, Page};
use blueprint_common_tunnel::Tunnel;
use blueprint_common_types::{AGENT_METRICS_PORT, OverlayLease};
use blueprint_hub_admin::ScrapeFailed;
use tokio::time::timeout;

/// Longest page in bytes; an agent passes on less.
const MAX_PAGE: usize = 4 * 1024 * 1024;

/// Longest wait for the connection, and for all of it: the usual patience of a scraper.
const CONNECT: Duration = Duration::from_secs(3);
const WITHIN: Duration = Duration::from_secs(9);

const FORMATS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// Asks the agent with this lease for a page.
pub(crate) async fn scrape(tunnel: &Tunnel, lease: OverlayLease, path: &str) -> Result<Page, ScrapeFailed> {
    let address = SocketAddr::from((lease.v4, AGENT_METRICS_PORT));
    let asked = async {
        let stream = tunnel.connect(address, CONNECT).await.map_err(|error| {
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
