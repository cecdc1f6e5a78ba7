//! What an agent may offer.

use std::collections::BTreeMap;

use blueprint_common_types::{AgentId, ServiceKey, TargetKey};

use super::{Declared, MAX_TARGETS_PER_AGENT, OfferedTarget, RefusedTarget, Registry, clean_line};
use crate::ServiceGrant;

/// An agent's target set, sorted by what it may and may not offer.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    pub(super) accepted: BTreeMap<(ServiceKey, u16), Declared>,
    /// Services that the agent is the first to offer; already claimed for it.
    pub(super) claimed: Vec<ServiceKey>,
    pub(super) refused: Vec<(TargetKey, RefusedTarget)>,
}

impl Registry {
    /// Sorts what an agent offers, and claims services for it. Of two targets at one place the
    /// later counts.
    pub(super) fn admit(&mut self, id: AgentId, offered: Vec<OfferedTarget>) -> Admitted {
        let mut admitted = Admitted::default();
        let mut claims_held = self.claims.values().filter(|owner| **owner == id).count();
        for OfferedTarget { service, port, health, reason, generation } in offered {
            let place = (service, port);
            let is_full = admitted.accepted.len() >= MAX_TARGETS_PER_AGENT;
            let judged = if is_full && !admitted.accepted.contains_key(&place) {
                Err(RefusedTarget::TooMany)
            } else {
                self.judge(id, service, port, claims_held)
            };
            match judged {
                Err(why) if admitted.refused.len() < MAX_TARGETS_PER_AGENT => {
                    admitted.refused.push((TargetKey { service, agent: id, port }, why));
                }
                Err(_) => {}
                Ok(is_first) => {
                    if is_first {
                        self.claims.insert(service, id);
                        claims_held += 1;
                        admitted.claimed.push(service);
                    }
                    let declared = Declared { health, reason: clean_line(&reason), generation };
                    admitted.accepted.insert(place, declared);
                }
            }
        }
        admitted
    }

    /// Whether an agent offers this target, or may without a claim that it does not hold: so it may say how it was.
    #[must_use]
    pub fn may_tell(&self, target: TargetKey) -> bool {
        let TargetKey { service, agent, port } = target;
        self.offers(target) || matches!(self.judge(agent, service, port, 0), Ok(false))
    }

    /// Decides on one target; true where it needs a claim that nobody holds.
    fn judge(
        &self,
        id: AgentId,
        service: ServiceKey,
        port: u16,
        claims_held: usize,
    ) -> Result<bool, RefusedTarget> {
        let held = self.agents.get(&id).ok_or(RefusedTarget::UnknownAgent)?;
        if port == 0 {
            return Err(RefusedTarget::Port);
        }
        if let Some(assigned) = self.assigned.get(&service) {
            // The operator's word of today is worth more than that of the join token.
            return match (assigned.is_empty(), assigned.contains(&id)) {
                (_, true) => Ok(false),
                (false, false) => Err(RefusedTarget::Claimed),
                (true, false) => Err(RefusedTarget::Unplaced),
            };
        }
        match (&held.agent.services, self.claims.get(&service)) {
            (ServiceGrant::Only(services), _) if services.contains(&service) => Ok(false),
            (ServiceGrant::Only(_), _) => Err(RefusedTarget::NotGranted),
            (ServiceGrant::FirstClaim, Some(owner)) if *owner == id => Ok(false),
            (ServiceGrant::FirstClaim, Some(_)) => Err(RefusedTarget::Claimed),
            (ServiceGrant::FirstClaim, None) if self.granted.contains_key(&service) => {
                Err(RefusedTarget::Claimed)
            }
            (ServiceGrant::FirstClaim, None) if claims_held >= MAX_TARGETS_PER_AGENT => {
                Err(RefusedTarget::TooMany)
            }
            (ServiceGrant::FirstClaim, None) => Ok(true),
        }
    }
}
