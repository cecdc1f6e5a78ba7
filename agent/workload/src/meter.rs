//! What workloads use, each as a whole: with all that it started, whatever became of the parents of that.
//!
//! A native workload is counted by its control group; where it has none, since the agent is no root or the machine has none,
//! by all processes below its keeper, which gets those that lose their parents. A container is counted by its engine.

use std::collections::BTreeMap;
use std::time::Duration;

use blueprint_common_types::{ServiceKey, WorkloadUse};
use futures_util::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::debug;

use crate::cgroup::Cgroup;
use crate::container::{Engine, Stats};
use crate::tree;

/// How long an engine may take to say what a container uses. Samples of all services wait for it.
const ENGINE_WITHIN: Duration = Duration::from_secs(2);

/// What a workload is counted by.
#[derive(Debug, Clone)]
pub(crate) enum Meter {
    /// Its group where there is one, and the process that is above all of its processes.
    Native(Option<Cgroup>, Option<u32>),
    /// The engine's name for it.
    Container(String),
}

/// Reads all of them; what cannot be read is not there.
pub(crate) async fn read(
    meters: Vec<((ServiceKey, u64), Meter)>,
    engine: &Engine,
) -> BTreeMap<(ServiceKey, u64), WorkloadUse> {
    let (mut native, mut contained) = (Vec::new(), Vec::new());
    for (place, meter) in meters {
        match meter {
            Meter::Native(group, keeper) => native.push((place, group, keeper)),
            Meter::Container(id) => contained.push((place, id)),
        }
    }
    let counted = join_all(contained.into_iter().map(|(place, id)| async move {
        match timeout(ENGINE_WITHIN, Box::pin(engine.stats(&id))).await {
            Ok(Ok(stats)) => Some((place, of_engine(stats?))),
            Ok(Err(error)) => {
                debug!(service = %place.0, %error, "the engine does not say what a container uses");
                None
            }
            Err(_) => None,
        }
    }));
    let mut all: BTreeMap<_, _> = counted.await.into_iter().flatten().collect();
    // Small files, some of which the kernel takes its time to write.
    let read = spawn_blocking(move || {
        let uses = |(place, group, keeper): ((ServiceKey, u64), Option<Cgroup>, Option<u32>)| {
            let of_group = group.and_then(|group| group.uses());
            Some((place, of_group.or_else(|| tree::uses(i32::try_from(keeper?).ok()?))?))
        };
        native.into_iter().filter_map(uses).collect::<Vec<_>>()
    });
    all.extend(read.await.unwrap_or_default());
    all
}

const fn of_engine(stats: Stats) -> WorkloadUse {
    let Stats { cpu, memory_bytes, memory_limit_bytes: _, pids, read_bytes, written_bytes } = stats;
    WorkloadUse { cpu, memory_bytes, pids, read_bytes, written_bytes }
}
