//! The hub's side of the control streams.

use std::time::Instant;

use blueprint_common_link_core::LinkEnd;
use blueprint_common_types::{AgentId, MachineSample, Timestamp, TunnelSample};
use blueprint_hub_registry_core::HISTORY_POINTS;

use crate::air::Air;
use crate::disk::Disk;
use crate::fault::{Checked, require, require_equal};
use crate::hub::Hub;
use crate::streams::{Frame, StreamId};
use crate::wire::{HEARTBEAT, ProcessId, Report, ToAgent, ToHub};

/// A stream that was welcomed.
#[derive(Debug)]
pub(crate) struct Session {
    agent: AgentId,
    heard_at: Instant,
}

/// What is known of the newest process of an agent.
#[derive(Debug)]
pub(crate) struct Live {
    process: ProcessId,
    /// `None` between two sessions of the process.
    stream: Option<StreamId>,
    applied: u64,
    acked: u64,
}

impl Hub {
    pub(crate) fn handle_frame(
        &mut self,
        stream: StreamId,
        frame: Frame<ToHub>,
        disk: &mut Disk,
        air: &mut Air,
    ) -> Checked {
        let message = match frame {
            Frame::Message(message) => message,
            Frame::End => {
                self.close(stream);
                return Ok(());
            }
        };
        if let ToHub::Hello { agent, process } = message {
            self.open(stream, agent, process, air);
            return Ok(());
        }
        let Some(session) = self.sessions.get_mut(&stream) else {
            say(stream, Frame::End, air);
            return Ok(());
        };
        session.heard_at = air.now;
        let agent = session.agent;
        match message {
            ToHub::Hello { .. } => Ok(()),
            ToHub::Renew { generation } => self.renew(stream, agent, generation, disk, air),
            ToHub::Report { seq, report } => self.report(stream, agent, seq, report, air),
        }
    }

    pub(crate) fn end_silent_sessions(&mut self, air: &mut Air) {
        let is_silent = |session: &Session| session.heard_at + HEARTBEAT * 4 <= air.now;
        let silent: Vec<_> = self.sessions.iter().filter(|(_, s)| is_silent(s)).map(|(id, _)| *id).collect();
        for stream in silent {
            air.note(format_args!("hub: stream {stream} is silent"));
            say(stream, Frame::End, air);
            self.close(stream);
        }
    }

    pub(crate) fn silence_at(&self) -> Option<Instant> {
        self.sessions.values().map(|session| session.heard_at + HEARTBEAT * 4).min()
    }

    /// Ends the session of an agent that was removed.
    pub(crate) fn revoke(&mut self, agent: AgentId, air: &mut Air) {
        if let Some(stream) = self.live.remove(&agent).and_then(|live| live.stream) {
            self.sessions.remove(&stream);
            say(stream, Frame::Message(ToAgent::Goodbye(LinkEnd::Revoked)), air);
        }
    }

    /// Acknowledges what was applied, now that it is saved.
    pub(crate) fn acknowledge(&mut self, air: &mut Air) {
        for live in self.live.values_mut().filter(|live| live.applied > live.acked) {
            live.acked = live.applied;
            if let Some(stream) = live.stream {
                say(stream, Frame::Message(ToAgent::Ack { seq: live.acked }), air);
            }
        }
    }

    fn open(&mut self, stream: StreamId, agent: AgentId, process: ProcessId, air: &mut Air) {
        if self.registry.agent(agent).is_none() {
            say(stream, Frame::Message(ToAgent::Goodbye(LinkEnd::Revoked)), air);
            return;
        }
        let old = self.live.remove(&agent);
        if let Some(replaced) = old.as_ref().and_then(|old| old.stream) {
            self.sessions.remove(&replaced);
            say(replaced, Frame::Message(ToAgent::Goodbye(LinkEnd::Replaced)), air);
        }
        let same = old.filter(|old| old.process == process);
        let (applied, acked) = same.map_or((0, 0), |old| (old.applied, old.acked));
        air.note(format_args!("hub: stream {stream} of {agent} process {process} opens after {acked}"));
        self.live.insert(agent, Live { process, stream: Some(stream), applied, acked });
        self.sessions.insert(stream, Session { agent, heard_at: air.now });
        self.registry.set_connected(agent, true, air.wall());
        self.naive.set_connected(agent, true);
        // What is applied but not saved yet is acknowledged later; until then it may come again.
        say(stream, Frame::Message(ToAgent::Welcome { applied: acked, epoch: self.epoch }), air);
    }

    fn close(&mut self, stream: StreamId) {
        let Some(Session { agent, .. }) = self.sessions.remove(&stream) else { return };
        let Some(live) = self.live.get_mut(&agent).filter(|live| live.stream == Some(stream)) else { return };
        live.stream = None;
        let seen = self.registry.snapshot().agents.get(&agent).and_then(|view| view.last_seen);
        self.registry.set_connected(agent, false, seen.unwrap_or_default());
        self.naive.set_connected(agent, false);
    }

    fn report(
        &mut self,
        stream: StreamId,
        agent: AgentId,
        seq: u64,
        report: Report,
        air: &mut Air,
    ) -> Checked {
        let Some(live) = self.live.get_mut(&agent).filter(|live| live.stream == Some(stream)) else {
            return Ok(());
        };
        let is_fresh = seq > live.applied;
        live.applied = live.applied.max(seq);
        let process = live.process;
        let wall = air.wall();
        let back = self.registry.renew(agent, wall);
        self.naive.renew(agent, wall);
        self.note(back, air);
        if !is_fresh {
            return Ok(());
        }
        let first = self.done.insert((agent, process, seq));
        require(first, || format!("report {seq} of {agent} is applied twice"))?;
        let sample = if let Report::Qos(at) = report { Some(at) } else { None };
        air.ledger.apply(agent, process, seq, sample)?;
        match report {
            Report::Heartbeat => Ok(()),
            Report::Qos(at) => self.keep_sample(agent, at),
            Report::Targets(offered) => {
                air.note(format_args!("hub: {agent} offers {} targets, report {seq}", offered.len()));
                self.naive.set_targets(agent, &offered, wall);
                if let Some(naive) = self.naive.agents.get_mut(&agent) {
                    naive.applied = Some((process, seq));
                }
                let outcome = self.registry.set_targets(agent, offered, wall);
                self.note(outcome.changes, air);
                Ok(())
            }
        }
    }

    fn keep_sample(&mut self, agent: AgentId, at: Timestamp) -> Checked {
        let history = self.history.entry(agent).or_default();
        history.push(at, MachineSample::default(), TunnelSample::default(), Vec::new());
        let samples = self.samples.entry(agent).or_default();
        if samples.last() != Some(&at) {
            samples.push(at);
        }
        let wanted = &samples[samples.len().saturating_sub(HISTORY_POINTS)..];
        let found: Vec<Timestamp> = history.series(HISTORY_POINTS).map(|point| point.at).collect();
        require_equal(&found.as_slice(), &wanted, "the history lost a sample")
    }

    /// The store's rule: the newest certificate or the one before it, whose answer may have been lost.
    fn renew(
        &mut self,
        stream: StreamId,
        id: AgentId,
        presented: u32,
        disk: &mut Disk,
        air: &mut Air,
    ) -> Checked {
        let Some(agent) = disk.agents.get_mut(&id) else { return Ok(()) };
        let newest = agent.generation;
        require(presented + 1 >= newest && presented <= newest, || {
            format!("{id} presents certificate {presented}, the newest is {newest}")
        })?;
        agent.generation = presented + 1;
        self.registry.set_generation(id, agent.generation);
        say(stream, Frame::Message(ToAgent::Renewed { generation: presented + 1 }), air);
        Ok(())
    }
}

fn say(stream: StreamId, frame: Frame<ToAgent>, air: &mut Air) {
    let at = air.now + air.network.delay(&mut air.rng);
    air.streams.send_down(stream, frame, at);
}
