//! What Vultr sells: `GET /v2/plans`.

use blueprint_hub_provider_kit::plans::orderable;
use blueprint_hub_provider_kit::plans::vultr::Plan;
use blueprint_hub_provider_kit::rest::{Call, Rest, call, now};
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::Offer;

use crate::cloud::all;

pub(crate) const PLANS: Call = call("list-plans", "");

/// Asks what is sold in `regions`, all of them where none is named. Whole machines are not: they have no firewall group.
pub(crate) async fn ask(rest: &Rest, regions: &[String]) -> Result<Vec<Offer>, ProviderError> {
    let (plans, cloud_time) = all::<Plan>(rest, PLANS, "/v2/plans?type=all&", |plan| plan.id.clone()).await?;
    let at = cloud_time.unwrap_or_else(now);
    let rows = plans.iter().filter(|plan| !plan.id.starts_with("vbm-")).flat_map(|plan| plan.offers(at));
    Ok(orderable("vultr", rows.collect(), regions))
}
