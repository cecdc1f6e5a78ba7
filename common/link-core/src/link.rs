//! The state of the control stream to the hub.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Backoff;

/// A session that stood this long is a success: the next failure starts the back-off anew.
const STABLE: Duration = Duration::from_secs(5);

/// How long a hub may stay silent once the data plane is lost too; two round trips of a bad path.
const SUSPECT_SILENCE: Duration = Duration::from_secs(2);

/// An attempt older than this hangs: on a path that works it takes four round trips.
const HANGING: Duration = Duration::from_secs(1);

/// Times and seed of a [`Link`].
#[derive(Debug, Clone, Copy)]
pub struct LinkConfig {
    /// Longest wait between two attempts, before jitter. Default 2 s: with [`Self::connect_timeout`] it keeps
    /// the way back under 5 s once the path is there.
    pub backoff_cap: Duration,
    /// Longest time from [`LinkEvent::Connect`] to [`Link::handle_welcome`]. Default 3 s: a `SYN` lost at the
    /// start is sent again after 1 s.
    pub connect_timeout: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

impl LinkConfig {
    /// The defaults, with this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { backoff_cap: Duration::from_secs(2), connect_timeout: Duration::from_secs(3), seed }
    }
}

/// Where the link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// No stream; the next attempt starts at `retry_at`, or never where that is `None`.
    Down {
        /// When the next attempt starts.
        retry_at: Option<Instant>,
    },
    /// An attempt is under way and is given up at `deadline`.
    Connecting {
        /// End of the attempt.
        deadline: Instant,
    },
    /// The hub welcomed the agent.
    Up {
        /// When it did.
        since: Instant,
    },
}

/// Why an attempt or a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEnd {
    /// The stream broke, or the attempt failed.
    Broken,
    /// The attempt took longer than [`LinkConfig::connect_timeout`].
    TimedOut,
    /// The hub sent nothing for three heartbeats.
    Silent,
    /// The hub said that it stops and will be back.
    Shutdown,
    /// A newer session of the same identity took over.
    Replaced,
    /// The certificate of the session ran out.
    Expired,
    /// The hub removed this agent: no attempt follows.
    Revoked,
}

impl LinkEnd {
    /// Stable name for logs and metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
            Self::Silent => "silent",
            Self::Shutdown => "shutdown",
            Self::Replaced => "replaced",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEvent {
    /// Open a stream; `attempt` counts from 1 since the last session that stood.
    Connect {
        /// Number of the attempt.
        attempt: u32,
    },
    /// Send a heartbeat.
    Heartbeat,
    /// Close the stream or give up the attempt, if it is still there.
    Disconnect(LinkEnd),
}

/// What a link did since construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Attempts started.
    pub attempts: u64,
    /// Sessions that the hub welcomed.
    pub sessions: u64,
}

#[derive(Debug, Clone, Copy)]
struct Pulse {
    every: Duration,
    next_at: Instant,
    heard_at: Instant,
    silence: Duration,
}

/// Says when to connect, to send a heartbeat and to give up.
///
/// ```text
///            retry_at             handle_welcome
///   Down ---------------> Connecting -----------> Up
///    ^                        |                   |
///    +---- failed, late ------+                   |
///    +---- lost, silent, goodbye -----------------+
/// ```
///
/// Invariants:
/// - every `Connect` is followed by a welcome or by exactly one `Disconnect`, before the next `Connect`;
/// - after `handle_timeout(now)`, `poll_timeout()` is `None` or later than `now`;
/// - only [`LinkEnd::Revoked`] ends the attempts.
#[derive(Debug)]
pub struct Link {
    state: LinkState,
    pulse: Option<Pulse>,
    backoff: Backoff,
    connect_timeout: Duration,
    events: VecDeque<LinkEvent>,
    stats: LinkStats,
}

impl Link {
    /// A link that is down and tries at once: the first [`Self::handle_timeout`] asks for a stream.
    #[must_use]
    pub fn new(config: LinkConfig, now: Instant) -> Self {
        Self {
            state: LinkState::Down { retry_at: Some(now) },
            pulse: None,
            backoff: Backoff::new(config.backoff_cap, config.seed),
            // A zero would make every attempt late as soon as it starts.
            connect_timeout: config.connect_timeout.max(Duration::from_millis(1)),
            events: VecDeque::new(),
            stats: LinkStats::default(),
        }
    }

    /// Notes the hub's welcome, which says how often it wants to hear of the agent.
    pub fn handle_welcome(&mut self, heartbeat: Duration, now: Instant) {
        match self.state {
            LinkState::Connecting { .. } => {}
            // The welcome of an attempt that was already given up.
            LinkState::Down { .. } | LinkState::Up { .. } => return,
        }
        let every = heartbeat.clamp(Duration::from_millis(100), Duration::from_secs(3600));
        self.state = LinkState::Up { since: now };
        self.pulse = Some(Pulse { every, next_at: now + every, heard_at: now, silence: every * 3 });
        self.stats.sessions = self.stats.sessions.saturating_add(1);
    }

    /// Notes that anything came from the hub.
    pub fn handle_message(&mut self, now: Instant) {
        if let Some(pulse) = &mut self.pulse {
            pulse.heard_at = now;
            pulse.silence = pulse.every * 3;
        }
    }

    /// Notes that an attempt failed, the stream ended or the hub said goodbye.
    pub fn handle_end(&mut self, end: LinkEnd, now: Instant) {
        let stood = match self.state {
            LinkState::Down { .. } => return,
            LinkState::Connecting { .. } => false,
            LinkState::Up { since } => now.saturating_duration_since(since) >= STABLE,
        };
        if stood {
            self.backoff.reset();
        }
        let wait = match end {
            LinkEnd::Broken | LinkEnd::TimedOut | LinkEnd::Silent | LinkEnd::Shutdown | LinkEnd::Expired => {
                Some(self.backoff.next_wait())
            }
            // Two processes with one identity would take the session from each other as fast as they can.
            LinkEnd::Replaced => Some(self.backoff.longest_wait()),
            LinkEnd::Revoked => None,
        };
        self.pulse = None;
        self.state = LinkState::Down { retry_at: wait.map(|wait| now + wait) };
        self.events.push_back(LinkEvent::Disconnect(end));
    }

    /// Notes that the data plane stopped echoing or that the machine's addresses changed: an attempt that
    /// waits starts now, and a stream that stands has to show within 2 s that the hub still hears it.
    pub fn handle_path_change(&mut self, now: Instant) {
        match &mut self.state {
            LinkState::Down { retry_at } => {
                if let Some(retry_at) = retry_at {
                    *retry_at = now.min(*retry_at);
                }
            }
            LinkState::Connecting { .. } => {}
            LinkState::Up { .. } => {
                if let Some(pulse) = &mut self.pulse {
                    pulse.next_at = now;
                    pulse.heard_at = now;
                    pulse.silence = SUSPECT_SILENCE.min(pulse.silence);
                }
            }
        }
    }

    /// Notes that the data plane echoes again: an attempt that waits starts now, one that hangs, on its way to
    /// where the hub was perhaps, is given up, and the back-off starts anew. A stream that stands has nothing to
    /// prove.
    pub fn handle_path_back(&mut self, now: Instant) {
        match &mut self.state {
            LinkState::Up { .. } => {}
            LinkState::Down { .. } => {
                self.backoff.reset();
                self.handle_path_change(now);
            }
            LinkState::Connecting { deadline } => {
                let left = deadline.saturating_duration_since(now);
                let age = self.connect_timeout.saturating_sub(left);
                *deadline = (*deadline).min(now + HANGING.saturating_sub(age));
                self.backoff.reset();
            }
        }
    }

    /// Starts what is due and gives up what is late at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            LinkState::Down { retry_at: Some(at) } if at <= now => {
                self.state = LinkState::Connecting { deadline: now + self.connect_timeout };
                self.stats.attempts = self.stats.attempts.saturating_add(1);
                let attempt = self.backoff.failures().saturating_add(1);
                self.events.push_back(LinkEvent::Connect { attempt });
            }
            LinkState::Connecting { deadline } if deadline <= now => {
                self.handle_end(LinkEnd::TimedOut, now);
                self.delay_past(now);
            }
            LinkState::Up { .. } => self.beat(now),
            LinkState::Down { .. } | LinkState::Connecting { .. } => {}
        }
    }

    /// When to call [`Self::handle_timeout`] next; `None` once the agent is revoked.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            LinkState::Down { retry_at } => retry_at,
            LinkState::Connecting { deadline } => Some(deadline),
            LinkState::Up { .. } => self.pulse.map(|pulse| pulse.next_at.min(pulse.heard_at + pulse.silence)),
        }
    }

    /// The next thing for the driver to do.
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    /// Where the link stands.
    #[must_use]
    pub const fn state(&self) -> LinkState {
        self.state
    }

    /// What the link did so far.
    #[must_use]
    pub const fn stats(&self) -> LinkStats {
        self.stats
    }

    fn beat(&mut self, now: Instant) {
        let Some(pulse) = &mut self.pulse else { return };
        if pulse.heard_at + pulse.silence <= now {
            self.handle_end(LinkEnd::Silent, now);
            self.delay_past(now);
        } else if pulse.next_at <= now {
            pulse.next_at = now + pulse.every;
            self.events.push_back(LinkEvent::Heartbeat);
        }
    }

    /// Keeps the promise of [`Self::poll_timeout`] where the back-off's cap is zero.
    fn delay_past(&mut self, now: Instant) {
        if let LinkState::Down { retry_at: Some(at) } = &mut self.state {
            *at = (*at).max(now + Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests;
