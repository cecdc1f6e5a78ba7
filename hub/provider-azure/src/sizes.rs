//! What kinds of machines the subscription may have in a region, and what they can do.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::resource::Arch;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::api::{Call, call, version};
use crate::cloud::Azure;

pub(crate) const SKUS: Call = call("ResourceSkus_List", "Microsoft.Compute/skus/read", version::SKUS);

/// A kind of machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) arch: Arch,
    /// Whether its interface may bypass the host's switch.
    pub(crate) is_accelerated: bool,
    pub(crate) has_trusted_launch: bool,
    pub(crate) has_gpu: bool,
    /// Whether it is sold as one that may be taken back.
    pub(crate) can_be_spot: bool,
}

/// Kinds by their names in lower case.
pub(crate) type Sizes = BTreeMap<String, Size>;

/// Those of each region that was asked for. What a kind can do does not change; what is sold is asked for with each offer.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<BTreeMap<String, Arc<Sizes>>>);

/// A row of the list. Disks and others are rows, too.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    resource_type: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    locations: Vec<String>,
    #[serde(default)]
    capabilities: Option<Vec<Capability>>,
    #[serde(default)]
    restrictions: Option<Vec<Restriction>>,
}

#[derive(Debug, Deserialize)]
struct Capability {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Restriction {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    values: Vec<String>,
}

impl Row {
    fn capability(&self, name: &str) -> Option<&str> {
        let found = self.capabilities.iter().flatten().find(|one| one.name.eq_ignore_ascii_case(name));
        found.map(|one| one.value.as_str())
    }

    fn can(&self, name: &str) -> bool {
        self.capability(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The kind, where this region sells it to this subscription and it boots what the hub's images are.
    fn size(&self, region: &str) -> Option<Size> {
        let is_machine = self.resource_type.eq_ignore_ascii_case("virtualMachines");
        let is_here = self.locations.iter().any(|own| own.eq_ignore_ascii_case(region));
        // A restriction of some zones leaves the others.
        let is_closed = self.restrictions.iter().flatten().any(|restriction| {
            restriction.kind.eq_ignore_ascii_case("location")
                && restriction.values.iter().any(|own| own.eq_ignore_ascii_case(region))
        });
        let has_generation_2 = self.capability("HyperVGenerations").is_some_and(|text| text.contains("V2"));
        if !is_machine || !is_here || is_closed || !has_generation_2 {
            return None;
        }
        let arch = match self.capability("CpuArchitectureType") {
            Some(arch) if arch.eq_ignore_ascii_case("arm64") => Arch::Arm64,
            Some(_) | None => Arch::X86_64,
        };
        Some(Size {
            arch,
            is_accelerated: self.can("AcceleratedNetworkingEnabled"),
            has_trusted_launch: arch == Arch::X86_64 && !self.can("TrustedLaunchDisabled"),
            has_gpu: self.capability("GPUs").is_some_and(|count| count != "0"),
            can_be_spot: self.can("LowPriorityCapable"),
        })
    }
}

impl Azure {
    /// What a region sells to this subscription now.
    ///
    /// # Errors
    ///
    /// As Azure answers.
    pub(crate) async fn sizes(&self, region: &str) -> Result<Arc<Sizes>, ProviderError> {
        let path = format!("/providers/Microsoft.Compute/skus?%24filter=location%20eq%20%27{region}%27");
        let (rows, _) = self.api.list::<Row>(SKUS, &path).await?;
        let sizes = rows.iter().filter_map(|row| Some((row.name.to_ascii_lowercase(), row.size(region)?)));
        let sizes = Arc::new(sizes.collect::<Sizes>());
        self.kept.0.lock().await.insert(region.to_owned(), Arc::clone(&sizes));
        Ok(sizes)
    }

    /// What a kind can do; asked for where nobody asked yet.
    ///
    /// # Errors
    ///
    /// [`ProviderError::NotSold`] where the region has no such kind for this subscription, else as Azure answers.
    pub(crate) async fn size(&self, region: &str, plan: &str) -> Result<Size, ProviderError> {
        let kept = self.kept.0.lock().await.get(region).cloned();
        let sizes = match kept {
            Some(sizes) => sizes,
            None => self.sizes(region).await?,
        };
        let not_sold = || ProviderError::NotSold {
            what: format!("{plan} in {region} (not in the subscription's list of what it may have there)"),
        };
        sizes.get(&plan.to_ascii_lowercase()).cloned().ok_or_else(not_sold)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn size(change: impl Fn(&mut Value)) -> Option<Size> {
        let mut row = json!({
            "resourceType": "virtualMachines", "name": "Standard_D2s_v5", "locations": ["EastUS"], "restrictions": [],
            "capabilities": [
                { "name": "HyperVGenerations", "value": "V1,V2" }, { "name": "CpuArchitectureType", "value": "x64" },
                { "name": "AcceleratedNetworkingEnabled", "value": "True" }, { "name": "LowPriorityCapable", "value": "True" },
            ],
        });
        change(&mut row);
        serde_json::from_value::<Row>(row).unwrap().size("eastus")
    }

    #[test]
    fn what_is_closed_to_the_subscription_or_boots_no_image_is_not_sold() {
        let usual = size(|_| {}).unwrap();
        assert!(usual.is_accelerated && usual.can_be_spot && usual.has_trusted_launch && !usual.has_gpu);
        let closed = |kind: &str, place: &str| json!([{ "type": kind, "values": [place], "reasonCode": "NotAvailableForSubscription" }]);
        assert_eq!(size(|row| row["restrictions"] = closed("Location", "eastus")), None);
        assert!(size(|row| row["restrictions"] = closed("Location", "westus")).is_some());
        assert!(size(|row| row["restrictions"] = closed("Zone", "eastus")).is_some());
        assert_eq!(size(|row| row["capabilities"][0]["value"] = "V1".into()), None);
        assert_eq!(size(|row| row["locations"] = json!(["westus"])), None);
        assert_eq!(size(|row| row["resourceType"] = "disks".into()), None);
        let arm = size(|row| row["capabilities"][1]["value"] = "Arm64".into()).unwrap();
        assert!(arm.arch == Arch::Arm64 && !arm.has_trusted_launch);
        let plain = size(|row| row["capabilities"][2]["value"] = "False".into()).unwrap();
        assert!(!plain.is_accelerated);
    }
}
