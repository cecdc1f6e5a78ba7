//! Reads the metrics that a service shows of itself.

use std::net::SocketAddr;
use std::time::Duration;

use blueprint_common_runtime::http_get::{Get, Page};
use http::StatusCode;
use tokio::net::TcpStream;

/// Longest page in bytes.
pub const MAX_PAGE: usize = 2 * 1024 * 1024;

/// What scrapers ask for: the text formats.
const FORMATS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScrapeError {
    /// Nothing took the connection, or it broke.
    #[error("cannot be read: {0}")]
    Unreachable(String),
    /// It answered with another status than 200.
    #[error("answers {0}")]
    Status(StatusCode),
    /// It did not answer in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
}

/// Asks `GET path` over a connection of its own; follows no redirect.
///
/// # Errors
///
/// Each variant of [`ScrapeError`] says its case; a page of more than [`MAX_PAGE`] bytes cannot be read.
///
/// # Cancel safety
///
/// Dropping it closes the connection.
pub async fn scrape(address: SocketAddr, path: &str, within: Duration) -> Result<Page, ScrapeError> {
    let page =
        tokio::time::timeout(within, page(address, path)).await.map_err(|_| ScrapeError::Late(within))??;
    if page.status == StatusCode::OK { Ok(page) } else { Err(ScrapeError::Status(page.status)) }
}

async fn page(address: SocketAddr, path: &str) -> Result<Page, ScrapeError> {
    let stream =
        TcpStream::connect(address).await.map_err(|error| ScrapeError::Unreachable(error.to_string()))?;
    let host = address.to_string();
    let get = Get { host: &host, path, accept: FORMATS, agent: "blueprint-agent", most: MAX_PAGE };
    get.send(stream).await.map_err(|error| ScrapeError::Unreachable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn nobody_there_and_a_silent_one_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let late = Duration::from_millis(50);
        assert_eq!(scrape(address, "/", late).await, Err(ScrapeError::Late(late)));
        drop(listener);
        assert!(matches!(scrape(address, "/", WITHIN).await, Err(ScrapeError::Unreachable(_))));
    }
}
