//! What Vultr sells: `GET /v2/plans`, and `GET /v2/plans-metal` for whole machines.

use blueprint_hub_provider_kit::plans::orderable;
use blueprint_hub_provider_kit::plans::vultr::Plan;
use blueprint_hub_provider_kit::rest::{Call, Rest, call, now};
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::Offer;

use crate::cloud::all;
use crate::line::Line;

pub(crate) const PLANS: Call = call("list-plans", "");
pub(crate) const METAL_PLANS: Call = call("list-metal-plans", "");

/// Asks what is sold in `regions`, all of them where none is named; whole machines with `bare_metal` alone.
pub(crate) async fn ask(
    rest: &Rest,
    regions: &[String],
    bare_metal: bool,
) -> Result<Vec<Offer>, ProviderError> {
    let (mut plans, cloud_time) =
        all::<Plan>(rest, PLANS, "/v2/plans?type=all&", |plan| plan.id.clone()).await?;
    plans.retain(|plan| Line::of_plan(&plan.id) == Line::Cloud);
    if bare_metal {
        let (metal, _) = all::<Plan>(rest, METAL_PLANS, "/v2/plans-metal?", |plan| plan.id.clone()).await?;
        plans.extend(metal.into_iter().filter(|plan| Line::of_plan(&plan.id) == Line::Metal));
    }
    let at = cloud_time.unwrap_or_else(now);
    let rows = plans.iter().flat_map(|plan| plan.offers(at));
    Ok(orderable("vultr", rows.collect(), regions))
}
