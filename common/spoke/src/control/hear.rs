//! What the hub says, and what it means for the stream.

use std::net::IpAddr;
use std::time::Instant;

use blueprint_common_link_core::{LinkEnd, LinkState};
use blueprint_common_runtime::Chain;
use blueprint_proto::v1;
use blueprint_proto::v1::goodbye::Reason;
use blueprint_proto::v1::hub_message::Body as FromHub;
use tonic::Status;
use tracing::{debug, info, warn};

use super::Driver;
use crate::error::SpokeError;
use crate::identity::TunnelSettings;
use crate::join::{self, CallError, Refusal};
use crate::plane::PathRequest;
use crate::session::Opened;
use crate::spoke::ControlState;

impl Driver {
    /// A stream was welcomed: it takes the place of any other.
    pub(super) fn welcome(&mut self, opened: Opened) -> Result<(), SpokeError> {
        let Opened { session, settings, agent_seq, heartbeat } = opened;
        let now = Instant::now();
        let is_new = !matches!(self.link.state(), LinkState::Up { .. });
        if is_new {
            self.link.handle_welcome(heartbeat, now);
        } else {
            self.link.handle_message(now);
        }
        let reached = session.reached;
        // What is reached through a proxy is the proxy.
        let direct = self.spoke.config.proxy.is_none().then_some(reached.ip());
        *self.spoke.caller.lock() = Some(session.caller.clone());
        self.session = Some(session);
        self.opening = None;
        self.hub_seq = 0;
        if let Err(error) = self.outbox.resend_after(agent_seq) {
            warn!(%error, "hub and agent disagree on what was said; everything held is sent again");
        }
        self.spoke.pace.send_if_modified(|pace| std::mem::replace(pace, heartbeat) != heartbeat);
        info!(hub = %reached, epoch = settings.epoch, "control stream up");
        self.spoke.control.send_modify(|control| {
            if control.state != ControlState::Up || is_new {
                control.since = join::now();
            }
            control.state = ControlState::Up;
            control.reason = None;
            control.hint = None;
        });
        self.configure(settings, direct)?;
        self.offer(true);
        self.report_workloads();
        Ok(())
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, error: &CallError) -> Result<(), SpokeError> {
        self.opening = None;
        debug!(error = %Chain(error), "control stream not opened");
        let end = match error.refusal() {
            Some(Refusal::Revoked | Refusal::Outdated) => return Err(self.revoked(error)),
            Some(Refusal::Expired) => LinkEnd::Expired,
            Some(_) | None => LinkEnd::Broken,
        };
        let hint = self.duties.hint(error);
        self.down(Chain(error).to_string(), hint);
        self.link.handle_end(end, Instant::now());
        Ok(())
    }

    /// The stream that stands goes on; at its certificate's end the hub closes it.
    pub(super) fn not_replaced(&mut self, error: &CallError) {
        warn!(error = %Chain(error), "control stream not replaced");
        if self.session.is_none() {
            self.link.handle_end(LinkEnd::Broken, Instant::now());
        }
    }

    pub(super) fn revoked(&mut self, error: &CallError) -> SpokeError {
        self.link.handle_end(LinkEnd::Revoked, Instant::now());
        self.spoke.revoke();
        SpokeError::Revoked { why: error.to_string() }
    }

    pub(super) fn hear(&mut self, message: Result<Option<v1::HubMessage>, Status>) -> Result<(), SpokeError> {
        let now = Instant::now();
        let message = match message {
            Ok(Some(message)) => message,
            // The hub closes the old stream as soon as it has the new one.
            Ok(None) | Err(_) if self.replacing.is_some() => {
                self.session = None;
                return Ok(());
            }
            Ok(None) => {
                self.down("the hub closed the control stream".to_owned(), None);
                self.link.handle_end(LinkEnd::Broken, now);
                return Ok(());
            }
            Err(status) => {
                self.link.handle_end(LinkEnd::Broken, now);
                let error = CallError::from(status);
                if matches!(error.refusal(), Some(Refusal::Revoked | Refusal::Outdated)) {
                    return Err(self.revoked(&error));
                }
                debug!(error = %Chain(&error), "control stream broke");
                return Ok(());
            }
        };
        self.link.handle_message(now);
        self.hub_seq = self.hub_seq.max(message.seq);
        match message.body {
            Some(FromHub::Ack(ack)) => {
                if let Err(error) = self.outbox.handle_ack(ack.agent_seq) {
                    debug!(%error, "acknowledgement ignored");
                }
            }
            Some(FromHub::Config(config)) => match TunnelSettings::try_from(config) {
                Ok(settings) => {
                    let is_direct = self.spoke.config.proxy.is_none();
                    let reached =
                        self.session.as_ref().filter(|_| is_direct).map(|session| session.reached.ip());
                    self.configure(settings, reached)?;
                }
                Err(error) => warn!(%error, "configuration ignored"),
            },
            Some(FromHub::Goodbye(goodbye)) => return self.goodbye(goodbye.reason(), now),
            Some(FromHub::Refused(refused)) => self.duties.refused(refused),
            Some(FromHub::Workloads(set)) => self.duties.assigned(set),
            Some(FromHub::Logs(request)) => self.duties.logs(request),
            Some(FromHub::Door(ticket)) => self.duties.door(ticket),
            // Either out of place or of a newer hub: it changes nothing.
            Some(FromHub::Welcome(_)) | None => debug!("message without meaning here"),
        }
        Ok(())
    }

    pub(super) fn goodbye(&mut self, reason: Reason, now: Instant) -> Result<(), SpokeError> {
        let end = match reason {
            // The stream that replaces this one was seen first.
            Reason::Replaced if self.replacing.is_some() => return Ok(()),
            Reason::Replaced => LinkEnd::Replaced,
            Reason::Shutdown => LinkEnd::Shutdown,
            Reason::Expired => LinkEnd::Expired,
            Reason::Unspecified => LinkEnd::Broken,
            Reason::Revoked if self.spoke.is_leaving() => LinkEnd::Revoked,
            Reason::Revoked => {
                self.link.handle_end(LinkEnd::Revoked, now);
                self.spoke.revoke();
                return Err(SpokeError::Revoked { why: "the hub removed this agent".to_owned() });
            }
        };
        self.link.handle_end(end, now);
        Ok(())
    }

    /// Uses what the hub says of the tunnel. Only a new place in the overlay needs a new start.
    pub(super) fn configure(
        &self,
        settings: TunnelSettings,
        reached: Option<IpAddr>,
    ) -> Result<(), SpokeError> {
        let known = self.spoke.identity().tunnel.clone();
        if settings != known {
            let same = TunnelSettings {
                epoch: known.epoch,
                carriers: known.carriers.clone(),
                keepalive: known.keepalive,
                ..settings.clone()
            };
            let is_same_place = same == known;
            if let Err(error) = self.spoke.set_tunnel(settings.clone()) {
                warn!(error = %Chain(&error), "what the hub says of the tunnel is not stored");
            }
            if !is_same_place {
                return Err(SpokeError::Moved);
            }
        }
        self.spoke.path.send_replace(PathRequest { epoch: settings.epoch, reached });
        Ok(())
    }
}
