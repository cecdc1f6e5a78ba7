//! The call that makes a machine.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::Secret;
use blueprint_hub_provision_core::{InstanceSpec, ProviderError};
use ring::digest;

use crate::answer::AnswerError;
use crate::network::Place;
use crate::query::Query;
use crate::sign::hex;
use crate::tags;
use crate::xml::Node;

/// Most bytes of user data, before base64 (EC2, "User data for instances": 16 KB).
const MAX_USER_DATA: usize = 16 * 1024;

/// GB of a system disk of which nothing was said: an image, the agent and what it fetches.
const DISK_GB: u32 = 20;

/// An image that machines are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// `ami-` and hexadecimal digits.
    pub(crate) id: String,
    /// Its name of the system disk, which a mapping has to repeat: another one would add a second disk.
    pub(crate) root: String,
    /// GB that the system disk has at least.
    pub(crate) least_gb: u32,
    /// Kind of processor, in AWS's spelling.
    pub(crate) arch: String,
}

/// The images that an answer describes.
///
/// # Errors
///
/// Where one lacks what a launch needs.
pub(crate) fn images(root: &Node) -> Result<Vec<Image>, AnswerError> {
    let read = |item: &Node| {
        let text = |name| item.text(name).filter(|text| !text.is_empty()).map(str::to_owned);
        let device = text("rootDeviceName").ok_or(AnswerError("rootDeviceName"))?;
        let disk = item.items("blockDeviceMapping").find(|disk| disk.text("deviceName") == Some(&device));
        let size = disk.and_then(|disk| disk.child("ebs")?.text("volumeSize")?.parse().ok());
        Ok(Image {
            id: text("imageId").ok_or(AnswerError("imageId"))?,
            root: device,
            least_gb: size.unwrap_or_default(),
            arch: text("architecture").ok_or(AnswerError("architecture"))?,
        })
    };
    root.items("imagesSet").map(read).collect()
}

/// Refuses user data that EC2 would not take.
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
        reason: format!("the user data of {} has {bytes} bytes, and EC2 takes {MAX_USER_DATA}", spec.key),
    })
}

/// The parameters of `RunInstances` for this machine in this place, whose network lets nothing in by the group `group`.
pub(crate) fn launch(
    spec: &InstanceSpec,
    image: &Image,
    place: &Place,
    group: &str,
    public_ip: bool,
) -> Query {
    let tags = tags::write(spec);
    let disk = if spec.disk_gb == 0 { DISK_GB } else { spec.disk_gb };
    let user_data = Secret::new(STANDARD.encode(spec.user_data.expose()));
    let query = Query::default()
        .with("MinCount", "1")
        .with("MaxCount", "1")
        .with("ClientToken", token(spec, place))
        .with("ImageId", &image.id)
        .with("InstanceType", &spec.plan)
        .with("UserData", user_data.expose())
        .with("InstanceInitiatedShutdownBehavior", "terminate")
        .with("MetadataOptions.HttpTokens", "required")
        .with("MetadataOptions.HttpEndpoint", "enabled")
        .with("MetadataOptions.HttpPutResponseHopLimit", "1")
        .with("NetworkInterface.1.DeviceIndex", "0")
        .with("NetworkInterface.1.SubnetId", &place.subnet)
        .with("NetworkInterface.1.AssociatePublicIpAddress", public_ip.to_string())
        .with("NetworkInterface.1.DeleteOnTermination", "true")
        .with("NetworkInterface.1.SecurityGroupId.1", group)
        .with("BlockDeviceMapping.1.DeviceName", &image.root)
        .with("BlockDeviceMapping.1.Ebs.VolumeSize", disk.max(image.least_gb).to_string())
        .with("BlockDeviceMapping.1.Ebs.VolumeType", "gp3")
        .with("BlockDeviceMapping.1.Ebs.Encrypted", "true")
        .with("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true")
        .tagged("instance", &tags)
        .tagged("volume", &tags);
    if !spec.spot {
        return query;
    }
    query
        .with("InstanceMarketOptions.MarketType", "spot")
        .with("InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time")
        .with("InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior", "terminate")
}

/// The name of this call, by which AWS knows it again: 64 characters, the most that it takes.
///
/// The subnet is part of it, because the same token for another one is refused, and the next zone is asked only where the one
/// before did nothing.
fn token(spec: &InstanceSpec, place: &Place) -> String {
    let whose = spec.tags.as_ref().map(|tags| format!("{} {}", tags.hub, tags.attempt)).unwrap_or_default();
    let text = format!("{} {whose} {}", spec.key, place.subnet);
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
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
            plan: "g5.xlarge".to_owned(),
            region: "us-east-1".to_owned(),
            spot: false,
            disk_gb: 100,
            arch: Arch::X86_64,
            ttl: None,
            user_data: Secret::new("#cloud-config\n".to_owned()),
        }
    }

    fn place(subnet: &str) -> Place {
        Place { subnet: subnet.to_owned(), vpc: "vpc-1".to_owned(), zone: "us-east-1a".to_owned() }
    }

    fn image() -> Image {
        Image { id: "ami-1".to_owned(), root: "/dev/xvda".to_owned(), least_gb: 8, arch: "x86_64".to_owned() }
    }

    #[test]
    fn a_machine_is_asked_for_closed_encrypted_and_tagged() {
        let query = launch(&spec(), &image(), &place("subnet-1"), "sg-1", true);
        for (name, wanted) in [
            ("MinCount", "1"),
            ("MaxCount", "1"),
            ("ImageId", "ami-1"),
            ("InstanceType", "g5.xlarge"),
            ("UserData", "I2Nsb3VkLWNvbmZpZwo="),
            ("InstanceInitiatedShutdownBehavior", "terminate"),
            ("MetadataOptions.HttpTokens", "required"),
            ("MetadataOptions.HttpPutResponseHopLimit", "1"),
            ("NetworkInterface.1.SubnetId", "subnet-1"),
            ("NetworkInterface.1.AssociatePublicIpAddress", "true"),
            ("NetworkInterface.1.SecurityGroupId.1", "sg-1"),
            ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
            ("BlockDeviceMapping.1.Ebs.VolumeSize", "100"),
            ("BlockDeviceMapping.1.Ebs.VolumeType", "gp3"),
            ("BlockDeviceMapping.1.Ebs.Encrypted", "true"),
            ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true"),
            ("TagSpecification.1.ResourceType", "instance"),
            ("TagSpecification.2.ResourceType", "volume"),
            ("TagSpecification.2.Tag.2.Key", "blueprint-instance"),
            ("TagSpecification.2.Tag.2.Value", "bp-x-1"),
            ("TagSpecification.1.Tag.5.Key", "blueprint-attempt"),
            ("TagSpecification.1.Tag.5.Value", "1"),
        ] {
            assert_eq!(query.value(name), Some(wanted), "{name}");
        }
        assert_eq!(query.value("InstanceMarketOptions.MarketType"), None);
        let spot = InstanceSpec { spot: true, disk_gb: 0, ..spec() };
        let query = launch(&spot, &Image { least_gb: 30, ..image() }, &place("subnet-1"), "sg-1", false);
        assert_eq!(query.value("InstanceMarketOptions.SpotOptions.SpotInstanceType"), Some("one-time"));
        assert_eq!(query.value("BlockDeviceMapping.1.Ebs.VolumeSize"), Some("30"));
        assert_eq!(query.value("NetworkInterface.1.AssociatePublicIpAddress"), Some("false"));
    }

    #[test]
    fn one_call_has_one_token_and_another_call_another() {
        let own = token(&spec(), &place("subnet-1"));
        assert_eq!(own.len(), 64);
        assert_eq!(own, token(&spec(), &place("subnet-1")));
        let mut again = spec();
        again.tags = again.tags.map(|tags| Tags { attempt: 2, ..tags });
        let mut others = spec();
        others.tags = others.tags.map(|tags| Tags { hub: HubId::from_bytes([8; 16]), ..tags });
        let next = InstanceSpec { key: "bp-x-2".parse().unwrap(), ..spec() };
        for other in [
            token(&again, &place("subnet-1")),
            token(&others, &place("subnet-1")),
            token(&next, &place("subnet-1")),
            token(&spec(), &place("subnet-2")),
        ] {
            assert_ne!(own, other);
        }
    }

    #[test]
    fn user_data_has_its_limit() {
        let of = |bytes: usize| InstanceSpec { user_data: Secret::new("x".repeat(bytes)), ..spec() };
        assert!(check_user_data(&of(16384)).is_ok());
        let error = check_user_data(&of(16385)).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Reject);
        assert_eq!(
            error.to_string(),
            "refused: the user data of bp-x-1 has 16385 bytes, and EC2 takes 16384"
        );
    }
}
