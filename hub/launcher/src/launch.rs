//! From the start of the launcher to its end: the Manager's bridge, the port of this machine, and the hub for as long
//! as it takes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use blueprint_common_runtime::cli::{CliError, Exit};
use blueprint_common_types::fill_random;
use blueprint_proto::v1;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::environment::Plan;
use crate::forward::Forward;
use crate::manager::Manager;
use crate::output::{Output, Whereabouts};
use crate::voice::Voice;

/// How long the hub may be away before it was reached once.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);

/// How long another launcher may hold the service: one that was killed is seen to be gone within moments.
const HELD_PATIENCE: Duration = Duration::from_secs(2);

/// First and longest pause before the hub is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// What the end may take beyond the grace of the blueprint: it is told through the hub.
const END_SLACK: Duration = Duration::from_secs(5);

/// How long whoever reads the output may take to read the rest of it at the end.
const READ_WITHIN: Duration = Duration::from_secs(3);

/// Exit code where no node could take the blueprint for too long.
const NO_NODE: u8 = 124;

/// Exit code where the blueprint ended without one.
const NO_CODE: u8 = 125;

/// Exit code of a blueprint whose own does not fit into one.
const ODD_CODE: u8 = 255;

/// How an attempt to run ended.
pub(crate) enum Outcome {
    /// The blueprint ended.
    Exit(v1::LauncherExit),
    /// The hub is away; it is tried again.
    Lost(String),
    /// Another launcher holds the service, perhaps one that is ending; it is tried again for a moment.
    Held(Status),
    /// The hub does not do it.
    Refused(Status),
    /// The end was asked for and did not come in time, or was asked for twice.
    Overdue,
}

/// One launcher.
pub(crate) struct Launch {
    pub(crate) plan: Plan,
    pub(crate) manager: Option<Manager>,
    /// Where the service is reached on this machine.
    pub(crate) here: SocketAddr,
    /// What runs beside: connections, greetings, questions to the Manager.
    pub(crate) tasks: JoinSet<()>,
    pub(crate) signals: Signals,
    pub(crate) voice: Voice,
    pub(crate) whereabouts: Whereabouts,
    /// Since when no node can take it, and why.
    pub(crate) unplaced: Option<(Instant, String)>,
    /// How long it had no node when the hub went away: that the hub is away is no lack of nodes.
    pub(crate) waited: Duration,
    /// It was given up since no node could take it.
    pub(crate) is_given_up: bool,
    /// When the end that was asked for is overdue.
    pub(crate) deadline: Option<Instant>,
    /// The last attempt was accepted by the hub.
    pub(crate) was_up: bool,
    /// Some attempt was.
    pub(crate) is_accepted: bool,
    pub(crate) is_greeted: bool,
    /// How many bytes of registration inputs are written; else why none.
    pub(crate) captured: Result<usize, String>,
}

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the next one.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses none.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs the blueprint on a node to its end; gives its exit code.
pub(crate) async fn run(plan: Plan) -> Result<u8, CliError> {
    let voice = Voice::start();
    let voice = voice.map_err(|error| CliError::failure(format!("cannot start a thread: {error}")))?;
    let ended = launch(plan, voice.clone()).await;
    if voice.settle(READ_WITHIN).await {
        return ended;
    }
    // Nobody reads: an error that is written now would wait for ever.
    Ok(ended.unwrap_or_else(|error| error.exit.code()))
}

async fn launch(mut plan: Plan, voice: Voice) -> Result<u8, CliError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| CliError::failure(format!("{what}: {error}"));
    let signals = Signals::listen().map_err(|error| failed("cannot listen to signals", &error))?;
    plan.start.launcher = name().map_err(|error| failed("no randomness", &error))?;
    if !plan.left_out.is_empty() {
        let names = plan.left_out.join(", ");
        voice.say(&format!("{names}: files of this machine, not known on a node; left out"));
    }
    let manager = match &plan.bridge {
        Some(path) => Some(Manager::connect(path).await.map_err(|why| {
            CliError::unavailable(format!("the Blueprint Manager's bridge: {why}"))
                .hint("the Manager makes it before it starts a blueprint; BRIDGE_SOCKET_PATH names it")
        })?),
        None => None,
    };
    let forward = Forward::bind(plan.hub.clone(), plan.service, voice.clone()).await;
    let forward = forward.map_err(|error| failed("no port of 127.0.0.1 is free", &error))?;
    let here = forward.address().map_err(|error| failed("cannot tell the own port", &error))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(forward.run());
    let launcher = plan.start.launcher.clone();
    let (output, whereabouts) = Output::new(plan.hub.clone(), plan.service, launcher, voice.clone());
    tasks.spawn(output.run());
    let launch = Launch {
        plan,
        manager,
        here,
        tasks,
        signals,
        voice,
        whereabouts,
        unplaced: None,
        waited: Duration::ZERO,
        is_given_up: false,
        deadline: None,
        was_up: false,
        is_accepted: false,
        is_greeted: false,
        captured: Err("the blueprint captured nothing for it".to_owned()),
    };
    launch.go().await
}

/// A name that no other launcher has.
fn name() -> std::io::Result<String> {
    let mut bytes = [0u8; 16];
    fill_random(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Launch {
    async fn go(mut self) -> Result<u8, CliError> {
        let (began, mut pause, mut told) = (Instant::now(), FIRST_PAUSE, String::new());
        loop {
            let outcome = self.attempt().await;
            let why = match outcome {
                Outcome::Exit(exit) => return self.end(exit).await,
                Outcome::Refused(status) => return Err(refused(&status)),
                Outcome::Held(status) if self.is_accepted || began.elapsed() >= HELD_PATIENCE => {
                    return Err(refused(&status));
                }
                Outcome::Held(status) => status.message().to_owned(),
                Outcome::Overdue => {
                    self.voice
                        .say("the blueprint did not end in time; the hub ends it once this launcher is gone");
                    return Ok(NO_CODE);
                }
                Outcome::Lost(why) => why,
            };
            if std::mem::take(&mut self.was_up) {
                pause = FIRST_PAUSE;
            } else if !self.is_accepted && began.elapsed() >= FIRST_PATIENCE {
                return Err(CliError::unavailable(format!("the hub: {why}")).hint(
                    "start it, name its registry.sock as `hub` in launcher.toml, and run as its user",
                ));
            }
            if told != why {
                self.voice.say(&format!("the hub: {why}; it is tried again"));
                told = why;
            }
            tokio::select! {
                biased;
                () = self.signals.next() => {
                    self.voice.say("asked to end while the hub is away; it ends the blueprint after the grace");
                    return Ok(NO_CODE);
                }
                () = tokio::time::sleep(pause) => {}
            }
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// When the end is overdue that is asked for now.
    pub(crate) fn overdue_at(&self) -> Option<Instant> {
        let grace = Duration::from_secs(self.plan.stop_grace_secs.into());
        Instant::now().checked_add(grace.saturating_add(END_SLACK))
    }

    /// The hub is away: until it says again that there is no node, the wait stands still.
    pub(crate) fn suspend(&mut self) {
        if let Some((since, _)) = self.unplaced.take() {
            self.waited = since.elapsed();
        }
    }

    /// The hub says that no node can take it, and why; or none of it, where one can.
    pub(crate) fn wait_for_node(&mut self, why: Option<String>) {
        let waited = std::mem::take(&mut self.waited);
        self.unplaced = why.map(|why| {
            let now = Instant::now();
            let begun = || now.checked_sub(waited).unwrap_or(now);
            (self.unplaced.take().map_or_else(begun, |(since, _)| since), why)
        });
    }

    /// When it is given up, should no node take it until then.
    pub(crate) fn given_up_at(&self) -> Option<Instant> {
        let patience = self.plan.unplaced_patience?;
        let (since, _) = self.unplaced.as_ref().filter(|_| self.deadline.is_none())?;
        since.checked_add(patience)
    }

    /// Gives it up, where it is time to.
    pub(crate) fn give_up(&mut self) -> bool {
        let is_time = self.given_up_at().is_some_and(|at| at <= Instant::now());
        if let Some((since, why)) = self.unplaced.as_ref().filter(|_| is_time) {
            let (service, secs) = (self.plan.service, since.elapsed().as_secs());
            self.voice.say(&format!("{service} is given up: it had no node for {secs} s, since {why}"));
            self.is_given_up = true;
        }
        is_time
    }

    async fn end(&mut self, exit: v1::LauncherExit) -> Result<u8, CliError> {
        if !self.whereabouts.finish().await {
            let (service, node) = (self.plan.service, self.whereabouts.node());
            self.voice.say(&format!(
                "the last lines of {service} did not come in time; `blueprint-hub logs {service} --node {node}` shows them"
            ));
        }
        if self.is_given_up && exit.code.is_none() {
            return Ok(NO_NODE);
        }
        let code = exit.code.map_or(NO_CODE, |code| u8::try_from(code).unwrap_or(ODD_CODE));
        let reason = if exit.reason.is_empty() { String::new() } else { format!(": {}", exit.reason) };
        self.voice.say(&format!("{} ended with code {code}{reason}", self.plan.service));
        let Some(path) = self.plan.registration.as_ref().filter(|_| code == 0) else { return Ok(code) };
        let bytes = self
            .captured
            .as_ref()
            .map_err(|why| CliError::failure(format!("there are no registration inputs: {why}{reason}")))?;
        self.voice.say(&format!("registration inputs, {bytes} bytes, written to {}", path.display()));
        Ok(code)
    }
}

fn refused(status: &Status) -> CliError {
    let exit = match status.code() {
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => Exit::Conflict,
        Code::NotFound => Exit::NotFound,
        Code::InvalidArgument => Exit::Config,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Exit::Failure,
    };
    let error = CliError::new(exit, format!("the hub: {}", status.message()));
    if status.code() == Code::Unimplemented {
        return error.hint("this hub is older than its launcher: update it");
    }
    error
}
