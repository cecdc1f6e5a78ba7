//! An order as most labs give it.

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{DeploymentId, InstanceKey, InstanceSpec, Tags};

/// The one deployment that tests have.
const DEPLOYMENT: &str = "aaaaaaaaaaaaaaaa";

/// What a machine of a host's own is told: a join line, and the name that its order has.
#[must_use]
pub fn join_document(number: u32) -> String {
    format!(r#"{{"join_line":"hub:7443/pin/bpj_canary","name":"bp-{DEPLOYMENT}-{number}"}}"#)
}

/// The first call for the machine `number` of the one deployment that tests of `hub` have: of x86-64, without a disk of its own and
/// without an end. What is otherwise at a provider stands beside it, as in `InstanceSpec { disk_gb: 20, ..order(..) }`.
#[must_use]
pub fn order(
    hub: HubId,
    number: u32,
    (plan, region): (&str, &str),
    user_data: impl Into<String>,
) -> InstanceSpec {
    let deployment: DeploymentId = DEPLOYMENT.parse().unwrap();
    InstanceSpec {
        key: InstanceKey::of(&deployment, number),
        tags: Some(Tags { hub, deployment, attempt: 1 }),
        plan: plan.to_owned(),
        region: region.to_owned(),
        spot: false,
        disk_gb: 0,
        arch: Arch::X86_64,
        ttl: None,
        user_data: Secret::new(user_data.into()),
    }
}
