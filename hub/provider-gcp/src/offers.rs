//! What Compute Engine sells: the embedded list's prices for the kinds of machines that the zones of a region have.

use std::collections::BTreeSet;

use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Catalogue, Offer};
use serde::Deserialize;

use crate::action::Action;
use crate::api::{Answer, Failure};
use crate::cloud::{GcpCloud, NAME};
use crate::config::Region;
use crate::launch::Place;

/// Most pages of kinds of machines of one zone, of 500 each: zones have some hundreds.
const MAX_PAGES: usize = 20;

/// What is asked of a kind of machine: whole answers are ten times as long.
const FIELDS: &str = "kind,nextPageToken,items(name,guestCpus,memoryMb,accelerators,deprecated)";

/// A kind of machine as Google shows it, as far as the hub looks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MachineType {
    name: String,
    guest_cpus: u32,
    memory_mb: u64,
    #[serde(default)]
    accelerators: Vec<Accelerators>,
    #[serde(default)]
    deprecated: Deprecated,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Accelerators {
    guest_accelerator_count: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Deprecated {
    #[serde(default)]
    state: String,
}

/// The kinds of machines of one zone.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MachineTypes {
    machine_types: Vec<MachineType>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    kind: String,
    #[serde(default)]
    items: Vec<MachineType>,
    next_page_token: Option<String>,
}

/// A region as Google shows it, as far as the hub looks.
#[derive(Debug, Deserialize)]
pub(crate) struct RegionView {
    /// `UP` or `DOWN`.
    pub(crate) status: String,
    /// URLs of its zones.
    #[serde(default)]
    zones: Vec<String>,
    /// How much of what there may be.
    #[serde(default)]
    pub(crate) quotas: Vec<Quota>,
}

/// One quota.
#[derive(Debug, Deserialize)]
pub(crate) struct Quota {
    /// Of what, such as `CPUS`.
    #[serde(default)]
    pub(crate) metric: String,
    /// How many.
    #[serde(default)]
    pub(crate) limit: f64,
}

impl MachineType {
    /// Whether machines of it can still be made.
    fn is_sold(&self) -> bool {
        !matches!(self.deprecated.state.as_str(), "OBSOLETE" | "DELETED")
    }
}

impl RegionView {
    /// Names of the zones, without what is none of this region.
    fn zones(&self, region: &Region) -> Vec<String> {
        let names = self.zones.iter().filter_map(|url| url.rsplit('/').next());
        names.filter(|zone| region.has_zone(zone)).map(str::to_owned).collect()
    }
}

/// The embedded list's offers in these regions, by price; spot prices of it where `spot` says so.
///
/// # Errors
///
/// [`ProviderError::Reject`] where the list that this program was built with is damaged.
pub fn listed(regions: &[Region], spot: bool) -> Result<Vec<Offer>, ProviderError> {
    let catalogue = Catalogue::embedded().map_err(|error| ProviderError::Reject {
        reason: format!("the price list of this program cannot be read: {error}"),
    })?;
    let is_ours = |offer: &&Offer| {
        &*offer.provider == NAME && regions.iter().any(|region| region.as_str() == &*offer.region)
    };
    let mut offers: Vec<_> = catalogue
        .offers()
        .iter()
        .filter(is_ours)
        .map(|offer| Offer { spot: offer.spot.filter(|_| spot), ..offer.clone() })
        .collect();
    offers.sort_by(|one, other| {
        one.on_demand
            .cmp(&other.on_demand)
            .then_with(|| (&one.plan, &one.region).cmp(&(&other.plan, &other.region)))
    });
    Ok(offers)
}

impl GcpCloud {
    /// Region, name, processors and MiB of the kinds of machines that a zone of a configured region has.
    pub(crate) async fn sold_kinds(&self) -> Result<BTreeSet<(String, String, u32, u64)>, ProviderError> {
        let mut known = BTreeSet::new();
        for region in &self.config.regions {
            let Some(view) = self.region_view(region).await? else { continue };
            for zone in view.zones(region) {
                let kinds = self.kinds(&zone).await?;
                let sold = kinds.into_iter().filter(MachineType::is_sold);
                known.extend(
                    sold.map(|kind| (region.to_string(), kind.name, kind.guest_cpus, kind.memory_mb)),
                );
            }
        }
        Ok(known)
    }

    /// What can be ordered, by price: what the list has prices of and a zone of the region has.
    pub(crate) async fn sold(&self) -> Result<Vec<Offer>, ProviderError> {
        let known = self.sold_kinds().await?;
        let mut offers = listed(&self.config.regions, self.config.spot)?;
        // One that is described otherwise than the list has it is another machine, or another price.
        offers.retain(|offer| {
            let row = (offer.region.to_string(), offer.plan.to_string(), offer.vcpus, offer.memory_mib);
            known.contains(&row)
        });
        Ok(offers)
    }

    /// A region; `None` where there is none of this name.
    pub(crate) async fn region_view(&self, region: &Region) -> Result<Option<RegionView>, ProviderError> {
        let action = Action::GetRegion;
        match self.api.call::<RegionView>(action, &format!("regions/{region}"), &[], None).await {
            Ok(Answer { body, .. }) => Ok(Some(body)),
            Err(Failure::Refused(refusal)) if refusal.is_missing() => Ok(None),
            Err(failure) => Err(failure.into_error(action, region.as_str())),
        }
    }

    async fn kinds(&self, zone: &str) -> Result<Vec<MachineType>, ProviderError> {
        let action = Action::ListMachineTypes;
        let path = format!("zones/{zone}/machineTypes");
        let lacks = |what: &str| ProviderError::Other { call: action.name(), source: what.into() };
        let (mut kinds, mut next) = (Vec::new(), None::<String>);
        for _ in 0..MAX_PAGES {
            let mut query = vec![("maxResults", "500"), ("fields", FIELDS)];
            if let Some(token) = &next {
                query.push(("pageToken", token));
            }
            let answer = self.api.call::<Page>(action, &path, &query, None).await;
            let Answer { body, .. } = answer.map_err(|failure| failure.into_error(action, zone))?;
            if body.kind != "compute#machineTypeList" {
                return Err(lacks("the answer is no list"));
            }
            kinds.extend(body.items);
            next = body.next_page_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(kinds);
            }
        }
        Err(lacks("the list does not end"))
    }

    /// The zones of a region that have this kind of machine.
    pub(crate) async fn places(&self, region: &Region, plan: &str) -> Result<Vec<Place>, ProviderError> {
        let is_of = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let not_sold = || ProviderError::NotSold { what: format!("{plan} in {region}") };
        if plan.is_empty() || plan.len() > 63 || !plan.bytes().all(is_of) {
            return Err(not_sold());
        }
        let filter = format!("name = \"{plan}\"");
        let query = [("filter", filter.as_str()), ("maxResults", "500")];
        let action = Action::ListMachineTypes;
        let (zones, _) =
            self.api.everywhere::<MachineTypes>(action, "aggregated/machineTypes", &query).await?;
        let mut places = Vec::new();
        for (zone, kinds) in zones.into_iter().filter(|(zone, _)| region.has_zone(zone)) {
            let kind = kinds.machine_types.into_iter().find(|kind| kind.name == plan && kind.is_sold());
            places.extend(kind.map(|kind| Place {
                zone,
                has_gpus: kind.accelerators.iter().any(|one| one.guest_accelerator_count > 0),
            }));
        }
        if places.is_empty() { Err(not_sold()) } else { Ok(places) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_these_regions_alone_with_its_date() {
        let regions = ["us-central1".parse().unwrap(), "europe-west1".parse().unwrap()];
        let offers = listed(&regions, false).unwrap();
        assert!(offers.len() > 150, "{}", offers.len());
        assert!(offers.is_sorted_by_key(|offer| offer.on_demand));
        assert!(offers.iter().all(|offer| &*offer.provider == "gcp" && offer.spot.is_none()));
        assert!(offers.iter().any(|offer| &*offer.plan == "g2-standard-4" && offer.gpu.is_some()));
        assert!(listed(&regions, true).unwrap().iter().any(|offer| offer.spot.is_some()));
        // Reckoned from prices of processors and memory of March 2025; those of Spot machines are too old by now.
        let other = listed(&["europe-west1".parse().unwrap()], true).unwrap();
        let price =
            |plan: &str| other.iter().find(|offer| &*offer.plan == plan).map(|offer| offer.on_demand.get());
        assert_eq!((price("e2-standard-2"), price("n2-standard-4")), (Some(73_715), Some(213_668)));
        assert!(other.iter().all(|offer| offer.spot.is_none() && offer.gpu.is_none()));
        assert!(listed(&["me-central1".parse().unwrap()], true).unwrap().is_empty());
    }

    #[test]
    fn zones_of_other_regions_are_none() {
        let view = RegionView {
            status: "UP".to_owned(),
            zones: ["us-central1-a", "us-central12-a", "x", "us-central1-b"]
                .map(|zone| format!("https://www.googleapis.com/compute/v1/projects/p/zones/{zone}"))
                .into(),
            quotas: Vec::new(),
        };
        assert_eq!(view.zones(&"us-central1".parse().unwrap()), ["us-central1-a", "us-central1-b"]);
    }
}
