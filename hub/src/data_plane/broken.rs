//! Agents whose control stream ended and whose next echo is overdue: they are gone, before their silence alone says so.
//!
//! The system of a machine closes the streams of a process that dies, however it dies, so the hub hears of it at once. A stream
//! that ends says little by itself: middle boxes cut streams, and the agent is back in a moment. Its echoes tell: one that
//! lives has sent another by the time that it promised. Either sign alone is no reason; both together are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use blueprint_common_tunnel_core::EchoStats;
use blueprint_common_types::AgentId;

/// How late an echo may be: what the paths of a living agent make of an even pace.
const LATE: Duration = Duration::from_millis(250);

/// How long after the end of its stream an agent makes looks quick. One that echoes each second is judged by then; of one that
/// stays dead nothing is new.
const QUICK: Duration = Duration::from_secs(5);

/// Which control streams ended without a sign of life since.
#[derive(Debug, Default)]
pub(super) struct Broken {
    /// Agents whose stream was open when they were looked at last.
    open: BTreeSet<AgentId>,
    /// When the stream of an agent was seen to have ended.
    ended_at: BTreeMap<AgentId, Instant>,
}

impl Broken {
    /// Notes whether the control stream of an agent is open.
    pub(super) fn note(&mut self, agent: AgentId, is_open: bool, now: Instant) {
        if is_open {
            self.ended_at.remove(&agent);
            self.open.insert(agent);
        } else if self.open.remove(&agent) {
            self.ended_at.insert(agent, now);
        }
    }

    /// Forgets agents that are none any more.
    pub(super) fn retain(&mut self, mut is_known: impl FnMut(&AgentId) -> bool) {
        self.open.retain(|agent| is_known(agent));
        self.ended_at.retain(|agent, _| is_known(agent));
    }

    /// True where the agent is gone, by echoes as they were at `taken_at`. One that echoed since its stream ended lives, and is
    /// not suspected again until another stream of it ends.
    pub(super) fn is_gone(&mut self, agent: AgentId, echo: &EchoStats, taken_at: Instant) -> bool {
        let Some(ended_at) = self.ended_at.get(&agent) else { return false };
        // Who does not echo is no agent of ours, or is dead by that.
        let Some(age) = echo.last_reply_age.filter(|_| !echo.pace.is_zero()) else { return false };
        if taken_at.checked_sub(age).is_some_and(|last| last > *ended_at) {
            self.ended_at.remove(&agent);
            return false;
        }
        age > echo.pace.saturating_add(LATE)
    }

    /// True while some agent has been suspected for a short time, so that looks come quickly. The verdict holds for longer.
    pub(super) fn is_any(&self, now: Instant) -> bool {
        self.ended_at.values().any(|at| now.saturating_duration_since(*at) < QUICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: AgentId = AgentId::from_bytes([1; 16]);

    fn echo(age_millis: u64) -> EchoStats {
        EchoStats {
            last_reply_age: Some(Duration::from_millis(age_millis)),
            alive: true,
            pace: Duration::from_secs(1),
            ..EchoStats::default()
        }
    }

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn an_agent_is_gone_once_its_stream_ended_and_the_next_echo_is_overdue() {
        let start = Instant::now();
        let mut broken = Broken::default();
        broken.note(AGENT, true, start);
        assert!(!broken.is_gone(AGENT, &echo(3000), at(start, 3000)), "silence alone says nothing here");
        broken.note(AGENT, false, at(start, 5000));
        assert!(broken.is_any(at(start, 5000)) && broken.is_any(at(start, 9990)));
        assert!(!broken.is_gone(AGENT, &echo(900), at(start, 5100)), "it is not due yet");
        assert!(!broken.is_gone(AGENT, &echo(1200), at(start, 5400)), "a path may be late");
        assert!(broken.is_gone(AGENT, &echo(1300), at(start, 5500)));
        assert!(broken.is_gone(AGENT, &echo(30_000), at(start, 34_200)), "for as long as nothing comes");
        assert!(!broken.is_any(at(start, 10_000)), "one that stays dead is no reason to look quickly");
        broken.note(AGENT, true, at(start, 34_300));
        assert!(!broken.is_gone(AGENT, &echo(30_200), at(start, 34_400)));
        broken.note(AGENT, false, at(start, 35_000));
        assert!(broken.is_any(at(start, 35_100)), "another end counts anew");
    }

    #[test]
    fn an_agent_that_echoes_after_its_stream_ended_lives() {
        let start = Instant::now();
        let mut broken = Broken::default();
        broken.note(AGENT, true, start);
        broken.note(AGENT, false, at(start, 1000));
        broken.note(AGENT, false, at(start, 1500));
        assert!(!broken.is_gone(AGENT, &echo(100), at(start, 1600)) && !broken.is_any(at(start, 1600)));
        assert!(!broken.is_gone(AGENT, &echo(3900), at(start, 5400)), "one lost echo later is no death");
    }

    #[test]
    fn an_agent_that_echoes_seldom_has_its_time_and_who_never_had_a_stream_is_not_suspected() {
        let start = Instant::now();
        let mut broken = Broken::default();
        broken.note(AGENT, false, start);
        assert!(!broken.is_gone(AGENT, &echo(2000), at(start, 2000)));
        broken.note(AGENT, true, start);
        broken.note(AGENT, false, at(start, 10));
        let slow = |age| EchoStats { pace: Duration::from_secs(20), ..echo(age) };
        assert!(!broken.is_gone(AGENT, &slow(20_000), at(start, 20_000)));
        assert!(broken.is_gone(AGENT, &slow(20_300), at(start, 20_300)));
        assert!(!broken.is_gone(AGENT, &EchoStats::default(), at(start, 20_300)), "it never echoed");
        broken.retain(|_| false);
        assert!(!broken.is_gone(AGENT, &slow(20_300), at(start, 20_300)));
        broken.note(AGENT, true, at(start, 21_000));
        broken.note(AGENT, false, at(start, 21_010));
        broken.retain(|_| false);
        assert!(!broken.is_any(at(start, 21_020)));
    }
}
