//! A hub as its operator runs it: `init`, then `serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use blueprint_common_runtime::local_api::LocalClient;
use blueprint_common_types::JoinLine;
use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::host::TUNNEL_MTU;
use crate::process::{Running, Usage, program};

/// Longest wait for something that takes well under a second on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A hub on loopback with ports that the system chose.
#[derive(Debug)]
pub(crate) struct Hub {
    process: Running,
    api: LocalClient,
}

impl Hub {
    /// Makes and starts one; everything of it is in `folder`.
    ///
    /// # Errors
    ///
    /// Fails where it does not start in time.
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, &[]).await
    }

    /// The same with settings of `hub.toml` on top.
    ///
    /// # Errors
    ///
    /// Fails where it does not start in time.
    pub(crate) async fn start_with(folder: &Path, more: &[&str]) -> Result<Self> {
        let program = program("blueprint-hub")?;
        let state = folder.join("hub");
        init(&program, &state).await?;
        let mtu = format!("tunnel.mtu={TUNNEL_MTU}");
        let settings =
            ["control.listen=127.0.0.1:0", "tunnel.listen=127.0.0.1:0", "proxy.listen=127.0.0.1:0"];
        let mut arguments = vec!["serve".into(), "--state".into(), state.clone().into_os_string()];
        for setting in settings
            .into_iter()
            .chain([mtu.as_str(), "log.level=warn", "log.access=off"])
            .chain(more.iter().copied())
        {
            arguments.extend(["--set".into(), setting.into()]);
        }
        let process = Running::start(&program, folder, arguments)?;
        let hub = Self { process, api: LocalClient::new(state.join("hub.sock")) };
        hub.wait("the hub to answer", SOON, |_| true).await?;
        Ok(hub)
    }

    /// Asks its JSON API.
    ///
    /// # Errors
    ///
    /// Fails where it does not answer, or refuses.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let (status, answer) = self.api.request(method, path, body.as_ref()).await?;
        ensure!(status.is_success(), "{path}: {status}: {answer}");
        Ok(answer)
    }

    /// Waits until its status is as wanted, and returns it.
    ///
    /// # Errors
    ///
    /// Fails where it is not in time.
    pub(crate) async fn wait(
        &self,
        what: &str,
        within: Duration,
        is_there: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let began = Instant::now();
        loop {
            let status = self.ask(Method::GET, "/v1/status", None).await;
            match status {
                Ok(status) if is_there(&status) => return Ok(status),
                Ok(status) if began.elapsed() > within => bail!("waited in vain for {what}: {status}"),
                Err(error) if began.elapsed() > within => {
                    // Says so with the end of its log where it has ended.
                    self.usage()?;
                    return Err(error).with_context(|| format!("waited in vain for {what}"));
                }
                Ok(_) | Err(_) => sleep(LOOK).await,
            }
        }
    }

    /// A join line that is good for `uses` machines.
    ///
    /// # Errors
    ///
    /// Fails where the hub does not answer.
    pub(crate) async fn join_line(&self, uses: u32) -> Result<JoinLine> {
        let body = json!({ "ttl_secs": 900, "uses": uses, "label": "bench" });
        let answer = self.ask(Method::POST, "/v1/tokens", Some(body)).await?;
        Ok(text(&answer, "/join_line")?.parse()?)
    }

    /// A token that opens every service.
    ///
    /// # Errors
    ///
    /// Fails where the hub does not answer.
    pub(crate) async fn access_token(&self) -> Result<String> {
        let body = json!({ "ttl_secs": 900, "services": "*", "label": "bench" });
        let answer = self.ask(Method::POST, "/v1/access", Some(body)).await?;
        Ok(text(&answer, "/access_token")?.to_owned())
    }

    /// Where its proxy listens.
    ///
    /// # Errors
    ///
    /// Fails where the hub does not answer.
    pub(crate) async fn proxy(&self) -> Result<SocketAddr> {
        let status = self.ask(Method::GET, "/v1/status", None).await?;
        address(text(&status, "/proxy")?)
    }

    /// Its process id.
    pub(crate) const fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// What its process uses.
    ///
    /// # Errors
    ///
    /// Fails where it has ended.
    pub(crate) fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// Fails where it does not end, or had ended.
    pub(crate) async fn end(self) -> Result<()> {
        self.process.end(Signal::SIGTERM).await
    }
}

/// Runs `blueprint-hub init`.
async fn init(program: &PathBuf, state: &Path) -> Result<()> {
    let mut command = tokio::process::Command::new(program);
    command.args(["init", "--advertise", "127.0.0.1", "--state"]).arg(state).kill_on_drop(true);
    let made = timeout(SOON, command.output()).await.context("init does not end")??;
    ensure!(made.status.success(), "init: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

/// The text that `pointer` (RFC 6901) names in a document.
///
/// # Errors
///
/// Fails where there is none.
pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> Result<&'v str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no text at {pointer}"))
}

/// The address in a URL such as `http://127.0.0.1:8276`.
///
/// # Errors
///
/// Fails where it has another form.
pub(crate) fn address(url: &str) -> Result<SocketAddr> {
    url.strip_prefix("http://").unwrap_or(url).parse().with_context(|| format!("no address in {url:?}"))
}
