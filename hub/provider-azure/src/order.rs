//! The document that makes a machine, with its interface, address and disk.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_hub_provision_core::{InstanceKey, InstanceSpec, ProviderError};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::config::{AzureConfig, Image};
use crate::sizes::Size;
use crate::tags;

/// Most bytes of user data before base64 (the reference: 65535).
const MAX_USER_DATA: usize = 65_535;

/// GB of a system disk of which nothing was said; images of Linux have 30.
const DISK_GB: u32 = 30;

/// Version of the network API that Azure makes the interface and the address by; of the two that there are the later.
const NETWORK_API: &str = "2022-11-01";

/// The user that Azure wants to be told; nobody holds its key.
const USER: &str = "blueprint";

/// Names of what is made with a machine begin with its key and this sign, which no key has.
pub(crate) const PART: char = '_';

/// What the names of a machine's interface, address and disk end with.
pub(crate) const NIC: &str = "nic";
pub(crate) const ADDRESS: &str = "ip";
pub(crate) const DISK: &str = "disk";

/// Where a machine is put, by the ids of what has to stand before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) security_group: String,
    pub(crate) subnet: String,
}

/// Refuses user data that Azure would not take.
///
/// # Errors
///
/// [`ProviderError::Reject`] where it is too long.
pub(crate) fn check_user_data(spec: &InstanceSpec) -> Result<(), ProviderError> {
    let bytes = spec.user_data.expose().len();
    if bytes <= MAX_USER_DATA {
        return Ok(());
    }
    let reason = format!("the user data of {} has {bytes} bytes, and Azure takes {MAX_USER_DATA}", spec.key);
    Err(ProviderError::Reject { reason })
}

/// The document of a machine.
///
/// # Errors
///
/// [`ProviderError::Busy`] where the system gives no randomness.
pub(crate) fn document(
    spec: &InstanceSpec,
    config: &AzureConfig,
    size: &Size,
    place: &Place,
) -> Result<Value, ProviderError> {
    let image = config.image_for(spec.arch);
    let mut properties = json!({
        "hardwareProfile": { "vmSize": spec.plan },
        "storageProfile": {
            "imageReference": image.reference(),
            "osDisk": {
                "name": format!("{}{PART}{DISK}", spec.key),
                "createOption": "FromImage",
                "deleteOption": "Delete",
                "diskSizeGB": spec.disk_gb.max(DISK_GB),
                // Every size takes it.
                "managedDisk": { "storageAccountType": "StandardSSD_LRS" },
            },
        },
        "osProfile": {
            "computerName": spec.key.as_str(),
            "adminUsername": USER,
            "customData": STANDARD.encode(spec.user_data.expose()),
            "linuxConfiguration": {
                "disablePasswordAuthentication": true,
                "ssh": { "publicKeys": [{
                    "path": format!("/home/{USER}/.ssh/authorized_keys"),
                    "keyData": public_key(&spec.key)?,
                }] },
            },
        },
        "networkProfile": network(spec, size, place),
    });
    if let Some(properties) = properties.as_object_mut() {
        if spec.spot {
            properties.insert("priority".to_owned(), json!("Spot"));
            properties.insert("evictionPolicy".to_owned(), json!("Delete"));
            // Never taken back for its price, which is at most that of others.
            properties.insert("billingProfile".to_owned(), json!({ "maxPrice": -1 }));
        }
        if size.has_trusted_launch && matches!(image, Image::Market(_)) {
            let profile = json!({
                "securityType": "TrustedLaunch",
                "uefiSettings": { "secureBootEnabled": !size.has_gpu, "vTpmEnabled": true },
            });
            properties.insert("securityProfile".to_owned(), profile);
        }
    }
    Ok(json!({ "location": spec.region, "tags": tags::of(spec), "properties": properties }))
}

fn network(spec: &InstanceSpec, size: &Size, place: &Place) -> Value {
    let tags = tags::of(spec);
    let address = json!({
        "name": format!("{}{PART}{ADDRESS}", spec.key),
        "sku": { "name": "Standard", "tier": "Regional" },
        "tags": tags,
        "properties": {
            "deleteOption": "Delete",
            "publicIPAddressVersion": "IPv4",
            "publicIPAllocationMethod": "Static",
        },
    });
    json!({
        "networkApiVersion": NETWORK_API,
        "networkInterfaceConfigurations": [{
            "name": format!("{}{PART}{NIC}", spec.key),
            "tags": tags,
            "properties": {
                "primary": true,
                "deleteOption": "Delete",
                "enableAcceleratedNetworking": size.is_accelerated,
                "networkSecurityGroup": { "id": place.security_group },
                "ipConfigurations": [{
                    "name": "main",
                    "properties": {
                        "primary": true,
                        "privateIPAddressVersion": "IPv4",
                        "subnet": { "id": place.subnet },
                        // The way out: subnets give none by themselves since version 2025-07-01 of the network API.
                        "publicIPAddressConfiguration": address,
                    },
                }],
            },
        }],
    })
}

/// The public half of a new key, as OpenSSH writes it (RFC 8709, section 4); the private half is never kept. That Azure takes keys
/// of this kind is its manual's word, and was not tried against it.
fn public_key(key: &InstanceKey) -> Result<String, ProviderError> {
    const KIND: &[u8] = b"ssh-ed25519";
    let unmade =
        |_| ProviderError::Busy { reason: "the system gave no randomness for an SSH key".to_owned() };
    let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(unmade)?;
    let pair = Ed25519KeyPair::from_pkcs8(pair.as_ref())
        .map_err(|_| ProviderError::Busy { reason: "a new SSH key cannot be read".to_owned() })?;
    let mut blob = Vec::with_capacity(51);
    for part in [KIND, pair.public_key().as_ref()] {
        blob.extend_from_slice(&u32::try_from(part.len()).unwrap_or_default().to_be_bytes());
        blob.extend_from_slice(part);
    }
    Ok(format!("ssh-ed25519 {} {key}", STANDARD.encode(blob)))
}
