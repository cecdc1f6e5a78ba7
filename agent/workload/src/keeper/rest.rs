//! A keeper at rest: it waits for months, beside every workload, and holds little meanwhile.

use std::convert::Infallible;
use std::time::Duration;

use blueprint_common_tunnel::give_back_memory;
use tokio::time::sleep;

/// When most of what a start needs has been used: its own, and reading the first lines of what it keeps.
const SETTLED: Duration = Duration::from_secs(5);

/// Does `work`; once what its start needs has been used, this process gives that back.
pub(super) async fn at_rest<T>(work: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        result = work => result,
        never = settle() => match never {},
    }
}

async fn settle() -> Infallible {
    sleep(SETTLED).await;
    // It goes on with more memory where it cannot; nobody could do anything about it.
    let _ = give_back_memory();
    std::future::pending().await
}
