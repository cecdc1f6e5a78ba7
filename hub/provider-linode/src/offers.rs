//! What Linode sells in regions where the hub's machines can stand.

use blueprint_hub_provider_kit::plans::linode::{Availability, Region, Type, offers};
use blueprint_hub_provider_kit::plans::orderable;
use blueprint_hub_provider_kit::rest::{Call, Rest, call, now};
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::Offer;

use crate::cloud::all;

pub(crate) const TYPES: Call = call("get-linode-types", "");
pub(crate) const REGIONS: Call = call("get-regions", "");
pub(crate) const STOCK: Call = call("get-regions-availability", "");

/// What a region has to be able to do: user data reaches machines by the first, and the second keeps everybody out.
pub(crate) const NEEDED: [&str; 2] = ["Metadata", "Cloud Firewall"];

/// Asks what is sold in `regions`, all of them where none is named.
pub(crate) async fn ask(rest: &Rest, regions: &[String]) -> Result<Vec<Offer>, ProviderError> {
    let (types, cloud_time) =
        all::<Type>(rest, TYPES, "/v4/linode/types", None, |kind| kind.id.clone()).await?;
    let places = places(rest).await?;
    let (stock, _) =
        all::<Availability>(rest, STOCK, "/v4/regions/availability", None, Availability::id).await?;
    let rows = offers(&types, &places, &stock, &NEEDED, cloud_time.unwrap_or_else(now));
    Ok(orderable("linode", rows, regions))
}

/// Every region there is.
pub(crate) async fn places(rest: &Rest) -> Result<Vec<Region>, ProviderError> {
    let (regions, _) = all::<Region>(rest, REGIONS, "/v4/regions", None, |region| region.id.clone()).await?;
    Ok(regions)
}
