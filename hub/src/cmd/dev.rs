//! `dev`: a hub, three agents and example services on this machine, for the first five minutes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use blueprint_common_runtime::cli::{CliError, Output, eprint_line, print_json, print_line};
use blueprint_common_runtime::logs;
use blueprint_common_runtime::state::StateDir;
use blueprint_common_runtime::tasks::Supervisor;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::client::{ask_async, rows, text};
use super::dev_cloud::DevFleet;
use super::init::failure;
use super::{node, serve, service};
use crate::app::{App, Ground};
use crate::cli::Global;
use crate::config::HubConfig;
use crate::files;

/// How long the first start may take before `dev` says what is missing.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Pause between two looks at the services, and how many of them go by between two looks at the machines.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: u32 = 25;

/// Most machines.
pub(super) const MOST_NODES: u32 = 16;

/// Runs a hub with three agents and example services on this machine, without root.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub dev --state ./dev-state
Without --state everything is in a temporary folder that is removed at the end; with it, the next start goes on from there.
Everything listens on loopback. Ctrl-C ends it. The line `export BLUEPRINT_HUB_STATE=...` that it prints has other commands find its \
hub, such as `blueprint-hub offers`; `blueprint-hub deploy` orders of a cloud that costs nothing there.
Its machines are deployments of that cloud, sim-1 and so on: `blueprint-hub list` shows them, `status sim-1` one of them, and \
`terminate sim-1` ends one for good; the next start orders what is missing.")]
pub(crate) struct Dev {
    /// How many machines are ordered of the simulated cloud; those of an earlier start beyond them are switched off
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_NODES)))]
    nodes: u32,
    /// Port of the proxy; 0 lets the system choose
    #[arg(long, default_value_t = 0)]
    proxy_port: u16,
    /// Port of the JSON API; 0 lets the system choose
    #[arg(long, default_value_t = 0)]
    api_port: u16,
}

/// Everything of a dev hub in this folder, which is removed at the end where it is temporary.
struct Folder {
    path: PathBuf,
    temporary: Option<TempDir>,
}

/// Ports that the system chose at the first start; the machines know the hub by them, so they are kept.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ports {
    control: u16,
    tunnel: u16,
    proxy: u16,
    api: u16,
}

impl Ports {
    /// File in the hub's folder.
    const FILE: &str = "dev-ports.json";

    /// Zeros, so that the system chooses, where there was no start before.
    fn of_last_start(hub: &Path) -> Self {
        let text = std::fs::read(hub.join(Self::FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn of(app: &App) -> Self {
        Self {
            control: app.control.port(),
            tunnel: app.tunnel.port(),
            proxy: app.proxy.port(),
            api: app.admin.map_or(0, |address| address.port()),
        }
    }

    fn save(&self, hub: &Path) -> Result<()> {
        let path = hub.join(Self::FILE);
        std::fs::write(&path, serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Dev {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let started = Instant::now();
        let runtime = serve::server_runtime()?;
        // Before there is a temporary folder: a Ctrl-C must not leave it behind.
        let supervisor = listening(&runtime)?;
        let folder = folder(global)?;
        let global = global.with_state(folder.path.join("hub"));
        let config = self.config(&global)?;
        logs::init(&config.log_level, config.log_format)
            .map_err(|error| CliError::config(error.to_string()))?;
        let result = runtime.block_on(self.serve(&global, config, &folder, supervisor, started));
        if let Some(temporary) = folder.temporary
            && let Err(error) = temporary.close()
        {
            return Err(CliError::failure(format!("cannot remove {}: {error}", folder.path.display())));
        }
        result
    }

    fn config(&self, global: &Global) -> Result<HubConfig, CliError> {
        let mut sources = global.sources()?;
        let ports = Ports::of_last_start(&global.state()?);
        let loopback = |port: u16| format!("127.0.0.1:{port}");
        let wanted = |flag: u16, last: u16| loopback(if flag == 0 { last } else { flag });
        let defaults = [
            ("hub.advertise", "127.0.0.1".to_owned()),
            ("control.listen", loopback(ports.control)),
            ("tunnel.listen", loopback(ports.tunnel)),
            ("tunnel.carrier_listen", "off".to_owned()),
            ("proxy.listen", wanted(self.proxy_port, ports.proxy)),
            ("admin.listen", wanted(self.api_port, ports.api)),
            ("session.heartbeat", "1s".to_owned()),
            ("shutdown.grace", "3s".to_owned()),
            ("log.level", "warn".to_owned()),
            ("providers.sim.enabled", "true".to_owned()),
        ];
        // What the caller sets comes after and wins.
        let given = std::mem::take(&mut sources.flags);
        sources.flags = defaults.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        sources.flags.retain(|(key, _)| !given.iter().any(|(other, _)| other == key));
        sources.flags.extend(given);
        let (config, _) = HubConfig::load(&sources)?;
        Ok(config)
    }

    async fn serve(
        &self,
        global: &Global,
        config: HubConfig,
        folder: &Folder,
        supervisor: Supervisor,
        started: Instant,
    ) -> Result<(), CliError> {
        let state = StateDir::open(global.state()?)?;
        if !files::is_initialised(&state).map_err(failure)? {
            files::create(&state).map_err(failure)?;
        }
        let grace = config.grace;
        let mut fleet = DevFleet::new(global, self.nodes).map_err(failure)?;
        let ground = Ground::bind(&config, &state).map_err(serve::of_ground)?;
        let app = Box::pin(App::build(config, state, ground, &supervisor)).await.map_err(failure)?;
        Ports::of(&app).save(&global.state()?).map_err(failure)?;
        let stop = supervisor.stop();
        let bring_up = async {
            let shown = self.bring_up(global, &app, &mut fleet, folder, started);
            let shown = stop.drain.run_until_cancelled(shown).await;
            if let Some(Err(_)) = &shown {
                stop.drain.cancel();
            }
            shown
        };
        let (ran, shown) = tokio::join!(supervisor.run(grace), bring_up);
        let ran = match shown {
            Some(Err(error)) => Err(failure(error)),
            Some(Ok(())) | None => ran.map_err(|error| CliError::failure(error.to_string())),
        };
        if ran.is_ok() && global.output == Output::Table {
            match &folder.temporary {
                Some(_) => print_line("Stopped. Nothing is left; start with --state DIR to keep it."),
                None => print_line(&format!("Stopped. State is kept in {}", folder.path.display())),
            }
        }
        ran
    }

    /// Orders the machines, waits until every service answers, and shows all of it.
    async fn bring_up(
        &self,
        global: &Global,
        app: &App,
        fleet: &mut DevFleet<'_>,
        folder: &Folder,
        started: Instant,
    ) -> Result<()> {
        let old = fleet.forget_old(&folder.path).await?;
        if old > 0 {
            eprint_line(&format!(
                "{old} machines of an earlier version are removed: they were no deployments"
            ));
        }
        fleet.ensure().await?;
        let services = self.wait(global, fleet).await?;
        let token = access_token(global).await?;
        let nodes = ask_async(global, "GET", "/v1/nodes", None).await?;
        let service = "1".to_owned();
        let refused = format!("curl -i -H 'X-Service-Id: {service}' {}/", app.proxy_url);
        let answered = format!(
            "curl -i -H 'X-Service-Id: {service}' -H 'Authorization: Bearer {token}' {}/",
            app.proxy_url
        );
        let api = app.admin.map(|address| format!("http://{address}")).unwrap_or_default();
        if global.output == Output::Json {
            print_json(&json!({
                "ready_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                "proxy": app.proxy_url, "api": api, "state": folder.path, "hub_state": global.state()?, "token": token,
                "nodes": nodes.get("nodes"), "services": services.get("services"),
                "curl_refused": refused, "curl_answered": answered,
            }));
            return Ok(());
        }
        let secs = started.elapsed().as_secs_f64();
        print_line(&format!("blueprint-hub {} is up after {secs:.1} s", app.facts.version));
        print_line(&format!("  proxy  {}", app.proxy_url));
        print_line(&format!("  API    {api}  (token: {}/hub/admin.token)", folder.path.display()));
        print_line(&format!("  state  {}", folder.path.display()));
        print_line("Other commands find this hub after:");
        print_line(&format!("  export BLUEPRINT_HUB_STATE='{}'", global.state()?.display()));
        print_line("  blueprint-hub list     # its machines are deployments of the simulated cloud");
        print_line("");
        node::table(&nodes).print();
        print_line("");
        service::list_table(&services).print();
        print_line("");
        print_line("Refused, because it has no token:");
        print_line(&format!("  {refused}"));
        print_line("Answered by service 1/1, through proxy, WireGuard tunnel and agent:");
        print_line(&format!("  {answered}"));
        print_line("");
        print_line("Ctrl-C ends it.");
        Ok(())
    }

    /// Waits until one target of every machine is healthy; gives the list of services.
    async fn wait(&self, global: &Global, fleet: &DevFleet<'_>) -> Result<Value> {
        let deadline = Instant::now().checked_add(START_DEADLINE).context("the clock is broken")?;
        for look in 1u32.. {
            let answer = ask_async(global, "GET", "/v1/services", None).await?;
            let healthy =
                |row: &&Value| row.get("healthy").and_then(Value::as_u64).is_some_and(|count| count > 0);
            // What else is deployed in a folder that is kept says nothing of them.
            let own = |row: &&Value| fleet.offers(&text(row, "service"));
            let count = rows(&answer, "services").iter().filter(own).filter(healthy).count();
            if count >= usize::try_from(self.nodes)? {
                return Ok(answer);
            }
            if look.is_multiple_of(LOOKS)
                && let Some(why) = fleet.failed().await?
            {
                anyhow::bail!("a simulated machine failed: {why}");
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "only {count} of {} services are healthy after {} s; their consoles are in {}",
                self.nodes,
                START_DEADLINE.as_secs(),
                fleet.folder()?.display(),
            );
            tokio::time::sleep(LOOK).await;
        }
        anyhow::bail!("the services were looked at too often")
    }
}

async fn access_token(global: &Global) -> Result<String> {
    let body = json!({ "label": "dev", "services": "*", "ttl_secs": 24 * 3600 });
    let answer = ask_async(global, "POST", "/v1/access", Some(&body)).await?;
    Ok(text(&answer, "access_token"))
}

fn listening(runtime: &Runtime) -> Result<Supervisor, CliError> {
    let _inside = runtime.enter();
    let mut supervisor = Supervisor::new();
    supervisor.listen()?;
    Ok(supervisor)
}

fn folder(global: &Global) -> Result<Folder, CliError> {
    if let Some(path) = global.explicit_state() {
        std::fs::create_dir_all(&path)?;
        return Ok(Folder { path: path.canonicalize()?, temporary: None });
    }
    let temporary = tempfile::Builder::new().prefix("blueprint-dev-").tempdir()?;
    Ok(Folder { path: temporary.path().to_owned(), temporary: Some(temporary) })
}
