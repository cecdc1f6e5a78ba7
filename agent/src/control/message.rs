//! What the driver tells the hub, and people.

use blueprint_common_link_core::LinkEnd;
use blueprint_proto::v1;

use crate::shared::{HealthMap, ServiceHealth};

/// All targets, with what the checks found.
pub(super) fn targets(health: &HealthMap) -> v1::TargetSet {
    let target = |(port, known): (&u16, &ServiceHealth)| v1::Target {
        blueprint_id: known.service.blueprint,
        service_id: known.service.service,
        port: (*port).into(),
        health: v1::Health::from(known.health).into(),
        reason: known.reason.clone(),
    };
    v1::TargetSet { targets: health.iter().map(target).collect() }
}

/// Why the stream ended, for people.
pub(super) fn end_text(end: LinkEnd, hub: &str) -> String {
    match end {
        LinkEnd::Broken => format!("the control stream to {hub} broke"),
        LinkEnd::TimedOut => format!("{hub} did not answer in time"),
        LinkEnd::Silent => format!("{hub} fell silent"),
        LinkEnd::Shutdown => format!("{hub} stopped and said that it will be back"),
        LinkEnd::Replaced => {
            format!("another process with this agent's identity took the control stream to {hub} over")
        }
        LinkEnd::Expired => "the certificate ran out".to_owned(),
        LinkEnd::Revoked => "the hub removed this agent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::{Health, ServiceKey};

    use super::*;

    #[test]
    fn targets_say_what_the_checks_found() {
        let service = ServiceKey { blueprint: 7, service: 42 };
        let sick = ServiceHealth {
            service,
            health: Health::Unhealthy,
            reason: "connection refused".to_owned(),
            check_micros: 3,
        };
        let set = targets(&HealthMap::from([(80, sick)]));
        let [target] = set.targets.as_slice() else { unreachable!("one target") };
        assert_eq!((target.blueprint_id, target.service_id, target.port), (7, 42, 80));
        assert_eq!(target.health(), v1::Health::Unhealthy);
        assert_eq!(target.reason, "connection refused");
    }

    #[test]
    fn every_end_says_something_of_its_own() {
        let ends = [
            LinkEnd::Broken,
            LinkEnd::TimedOut,
            LinkEnd::Silent,
            LinkEnd::Shutdown,
            LinkEnd::Replaced,
            LinkEnd::Expired,
            LinkEnd::Revoked,
        ];
        let texts: std::collections::BTreeSet<_> = ends.map(|end| end_text(end, "hub:1")).into();
        assert_eq!(texts.len(), ends.len());
    }
}
