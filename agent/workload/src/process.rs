//! A native workload as a process of this machine, and its keeper above it.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use blueprint_agent_workload_core::{Exit, PrepareFailed};
use blueprint_common_runtime::tasks::Spawner;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tracing::warn;

use crate::cgroup::Cgroup;
use crate::keeper::{Errand, KEEP, News, Order, pair};
use crate::launch::ARGUMENT;
use crate::left::Traces;
use crate::output::Output;
use crate::users::{UserRun, UserWatch};

/// How long a keeper may take to start a process; a machine that is busy takes a second.
const START_WITHIN: Duration = Duration::from_secs(20);

/// A running process with all that it started.
#[derive(Debug)]
pub(crate) struct Process {
    keeper: Child,
    orders: OwnedWriteHalf,
    news: Lines<BufReader<OwnedReadHalf>>,
    pid: u32,
    traces: Traces,
    /// That it runs as its user, where it has one of its own.
    user_run: Option<UserRun>,
    group: Option<Cgroup>,
    kills_before: u64,
    /// What its keeper says of itself.
    output: Output,
    /// The last line of the workload.
    said: Option<String>,
    /// How it ended, once that is known.
    exit: Option<Exit>,
}

impl Process {
    /// Starts it; `agent` is the agent's own program. What it runs in and as is held until its end.
    pub(crate) async fn start(
        agent: &PathBuf,
        errand: &Errand,
        (group, user_run): (Option<Cgroup>, Option<UserRun>),
        spawner: &Spawner,
    ) -> Result<Self, PrepareFailed> {
        let failed = |what: &str, error: io::Error| PrepareFailed::here_for_now(format!("{what}: {error}"));
        let kills_before = group.as_ref().map_or(0, Cgroup::out_of_memory);
        let mut text = serde_json::to_vec(errand).map_err(|error| failed("what to run", error.into()))?;
        text.push(b'\n');
        let (ours, theirs) = pair().map_err(|error| failed("no socket for its keeper", error))?;
        let mut keeper = Command::new(agent)
            .args([ARGUMENT, KEEP])
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed("no process can be started", error))?;
        let output = Output::default();
        if let Some(stderr) = keeper.stderr.take() {
            spawner.spawn_base("keeper output", output.clone().follow(stderr));
        }
        let (read, mut orders) = ours.into_split();
        let mut news = BufReader::new(read).lines();
        let started = async {
            // A keeper that is gone already has said why.
            let _ = orders.write_all(&text).await;
            news.next_line().await.ok().flatten().and_then(|line| News::parse(&line))
        };
        let Ok(Some(News::Started(pid))) = timeout(START_WITHIN, started).await else {
            // Its end of the socket closes with ours, and it ends.
            output.ended().await;
            let said = output.last().unwrap_or_else(|| "its keeper says nothing".to_owned());
            let reason = format!("no process can be started: {said}");
            return Err(PrepareFailed::for_now(reason));
        };
        let user = errand.launch.user.map(|(user, _)| user);
        let traces = Traces::of(keeper.id(), pid, user);
        let (said, exit) = (None, None);
        Ok(Self { keeper, orders, news, pid, traces, user_run, group, kills_before, output, said, exit })
    }

    /// Number of the workload's own process.
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Number of the process above it; `None` once that has ended.
    pub(crate) fn keeper(&self) -> Option<u32> {
        self.keeper.id()
    }

    /// What the next agent has to know, should this one be killed.
    pub(crate) const fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Waits for its end; then nothing that it started is left.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub(crate) async fn wait(&mut self) -> Exit {
        while self.exit.is_none() {
            let news = self.news.next_line().await.ok().flatten();
            match news.as_deref().map(News::parse) {
                Some(Some(News::Ended(exit))) => self.exit = Some(exit),
                Some(Some(News::Said(line))) => self.said = Some(line),
                Some(Some(News::Left(left))) => {
                    warn!(pid = self.pid, left, "processes of a workload cannot be killed now");
                }
                Some(Some(News::Started(_)) | None) => {}
                None => {
                    warn!(
                        pid = self.pid,
                        "the keeper of a workload is gone; its processes are killed without it"
                    );
                    self.exit = Some(Exit::Unknown);
                }
            }
        }
        let was_killed = self.group.as_ref().is_some_and(|group| group.out_of_memory() > self.kills_before);
        // Its keeper found them all; where it was killed, this does.
        let is_lost = self.exit == Some(Exit::Unknown);
        let (group, traces) = (self.group.clone(), is_lost.then(|| self.traces.clone()));
        let watch = self.user_run.as_mut().map(|run| {
            run.end();
            run.watch()
        });
        let killed = tokio::task::spawn_blocking(move || {
            group.iter().for_each(Cgroup::kill);
            traces.iter().for_each(|traces| traces.kill(|| watch.as_ref().is_none_or(UserWatch::is_free)));
        });
        // It is over at the end of the process, too.
        let _ = killed.await;
        let _ = self.keeper.wait().await;
        self.output.ended().await;
        match self.exit.unwrap_or(Exit::Unknown) {
            Exit::Signal(9) if was_killed => Exit::OutOfMemory,
            exit @ (Exit::Code(_) | Exit::Signal(_) | Exit::OutOfMemory | Exit::Unknown) => exit,
        }
    }

    /// The last line that it wrote.
    pub(crate) fn last_line(&self) -> Option<String> {
        self.said.clone()
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.order(Order::Terminate);
    }

    /// Kills it and everything that it started.
    pub(crate) fn kill(&self) {
        self.order(Order::Kill);
    }

    fn order(&self, order: Order) {
        // There is always room: a workload gets a few orders in its life. A keeper that is gone is found by `wait`.
        if let Err(error) = self.orders.try_write(order.line()) {
            warn!(pid = self.pid, ?order, %error, "the keeper of a workload is not told");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.kill();
        }
    }
}
