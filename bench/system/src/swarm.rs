//! Many agents in one process, apart from the one that measures.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_agent::{Agent, AgentConfig, AgentView};
use blueprint_common_runtime::cli::print_line;
use blueprint_common_runtime::tasks::{Spawner, Stop};
use blueprint_common_types::{JoinLine, Secret};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::sleep;

use crate::join::{self, disks};

/// Joins at work at once: fewer than a hub takes, so that none is told to come later.
const AT_ONCE: usize = 32;

/// Longest wait until every data plane echoes.
const READY: Duration = Duration::from_secs(60);

/// Joins and runs agents, says so in one line of JSON, and runs them until standard input ends.
///
/// # Errors
///
/// Fails where one of them cannot join or does not come up.
pub(crate) async fn run(count: u32, spawner: &Spawner) -> Result<()> {
    let mut stdin = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    stdin.read_line(&mut line).await.context("cannot read the join line")?;
    let line = Secret::new(line);
    let line: JoinLine = line.expose().trim().parse()?;
    let disks = disks()?;
    let began = Instant::now();
    let agents: Vec<AgentView> = stream::iter(0..count)
        .map(|number| {
            let line = line.clone();
            let disks = disks.path();
            async move {
                let joined = join::start(line, disks, number, spawner).await?;
                start(joined, spawner).await
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let joined_secs = began.elapsed().as_secs_f64();
    while let Some(late) = agents.iter().position(|agent| !agent.is_ready()) {
        ensure!(
            began.elapsed() < READY,
            "the data plane of agent {late} does not echo, {} of {count} do",
            agents.iter().filter(|agent| agent.is_ready()).count()
        );
        sleep(Duration::from_millis(50)).await;
    }
    let ready_secs = began.elapsed().as_secs_f64();
    print_line(&json!({ "agents": count, "joined_secs": joined_secs, "ready_secs": ready_secs }).to_string());
    let mut rest = Vec::new();
    stdin.read_to_end(&mut rest).await?;
    let ready = agents.iter().filter(|agent| agent.is_ready()).count();
    print_line(&json!({ "ready": ready }).to_string());
    Ok(())
}

/// Runs a joined agent without samples: a thousand of them would measure this machine a thousand times.
async fn start(joined: join::Joined, spawner: &Spawner) -> Result<AgentView> {
    let process = spawner.stop();
    let stop = Stop { drain: process.drain.child_token(), stop: process.stop.child_token() };
    let config = AgentConfig { samples: false, ..AgentConfig::default() };
    let agent = Box::pin(Agent::build(config, joined.state, stop)).await?;
    let view = agent.view();
    // An agent that ends is missed where it is counted.
    spawner.spawn("agent", agent.run(spawner.clone()));
    Ok(view)
}
