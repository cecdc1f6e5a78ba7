//! The call that makes a machine.

use std::time::Duration;

use blueprint_common_types::Secret;
use blueprint_hub_provision_core::{InstanceSpec, ProviderError};
use ring::digest;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::config::GcpConfig;
use crate::labels;
use crate::network::CLOSED;

/// Most bytes of user data (Google's reference of `metadata.items.value`: 256 KiB).
const MAX_USER_DATA: usize = 256 * 1024;

/// GB of a system disk of which nothing was said: an image, the agent and what it fetches. Google's least is 10.
const DISK_GB: u32 = 20;

/// Families of machines that take Hyperdisk alone, and no persistent disk. From general knowledge of November 2026, not asked
/// of Google: an order with the wrong kind of disk is refused and makes nothing.
const HYPERDISK: [&str; 13] =
    ["a4", "a4x", "c4", "c4a", "c4d", "h4d", "m4", "n4", "n4a", "n4d", "x4", "z4d", "g4"];

/// How long after the end of its deployment Google deletes a machine: the hub does it in time, and this is for one that is gone.
const AFTER_END: Duration = Duration::from_secs(3600);

/// Longest time after which Google deletes a machine by itself (its reference of `maxRunDuration`: 120 days).
const LONGEST_RUN: Duration = Duration::from_secs(120 * 86_400);

/// A kind of machine in a zone, as far as an order depends on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The zone.
    pub(crate) zone: String,
    /// Whether the kind has GPUs: its machines cannot be moved while they run.
    pub(crate) has_gpus: bool,
}

/// Refuses user data that Google would not take.
///
/// # Errors
///
/// [`ProviderError::Reject`] where it is too long.
pub(crate) fn check_user_data(spec: &InstanceSpec) -> Result<(), ProviderError> {
    let bytes = spec.user_data.expose().len();
    if bytes <= MAX_USER_DATA {
        return Ok(());
    }
    Err(ProviderError::Reject {
        reason: format!("the user data of {} has {bytes} bytes, and Google takes {MAX_USER_DATA}", spec.key),
    })
}

/// The document of `instances.insert` for this machine in this place.
pub(crate) fn launch(spec: &InstanceSpec, place: &Place, config: &GcpConfig) -> Value {
    let zone = &place.zone;
    let labels = labels::write(spec);
    let family = spec.plan.split('-').next().unwrap_or_default();
    let disk = if HYPERDISK.contains(&family) { "hyperdisk-balanced" } else { "pd-balanced" };
    let network = format!("global/networks/{}", config.network.as_str());
    let mut interface: Map<_, _> =
        [("network".to_owned(), json!(network)), ("stackType".to_owned(), json!("IPV4_ONLY"))]
            .into_iter()
            .collect();
    if let Some(name) = &config.subnetwork {
        let path = format!("regions/{}/subnetworks/{}", spec.region, name.as_str());
        interface.insert("subnetwork".to_owned(), json!(path));
    }
    if config.public_ip {
        let out = json!([{ "type": "ONE_TO_ONE_NAT", "name": "External NAT" }]);
        interface.insert("accessConfigs".to_owned(), out);
    }
    let accounts: Vec<Value> = config
        .service_account
        .iter()
        .map(|account| {
            let scopes = ["https://www.googleapis.com/auth/cloud-platform"];
            json!({ "email": account.as_str(), "scopes": scopes })
        })
        .collect();
    json!({
        "name": spec.key.as_str(),
        "description": "Made by blueprint-hub",
        "machineType": format!("zones/{zone}/machineTypes/{}", spec.plan),
        "labels": labels,
        "tags": { "items": [CLOSED] },
        "canIpForward": false,
        "deletionProtection": false,
        "disks": [{
            "boot": true,
            "autoDelete": true,
            "initializeParams": {
                "sourceImage": config.image.of(spec.arch),
                "diskSizeGb": if spec.disk_gb == 0 { DISK_GB } else { spec.disk_gb.max(10) }.to_string(),
                "diskType": format!("zones/{zone}/diskTypes/{disk}"),
                "labels": labels,
            },
        }],
        "networkInterfaces": [interface],
        "serviceAccounts": accounts,
        "scheduling": scheduling(spec, place),
        // Drivers of GPUs are not signed by what the firmware trusts.
        "shieldedInstanceConfig": {
            "enableSecureBoot": !place.has_gpus,
            "enableVtpm": true,
            "enableIntegrityMonitoring": true,
        },
        "metadata": { "items": [
            { "key": "block-project-ssh-keys", "value": "TRUE" },
            { "key": "serial-port-enable", "value": "FALSE" },
            { "key": "user-data", "value": UserData(&spec.user_data) },
        ] },
    })
}

/// User data where it is written; it has no `Debug`.
struct UserData<'a>(&'a Secret<String>);

impl Serialize for UserData<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose())
    }
}

fn scheduling(spec: &InstanceSpec, place: &Place) -> Value {
    let mut scheduling = if spec.spot {
        json!({
            "provisioningModel": "SPOT",
            "instanceTerminationAction": "DELETE",
            "onHostMaintenance": "TERMINATE",
            "automaticRestart": false,
        })
    } else {
        json!({
            "provisioningModel": "STANDARD",
            "onHostMaintenance": if place.has_gpus { "TERMINATE" } else { "MIGRATE" },
            "automaticRestart": true,
        })
    };
    let run = spec.ttl.map(|ttl| ttl.saturating_add(AFTER_END)).filter(|run| *run <= LONGEST_RUN);
    if let (Some(run), Some(fields)) = (run, scheduling.as_object_mut()) {
        fields.insert("maxRunDuration".to_owned(), json!({ "seconds": run.as_secs().to_string() }));
        fields.insert("instanceTerminationAction".to_owned(), json!("DELETE"));
    }
    scheduling
}

/// The places in the order in which this machine tries them: always the same for it, and another for the next one.
pub(crate) fn ordered(mut places: Vec<Place>, key: &str) -> Vec<Place> {
    places.sort();
    places.dedup_by(|one, other| one.zone == other.zone);
    let hash = digest::digest(&digest::SHA256, key.as_bytes());
    let number = hash.as_ref().iter().take(4).fold(0usize, |number, byte| (number << 8) | usize::from(*byte));
    let first = number.checked_rem(places.len()).unwrap_or_default();
    places.rotate_left(first);
    places
}

/// The id of this call, by which Google knows it again for about an hour: a UUID (version 8, RFC 9562) out of key, hub, number
/// of the call and zone. The zone is part of it, because the next one is asked only where the one before made nothing.
pub(crate) fn request_id(spec: &InstanceSpec, place: &Place) -> String {
    let whose = spec.tags.as_ref().map(|tags| format!("{} {}", tags.hub, tags.attempt)).unwrap_or_default();
    let text = format!("{} {whose} {}", spec.key, place.zone);
    let mut bytes = [0u8; 16];
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    for (byte, from) in bytes.iter_mut().zip(hash.as_ref()) {
        *byte = *from;
    }
    let mut hex: Vec<char> = hex(&bytes).chars().collect();
    for (at, digit) in [(12, '8'), (16, '8')] {
        if let Some(place) = hex.get_mut(at) {
            *place = digit;
        }
    }
    let mut id = String::with_capacity(36);
    for (at, digit) in hex.into_iter().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            id.push('-');
        }
        id.push(digit);
    }
    id
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::HubId;
    use blueprint_hub_provision_core::resource::Arch;
    use blueprint_hub_provision_core::{DeploymentId, ErrorClass, Tags};

    use super::*;

    fn spec() -> InstanceSpec {
        let deployment = DeploymentId::from_bytes([1; 10]);
        InstanceSpec {
            key: "bp-x-1".parse().unwrap(),
            tags: Some(Tags { hub: HubId::from_bytes([7; 16]), deployment, attempt: 1 }),
            plan: "n2-standard-2".to_owned(),
            region: "us-central1".to_owned(),
            spot: false,
            disk_gb: 100,
            arch: Arch::X86_64,
            ttl: None,
            user_data: Secret::new("#cloud-config\n".to_owned()),
        }
    }

    fn place(zone: &str) -> Place {
        Place { zone: zone.to_owned(), has_gpus: false }
    }

    fn config() -> GcpConfig {
        GcpConfig::new(vec!["us-central1".parse().unwrap()])
    }

    fn at<'a>(body: &'a Value, path: &str) -> &'a Value {
        body.pointer(path).unwrap_or(&Value::Null)
    }

    #[test]
    fn a_machine_is_asked_for_closed_labelled_and_without_an_account() {
        let body = launch(&spec(), &place("us-central1-a"), &config());
        for (path, wanted) in [
            ("/name", json!("bp-x-1")),
            ("/machineType", json!("zones/us-central1-a/machineTypes/n2-standard-2")),
            ("/labels/blueprint-instance", json!("bp-x-1")),
            ("/labels/blueprint-attempt", json!("1")),
            ("/tags/items", json!(["blueprint-hub-no-ingress"])),
            ("/serviceAccounts", json!([])),
            ("/disks/0/autoDelete", json!(true)),
            ("/disks/0/initializeParams/diskSizeGb", json!("100")),
            ("/disks/0/initializeParams/diskType", json!("zones/us-central1-a/diskTypes/pd-balanced")),
            ("/disks/0/initializeParams/labels/blueprint-instance", json!("bp-x-1")),
            ("/networkInterfaces/0/network", json!("global/networks/default")),
            ("/networkInterfaces/0/accessConfigs/0/type", json!("ONE_TO_ONE_NAT")),
            ("/networkInterfaces/0/subnetwork", Value::Null),
            ("/scheduling/onHostMaintenance", json!("MIGRATE")),
            ("/shieldedInstanceConfig/enableSecureBoot", json!(true)),
            ("/metadata/items/2/value", json!("#cloud-config\n")),
        ] {
            assert_eq!(at(&body, path), &wanted, "{path}");
        }
        let image = at(&body, "/disks/0/initializeParams/sourceImage").as_str().unwrap();
        assert!(image.ends_with("/ubuntu-2404-lts-amd64"), "{image}");
    }

    #[test]
    fn spot_gpus_and_private_networks_are_asked_for_in_googles_words() {
        let spot = InstanceSpec { spot: true, disk_gb: 0, plan: "c4-standard-2".to_owned(), ..spec() };
        let own = GcpConfig {
            network: "mesh".parse().unwrap(),
            subnetwork: Some("nodes".parse().unwrap()),
            public_ip: false,
            service_account: Some("n@p.iam.gserviceaccount.com".parse().unwrap()),
            ..config()
        };
        let body = launch(&spot, &Place { has_gpus: true, ..place("us-central1-a") }, &own);
        for (path, wanted) in [
            ("/scheduling/provisioningModel", json!("SPOT")),
            ("/scheduling/instanceTerminationAction", json!("DELETE")),
            ("/scheduling/onHostMaintenance", json!("TERMINATE")),
            ("/scheduling/automaticRestart", json!(false)),
            ("/shieldedInstanceConfig/enableSecureBoot", json!(false)),
            ("/disks/0/initializeParams/diskSizeGb", json!("20")),
            ("/disks/0/initializeParams/diskType", json!("zones/us-central1-a/diskTypes/hyperdisk-balanced")),
            ("/networkInterfaces/0/subnetwork", json!("regions/us-central1/subnetworks/nodes")),
            ("/networkInterfaces/0/accessConfigs", Value::Null),
            ("/serviceAccounts/0/email", json!("n@p.iam.gserviceaccount.com")),
        ] {
            assert_eq!(at(&body, path), &wanted, "{path}");
        }
        let gpu = launch(&spec(), &Place { has_gpus: true, ..place("us-central1-a") }, &config());
        assert_eq!(at(&gpu, "/scheduling/onHostMaintenance"), &json!("TERMINATE"));
    }

    #[test]
    fn one_call_has_one_id_and_another_call_another() {
        let own = request_id(&spec(), &place("us-central1-a"));
        assert_eq!(own.len(), 36);
        assert!(own.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && own.get(14..15) == Some("8"), "{own}");
        assert_eq!(own, request_id(&spec(), &place("us-central1-a")));
        let mut again = spec();
        again.tags = again.tags.map(|tags| Tags { attempt: 2, ..tags });
        let mut others = spec();
        others.tags = others.tags.map(|tags| Tags { hub: HubId::from_bytes([8; 16]), ..tags });
        for other in [
            request_id(&again, &place("us-central1-a")),
            request_id(&others, &place("us-central1-a")),
            request_id(&spec(), &place("us-central1-b")),
        ] {
            assert_ne!(own, other);
        }
    }

    #[test]
    fn every_zone_is_tried_and_machines_begin_in_different_ones() {
        let places: Vec<_> = ["c", "a", "b", "a"].map(place).into();
        let zones = |key: &str| -> String {
            ordered(places.clone(), key).into_iter().map(|place| place.zone).collect()
        };
        let firsts: std::collections::BTreeSet<_> = (0..20).map(|n| zones(&format!("bp-{n}"))).collect();
        assert!(firsts.into_iter().eq(["abc", "bca", "cab"]));
        assert_eq!(zones("bp-1"), zones("bp-1"));
        assert_eq!(ordered(vec![], "a"), vec![]);
    }

    #[test]
    fn user_data_has_its_limit() {
        let of = |bytes: usize| InstanceSpec { user_data: Secret::new("x".repeat(bytes)), ..spec() };
        assert!(check_user_data(&of(262_144)).is_ok());
        assert_eq!(check_user_data(&of(262_145)).unwrap_err().class(), ErrorClass::Reject);
    }
}
