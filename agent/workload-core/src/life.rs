//! What to do next with one workload.

use std::time::{Duration, Instant};

use blueprint_common_types::Health;
use blueprint_common_types::workload::{RecoveryKind, RestartPolicy, WorkloadSpec, WorkloadState};

use crate::backoff::Backoff;
use crate::{Exit, Ladder, Rung};

/// How long a blueprint may take to greet its bridge; the Manager waits as long.
pub const READY_TIMEOUT: Duration = Duration::from_secs(480);

/// How long a workload that keeps too much may take to end, where its own grace is longer: it may write on meanwhile.
const OVER_STORAGE_GRACE: Duration = Duration::from_secs(10);

/// What the driver does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Fetch and check the program; answered by [`Life::handle_prepared`].
    Prepare,
    /// Remove what was prepared, and fetch, check and unpack it anew; answered like [`Step::Prepare`].
    Redeploy,
    /// Start it; where that fails, answered by [`Life::handle_not_started`].
    Start,
    /// Ask the process to end; [`Life::handle_exit`] follows.
    Terminate,
    /// Kill the process and all that it started; [`Life::handle_exit`] follows.
    Kill,
    /// Nothing before this time, or before something happens where there is none.
    Wait(Option<Instant>),
    /// Clean up: nothing of it is to be left but its data.
    Done,
}

/// What was done to make a workload well, for the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What.
    pub kind: RecoveryKind,
    /// Why, one line.
    pub reason: String,
}

/// Failures in a row for reasons of the node that may pass, after which another node is looked for: with the pauses
/// between them 7.5 s, as long as an engine takes that is started again.
const NODE_FAILURES: u32 = 5;

/// Why a workload could not be prepared or started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareFailed {
    /// One line for people.
    pub reason: String,
    /// Whether the same may succeed later: a server that does not answer, not a digest that differs.
    pub may_pass: bool,
    /// Whether it is this node that cannot, so that another one may: no container engine, not a digest that differs.
    pub is_of_node: bool,
}

impl PrepareFailed {
    /// The same may succeed later.
    #[must_use]
    pub const fn for_now(reason: String) -> Self {
        Self { reason, may_pass: true, is_of_node: false }
    }

    /// The same fails everywhere and always.
    #[must_use]
    pub const fn for_good(reason: String) -> Self {
        Self { reason, may_pass: false, is_of_node: false }
    }

    /// This node cannot now, and may later.
    #[must_use]
    pub const fn here_for_now(reason: String) -> Self {
        Self { reason, may_pass: true, is_of_node: true }
    }

    /// This node cannot as it is.
    #[must_use]
    pub const fn here(reason: String) -> Self {
        Self { reason, may_pass: false, is_of_node: true }
    }
}

/// Where it stands, with what only that state knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unprepared,
    Preparing,
    Prepared,
    Started { at: Instant, is_ready: bool },
    Ending { kill_at: Instant, is_killed: bool },
    Resting { until: Instant, prepared: bool },
    Over,
}

/// One workload from its assignment to its end.
///
/// Invariants:
/// - there is at most one process: a start follows an exit, or none came before;
/// - once its end was asked for nothing is started;
/// - a process that was asked to end is killed after its grace;
/// - one that runs and is unhealthy for as long as said goes up its [`Ladder`], as one does that ends by itself; once the
///   hub is asked for another node, what is unhealthy is left alone, and what ends is started again;
/// - it is refused only by a node that cannot run it as it is, or could not five times in a row and never ran it, so
///   that nothing that it kept is left behind for what may pass.
#[derive(Debug, Clone)]
pub struct Life {
    restart: RestartPolicy,
    grace: Duration,
    /// Whether it has to greet its bridge.
    greets: bool,
    is_wanted: bool,
    state: State,
    backoff: Backoff,
    ladder: Ladder,
    /// How long it may be unhealthy.
    patience: Duration,
    /// What its port shows, and since when it is unhealthy.
    health: Option<Health>,
    health_reason: String,
    ill_since: Option<Instant>,
    /// What it is being ended for; decided already.
    rung: Option<Rung>,
    /// The next preparation is to begin from nothing.
    is_anew: bool,
    done: Vec<Done>,
    /// What it was last told of the hub.
    is_hub_away: bool,
    restarts: u32,
    reason: String,
    exit_code: Option<i32>,
    /// The end was the workload's own and final.
    is_failed: bool,
    /// It was started here once, so what it keeps may be here.
    has_run: bool,
    /// Failures in a row that were this node's.
    node_failures: u32,
    is_refused: bool,
    step_given: bool,
}

impl Life {
    /// A workload that is wanted from now on.
    #[must_use]
    pub fn new(spec: &WorkloadSpec) -> Self {
        Self {
            restart: if spec.registration { RestartPolicy::Never } else { spec.restart },
            grace: Duration::from_secs(spec.stop_grace_secs.into()),
            greets: !spec.test_mode && !spec.registration,
            is_wanted: true,
            state: State::Unprepared,
            backoff: Backoff::new(),
            ladder: Ladder::new(spec.health.recovery),
            patience: spec.health.recovery.patience(),
            health: None,
            health_reason: String::new(),
            ill_since: None,
            rung: None,
            is_anew: false,
            done: Vec::new(),
            is_hub_away: false,
            restarts: 0,
            reason: String::new(),
            exit_code: None,
            is_failed: false,
            has_run: false,
            node_failures: 0,
            is_refused: false,
            step_given: false,
        }
    }

    /// What to do now. The same step is given once; then it is waited for its answer.
    pub fn next_step(&mut self, now: Instant) -> Step {
        self.handle_time(now);
        match self.state {
            State::Unprepared if !self.is_wanted => self.over(),
            State::Unprepared => {
                self.state = State::Preparing;
                if std::mem::take(&mut self.is_anew) { Step::Redeploy } else { Step::Prepare }
            }
            State::Preparing => Step::Wait(None),
            State::Prepared if !self.is_wanted => self.over(),
            State::Prepared => {
                self.state = State::Started { at: now, is_ready: !self.greets };
                self.note_well(now);
                Step::Start
            }
            State::Started { at, is_ready } => {
                let ready = at.checked_add(READY_TIMEOUT).filter(|_| !is_ready);
                Step::Wait(ready.into_iter().chain(self.ill_until()).chain(self.ladder.poll_timeout()).min())
            }
            State::Ending { kill_at, is_killed } => self.end_step(kill_at, is_killed),
            State::Resting { .. } if !self.is_wanted => self.over(),
            State::Resting { until, .. } => Step::Wait(Some(until)),
            State::Over if std::mem::replace(&mut self.step_given, true) => Step::Wait(None),
            State::Over => Step::Done,
        }
    }

    fn end_step(&mut self, kill_at: Instant, is_killed: bool) -> Step {
        match (self.step_given, is_killed) {
            (true, true) => Step::Wait(None),
            (true, false) => Step::Wait(Some(kill_at)),
            (false, true) => {
                self.step_given = true;
                Step::Kill
            }
            (false, false) => {
                self.step_given = true;
                Step::Terminate
            }
        }
    }

    fn over(&mut self) -> Step {
        self.state = State::Over;
        self.step_given = true;
        Step::Done
    }

    fn handle_time(&mut self, now: Instant) {
        if self.ladder.handle_time(now) {
            let reason = format!("well for {} s", self.ladder.settled().as_secs());
            self.done.push(Done { kind: RecoveryKind::Settled, reason });
        }
        match self.state {
            State::Started { .. } if self.ill_until().is_some_and(|at| at <= now) => {
                let why = format!("unhealthy for {} s: {}", self.patience.as_secs(), self.health_reason);
                self.ill_since = Some(now);
                let rung = self.climb(&why);
                if rung != Rung::AskMove {
                    self.reason = why;
                    self.rung = Some(rung);
                    self.end(now);
                }
            }
            State::Started { at, is_ready: false } if now.saturating_duration_since(at) >= READY_TIMEOUT => {
                self.reason = format!("did not greet its bridge within {} s", READY_TIMEOUT.as_secs());
                self.end(now);
            }
            State::Ending { kill_at, is_killed: false } if now >= kill_at => {
                self.state = State::Ending { kill_at, is_killed: true };
                self.step_given = false;
            }
            State::Resting { until, prepared } if now >= until => {
                self.state = if prepared { State::Prepared } else { State::Unprepared };
            }
            State::Unprepared
            | State::Preparing
            | State::Prepared
            | State::Started { .. }
            | State::Ending { .. }
            | State::Resting { .. }
            | State::Over => {}
        }
    }

    /// When its patience is over; `None` where it is not unhealthy, or nothing more is done about that here.
    fn ill_until(&self) -> Option<Instant> {
        let acts = self.restart != RestartPolicy::Never && !self.ladder.asks_move() && self.is_wanted;
        self.ill_since.filter(|_| acts)?.checked_add(self.patience)
    }

    /// Takes the next rung, and notes it for the journal; the hub is asked once.
    fn climb(&mut self, why: &str) -> Rung {
        let asked = self.ladder.asks_move();
        let rung = self.ladder.handle_trouble();
        let kind = match rung {
            Rung::Restart => RecoveryKind::Restart,
            Rung::Redeploy => RecoveryKind::Redeploy,
            Rung::AskMove => RecoveryKind::AskMove,
        };
        if rung != Rung::AskMove || !asked {
            self.done.push(Done { kind, reason: why.to_owned() });
        }
        rung
    }

    /// Well is what is ready and not known to be unhealthy.
    fn note_well(&mut self, now: Instant) {
        let is_ready = matches!(self.state, State::Started { is_ready: true, .. });
        if is_ready && self.health.is_none_or(|health| health == Health::Healthy) {
            self.ladder.handle_well(now);
        } else {
            self.ladder.handle_unwell();
        }
    }

    fn forget_health(&mut self) {
        self.health = None;
        self.health_reason.clear();
        self.ill_since = None;
    }

    fn end(&mut self, now: Instant) {
        self.end_within(self.grace, now);
    }

    fn end_within(&mut self, grace: Duration, now: Instant) {
        let kill_at = now.checked_add(grace).unwrap_or(now);
        self.state = State::Ending { kill_at, is_killed: false };
        self.step_given = false;
    }

    /// The program is there, or is not.
    pub fn handle_prepared(&mut self, result: Result<(), PrepareFailed>, now: Instant) {
        if self.state != State::Preparing {
            return;
        }
        match result {
            Ok(()) => self.state = State::Prepared,
            Err(failed) => {
                self.note_failure(&failed);
                self.reason = failed.reason;
                if failed.may_pass { self.rest(false, now) } else { self.fail() }
            }
        }
    }

    /// It could not be started; what it was started with stays.
    pub fn handle_not_started(&mut self, failed: PrepareFailed, now: Instant) {
        self.note_failure(&failed);
        self.reason = failed.reason;
        if failed.may_pass { self.rest(true, now) } else { self.fail() }
    }

    /// It was started here, now or by an earlier agent.
    pub const fn handle_started(&mut self) {
        self.has_run = true;
        self.node_failures = 0;
        self.is_refused = false;
    }

    fn note_failure(&mut self, failed: &PrepareFailed) {
        self.node_failures = if failed.is_of_node { self.node_failures.saturating_add(1) } else { 0 };
        let is_long = self.node_failures >= NODE_FAILURES && !self.has_run;
        self.is_refused = failed.is_of_node && (!failed.may_pass || is_long);
    }

    /// Whether the hub can be reached.
    pub const fn handle_hub(&mut self, is_away: bool) {
        self.is_hub_away = is_away;
    }

    /// It greeted its bridge.
    pub fn handle_ready(&mut self, now: Instant) {
        if let State::Started { is_ready, .. } = &mut self.state {
            *is_ready = true;
            self.reason.clear();
            self.note_well(now);
        }
    }

    /// What the checks of its port found, one line of reason where that is bad; `None` where it offers none.
    pub fn handle_health(&mut self, found: Option<(Health, &str)>, now: Instant) {
        if !matches!(self.state, State::Started { .. }) {
            return self.forget_health();
        }
        self.health = found.map(|(health, _)| health);
        self.health_reason = found.map(|(_, reason)| reason.to_owned()).unwrap_or_default();
        match self.health {
            Some(Health::Unhealthy) => _ = self.ill_since.get_or_insert(now),
            Some(Health::Healthy | Health::Unknown) | None => self.ill_since = None,
        }
        self.note_well(now);
    }

    /// It keeps more on the disk than it may: it is ended, and started again as its policy says.
    pub fn handle_over_storage(&mut self, reason: String, now: Instant) {
        if matches!(self.state, State::Started { .. }) {
            self.reason = reason;
            self.end_within(self.grace.min(OVER_STORAGE_GRACE), now);
        }
    }

    /// Its process ended; `last` is the last line that it wrote.
    pub fn handle_exit(&mut self, exit: Exit, last: Option<&str>, now: Instant) {
        let ran = match self.state {
            State::Started { at, .. } => now.saturating_duration_since(at),
            State::Ending { .. } => Duration::ZERO,
            State::Unprepared | State::Preparing | State::Prepared | State::Resting { .. } | State::Over => {
                return;
            }
        };
        self.exit_code = Some(exit.code());
        self.forget_health();
        self.ladder.handle_unwell();
        let was_ending = matches!(self.state, State::Ending { .. });
        if !self.is_wanted {
            self.state = State::Over;
            self.step_given = false;
            return;
        }
        if !was_ending {
            self.reason = match last {
                Some(last) => format!("{exit}: {last}"),
                None => exit.to_string(),
            };
        }
        self.backoff.handle_run(ran);
        let again = match self.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => was_ending || !exit.is_success(),
            RestartPolicy::Never => false,
        };
        if again {
            self.restarts = self.restarts.saturating_add(1);
            let why = self.reason.clone();
            let (rung, pause) = match self.rung.take() {
                // Its patience was long enough for a short pause each time; the ladder's own grow.
                Some(rung) => (rung, self.ladder.pause()),
                // While the hub is away, what ends may do so for that alone: then it is only started again.
                None if self.is_hub_away && self.ladder.is_spent() => (Rung::Restart, Duration::ZERO),
                None => (self.climb(&why), Duration::ZERO),
            };
            self.is_anew = rung == Rung::Redeploy;
            let least = now.checked_add(pause).unwrap_or(now);
            self.rest(rung != Rung::Redeploy, now);
            if let State::Resting { until, .. } = &mut self.state {
                *until = least.max(*until);
            }
        } else {
            self.is_failed = was_ending || !exit.is_success();
            self.state = State::Over;
            self.step_given = false;
        }
    }

    /// It is not wanted any more.
    pub fn handle_stop(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_wanted, false) {
            return;
        }
        if matches!(self.state, State::Started { .. }) {
            self.reason.clear();
            self.end(now);
        }
    }

    fn rest(&mut self, prepared: bool, now: Instant) {
        let until = now.checked_add(self.backoff.next_wait()).unwrap_or(now);
        self.state = State::Resting { until, prepared };
    }

    fn fail(&mut self) {
        self.is_failed = true;
        self.state = State::Over;
        self.step_given = false;
    }

    /// Where it stands, for people.
    #[must_use]
    pub const fn state(&self) -> WorkloadState {
        match self.state {
            State::Unprepared => WorkloadState::Pending,
            State::Preparing => WorkloadState::Fetching,
            State::Prepared | State::Started { is_ready: false, .. } => WorkloadState::Starting,
            State::Started { is_ready: true, .. } => WorkloadState::Running,
            State::Ending { .. } => WorkloadState::Stopping,
            State::Resting { .. } => WorkloadState::BackingOff,
            State::Over if self.is_failed => WorkloadState::Failed,
            State::Over => WorkloadState::Ended,
        }
    }

    /// Whether it has ended for good: nothing is started any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Why it stands there; empty where the state says it all.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Exit code of the process that ended last, as shells say it; `None` while none has.
    #[must_use]
    pub const fn exit_code(&self) -> Option<i32> {
        self.exit_code
    }

    /// What the checks of its port found; `None` where it offers none.
    #[must_use]
    pub const fn health(&self) -> Option<Health> {
        self.health
    }

    /// Why it is not healthy; empty where it is.
    #[must_use]
    pub fn health_reason(&self) -> &str {
        &self.health_reason
    }

    /// Whether all was tried that can be tried here, and another node is asked for.
    #[must_use]
    pub const fn asks_move(&self) -> bool {
        self.ladder.asks_move()
    }

    /// Whether this node cannot run it and another one may.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// What was done since the last call to make it well, oldest first.
    pub fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }

    /// How often it was started again.
    #[must_use]
    pub const fn restarts(&self) -> u32 {
        self.restarts
    }
}

#[cfg(test)]
mod tests;
