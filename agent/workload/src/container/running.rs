//! A container that was started: its end, its output, its figures.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use blueprint_agent_workload_core::Exit;
use http::StatusCode;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::inspect::{Container, Figures};
use super::transport::{Call, Socket};
use super::{EngineError, Logs, remove};

/// How long an engine may be away, for a restart perhaps, until nobody knows how its container ended.
const AWAY: Duration = Duration::from_secs(30);

/// Pause between two looks for an engine that is away.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What the image's own check says of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Not checked yet, or within the start period of the image.
    Starting,
    /// The last check succeeded.
    Healthy,
    /// As many checks in a row failed as the image allows.
    Unhealthy {
        /// What the last one wrote, cut.
        said: String,
    },
}

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time since its start.
    pub cpu: Duration,
    /// Memory in bytes, without what the kernel only caches of files and takes back first.
    pub memory_bytes: u64,
    /// Its limit of memory in bytes.
    pub memory_limit_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from disks since its start; 0 where the kernel does not count them.
    pub read_bytes: u64,
    /// Bytes written to disks since its start; 0 where the kernel does not count them.
    pub written_bytes: u64,
}

/// A container that was started. Dropping it leaves the container as it is.
#[derive(Debug, Clone)]
pub struct Running {
    /// The engine's name for it, 64 hexadecimal digits.
    pub id: String,
    /// Its name, as the specification says.
    pub name: String,
    /// Process id of its first process as the engine sees it; `None` where it has ended already.
    pub pid: Option<u32>,
    /// Its address in the engine's own network, which this node reaches; `None` with a rootless engine or where it has
    /// ended already.
    pub address: Option<IpAddr>,
    /// Address of this node in that network.
    pub gateway: Option<IpAddr>,
    /// Where this node reaches each port inside; the engine chose the ports.
    pub ports: BTreeMap<u16, SocketAddr>,
    /// Whether its image brings a check of its health along.
    pub has_check: bool,
    /// GPUs that it got; 0 where they were only preferred and there are none.
    pub gpus: u8,
    pub(super) socket: Socket,
    pub(super) api: String,
    pub(super) has_terminal: bool,
}

impl Running {
    pub(super) fn new(socket: Socket, api: String, name: &str, container: &Container) -> Self {
        Self {
            id: container.id.clone(),
            name: name.to_owned(),
            pid: container.pid(),
            address: container.address(),
            gateway: container.gateway(),
            ports: container.ports(),
            has_check: container.health().is_some(),
            gpus: 0,
            socket,
            api,
            has_terminal: container.has_terminal(),
        }
    }

    /// Waits for its end, however long that takes, and says how it ended.
    ///
    /// Engines tell a code above 128 and a signal apart no more than shells do: it is taken for the signal. Podman 4.3
    /// on cgroup v1 does not say that it was the memory; then it is signal 9. A container that is gone, or whose engine
    /// is away for more than 30 s, has ended in an unknown way.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing; the next call waits for the same end.
    pub async fn wait(&self) -> Exit {
        let mut away_since: Option<Instant> = None;
        loop {
            let begin = Instant::now();
            let error = match self.wait_once().await {
                Ok(Some(exit)) => return exit,
                Ok(None) => {
                    sleep(LOOK_AGAIN).await;
                    continue;
                }
                Err(error) => error,
            };
            if begin.elapsed() >= LOOK_AGAIN {
                away_since = None;
            }
            let since = *away_since.get_or_insert(begin);
            if !error.may_pass() || since.elapsed() >= AWAY {
                debug!(container = %self.name, %error, "the end of a container is unknown");
                return Exit::Unknown;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// How it ended; `None` where it runs after all.
    async fn wait_once(&self) -> Result<Option<Exit>, EngineError> {
        let path = format!("{}/containers/{}/wait?condition=not-running", self.api, self.id);
        let call = Call::post(format!("wait for the end of {}", self.name), path);
        let mut answer = self.socket.open(&call).await?;
        let body = answer.collect(&call).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Some(Exit::Unknown));
        }
        if !answer.status.is_success() {
            return Err(EngineError::refusal(&call.action, answer.status, &body));
        }
        Ok(self.inspect().await?.map_or(Some(Exit::Unknown), |container| container.exit()))
    }

    /// Asks it to end with SIGTERM. One that has ended already is no error.
    ///
    /// # Errors
    ///
    /// Fails where the engine does not do it, or does not answer within a minute.
    pub async fn terminate(&self) -> Result<(), EngineError> {
        self.signal("SIGTERM").await
    }

    /// Kills it and all that it started. One that has ended already is no error.
    ///
    /// # Errors
    ///
    /// As [`Running::terminate`].
    pub async fn kill(&self) -> Result<(), EngineError> {
        self.signal("SIGKILL").await
    }

    async fn signal(&self, signal: &str) -> Result<(), EngineError> {
        let path = format!("{}/containers/{}/kill?signal={signal}", self.api, self.id);
        let call = Call::post(format!("send {signal} to {}", self.name), path);
        // 404 and 409: it is gone, or does not run.
        self.socket.tell(&call, &[StatusCode::NOT_FOUND, StatusCode::CONFLICT]).await.map(drop)
    }

    /// Removes it with all that it wrote, killing it first where it runs. What is mounted stays.
    ///
    /// # Errors
    ///
    /// As [`Running::terminate`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave it half removed; a further call goes on.
    pub async fn remove(&self) -> Result<(), EngineError> {
        remove(&self.socket, &self.api, &self.id).await
    }

    /// Its output from `since` on, or from the start, and on to its end.
    ///
    /// The engine keeps some 20 MiB, so that nothing is missed between two calls that are not far apart.
    ///
    /// # Errors
    ///
    /// Fails where the engine cannot give it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future or the stream ends the reading and nothing else.
    pub async fn logs(&self, since: Option<SystemTime>) -> Result<Logs, EngineError> {
        Box::pin(Logs::open(self, since)).await
    }

    /// What it uses now; zeros where it has ended.
    ///
    /// # Errors
    ///
    /// Fails where the engine does not say it within 10 s.
    pub async fn stats(&self) -> Result<Stats, EngineError> {
        Ok(figures(&self.socket, &self.api, &self.id).await?.unwrap_or_default())
    }

    /// What the image's own check says; `None` where the image has none, or the engine does not say it within 10 s.
    pub async fn health(&self) -> Option<Health> {
        match self.inspect().await {
            Ok(container) => container?.health(),
            Err(error) => {
                debug!(container = %self.name, %error, "no health of a container");
                None
            }
        }
    }

    async fn inspect(&self) -> Result<Option<Container>, EngineError> {
        Container::find(&self.socket, &self.api, &self.id).await
    }
}

/// What a container uses now; `None` where it is gone.
pub(super) async fn figures(socket: &Socket, api: &str, id: &str) -> Result<Option<Stats>, EngineError> {
    let path = format!("{api}/containers/{id}/stats?stream=false&one-shot=true");
    let call = Call::get(format!("say what {id} uses"), path);
    Ok(socket.find::<Figures>(&call).await?.map(|figures| figures.to_stats()))
}
