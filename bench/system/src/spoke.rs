//! A machine that has joined: its agent and one example service, each a process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use blueprint_common_types::JoinLine;
use nix::sys::signal::Signal;
use tokio::time::{Duration, Instant, sleep};

use crate::hub::{Hub, SOON};
use crate::process::{Running, program};

/// Number of the service that [`Spoke::start`] offers, as clients name it.
pub(crate) const SERVICE: &str = "42";

/// A running agent with a service.
#[derive(Debug)]
pub(crate) struct Spoke {
    /// The agent.
    pub(crate) agent: Running,
    service: Running,
    /// Where the service listens.
    pub(crate) local: SocketAddr,
}

impl Spoke {
    /// Starts both, and waits until the hub regards the service as healthy.
    ///
    /// # Errors
    ///
    /// Fails where it is not in time.
    pub(crate) async fn start(hub: &Hub, folder: &Path) -> Result<Self> {
        let (service, local) = start_service(folder).await?;
        let agent = Self::before(hub, local, folder).await?;
        Ok(Self { agent, service, local })
    }

    /// Starts an agent alone, before a service that runs already and answers `GET /healthz`.
    ///
    /// # Errors
    ///
    /// Fails where it is not in time.
    pub(crate) async fn before(hub: &Hub, local: SocketAddr, folder: &Path) -> Result<Running> {
        let agent = start_agent(&hub.join_line(1).await?, local, folder).await?;
        let is_healthy = |status: &serde_json::Value| status.pointer("/services/healthy") == Some(&1.into());
        if let Err(error) = hub.wait("a healthy service", SOON, is_healthy).await {
            // Says so with the end of its log where it has ended.
            agent.usage()?;
            return Err(error);
        }
        Ok(agent)
    }

    /// Ends both.
    ///
    /// # Errors
    ///
    /// Fails where one does not end, or had ended.
    pub(crate) async fn end(self) -> Result<()> {
        self.agent.end(Signal::SIGTERM).await?;
        self.service.end(Signal::SIGTERM).await
    }
}

async fn start_service(folder: &Path) -> Result<(Running, SocketAddr)> {
    let file = folder.join("port");
    let mut arguments = vec!["--exit-on-stdin-close".into(), "--port-file".into()];
    arguments.push(file.clone().into_os_string());
    let service = Running::start(&program("blueprint-example-service")?, folder, arguments)?;
    let began = Instant::now();
    loop {
        let port = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u16>().ok());
        if let Some(port) = port {
            return Ok((service, SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        }
        service.usage()?;
        anyhow::ensure!(began.elapsed() < SOON, "the example service does not start");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The agent joins by itself, with a line in a file that only its user can read.
async fn start_agent(line: &JoinLine, local: SocketAddr, folder: &Path) -> Result<Running> {
    let (line_file, config) = (folder.join("join-line"), folder.join("agent.toml"));
    write_secret(&line_file, line.expose_text().expose()).await?;
    let text = format!(
        "[agent]\njoin_file = {line_file:?}\n[tunnel]\nlisten = \"127.0.0.1:0\"\n\
         [observe]\nlisten = \"127.0.0.1:0\"\n\
         [[service]]\nblueprint = 7\nservice = {SERVICE}\nlocal = \"{local}\"\ncheck = \"http:/healthz\"\n"
    );
    std::fs::write(&config, text).context("cannot write the agent's configuration")?;
    let mut arguments = vec!["run".into(), "--exit-on-stdin-close".into(), "--config".into()];
    arguments.push(config.into_os_string());
    arguments.extend(["--state".into(), folder.join("agent").into_os_string()]);
    Running::start(&program("blueprint-agent")?, folder, arguments)
}

/// Starts an agent that offers nothing by itself and runs what the hub assigns.
///
/// # Errors
///
/// Fails where it cannot be started.
pub(crate) async fn start_node(line: &JoinLine, folder: &Path) -> Result<Running> {
    let (line_file, config) = (folder.join("node-line"), folder.join("node.toml"));
    write_secret(&line_file, line.expose_text().expose()).await?;
    let text = format!(
        "[agent]\njoin_file = {line_file:?}\n[tunnel]\nlisten = \"127.0.0.1:0\"\n\
         [observe]\nlisten = \"127.0.0.1:0\"\n"
    );
    std::fs::write(&config, text).context("cannot write the agent's configuration")?;
    let mut arguments = vec!["run".into(), "--exit-on-stdin-close".into(), "--config".into()];
    arguments.push(config.into_os_string());
    arguments.extend(["--state".into(), folder.join("node").into_os_string()]);
    Running::start(&program("blueprint-agent")?, folder, arguments)
}

async fn write_secret(path: &Path, text: &str) -> Result<()> {
    use tokio::io::AsyncWriteExt;
    let mut options = tokio::fs::OpenOptions::new();
    let mut file = options.create_new(true).write(true).mode(0o600).open(path).await?;
    file.write_all(text.as_bytes()).await?;
    file.flush().await.context("cannot write the join line")
}
