//! Promises that hold in a cloud that works.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use blueprint_common_types::Micros;
use blueprint_hub_provision_core::catalogue::PriceKind;
use blueprint_hub_provision_core::{ErrorClass, InstanceState, ProviderError};
use tokio::time::timeout;

use super::witness::Watched;

pub(super) async fn an_empty_account_lists_nothing(cloud: &Watched<'_>) -> Result<()> {
    let listing = cloud.list().await?;
    ensure!(listing.instances.is_empty(), "{listing:?}");
    Ok(())
}

pub(super) async fn the_clock_of_the_cloud_is_told(cloud: &Watched<'_>) -> Result<()> {
    ensure!(cloud.list().await?.cloud_time.is_some(), "the cloud's clock is not told");
    Ok(())
}

pub(super) async fn a_machine_is_made_listed_and_deleted(cloud: &Watched<'_>) -> Result<()> {
    let order = cloud.order(1);
    let made = cloud.create(&order).await?;
    ensure!(made.key == order.key && made.tags == order.tags, "{made:?}");
    let listed = cloud.list().await?;
    // Where a cloud has no clock of its own, it has that of the hub.
    let time = listed.cloud_time.unwrap_or_else(|| SystemTime::now().into());
    let [instance] = listed.instances.as_slice() else { anyhow::bail!("{:?}", listed.instances) };
    ensure!(instance.provider_id == made.provider_id, "{instance:?}");
    ensure!(instance.key == order.key && instance.tags == order.tags, "{instance:?}");
    ensure!(instance.created_at.distance(time) < Duration::from_secs(60), "{instance:?} {time}");
    if cloud.has_fake() {
        let data =
            cloud.fake().world(|world| world.machines.first().map(|machine| machine.user_data.clone()));
        ensure!(data.as_ref() == Some(order.user_data.expose()), "the user data came changed");
    }
    cloud.delete(&made.provider_id).await?;
    ensure!(cloud.list().await?.instances.is_empty(), "it is still listed");
    Ok(())
}

pub(super) async fn the_same_order_makes_one_machine(cloud: &Watched<'_>) -> Result<()> {
    let first = cloud.create(&cloud.order(1)).await?;
    let second = cloud.create(&cloud.order(1)).await?;
    let other = cloud.create(&cloud.order(2)).await?;
    ensure!(first.provider_id == second.provider_id && first.provider_id != other.provider_id);
    ensure!(cloud.list().await?.instances.len() == 2);
    Ok(())
}

/// Whether the machine of an earlier call is given or another made, its tags are told as they are: they say whose token it has.
pub(super) async fn another_call_for_an_order_tells_the_tags_that_are(cloud: &Watched<'_>) -> Result<()> {
    let mut order = cloud.order(1);
    cloud.create(&order).await?;
    if let Some(tags) = &mut order.tags {
        tags.attempt += 1;
    }
    let second = cloud.create(&order).await?;
    let listed = cloud.list().await?.instances;
    let same = listed.iter().find(|one| one.provider_id == second.provider_id).context("it is not listed")?;
    ensure!(same.tags == second.tags, "{second:?} is listed as {same:?}");
    Ok(())
}

pub(super) async fn deleting_what_is_not_there_succeeds(cloud: &Watched<'_>) -> Result<()> {
    cloud.delete(&cloud.absent).await?;
    let made = cloud.create(&cloud.order(1)).await?;
    cloud.delete(&made.provider_id).await?;
    cloud.delete(&made.provider_id).await?;
    Ok(())
}

pub(super) async fn a_machine_is_switched_off_and_on(cloud: &Watched<'_>) -> Result<()> {
    let order = cloud.order(1);
    let made = cloud.create(&order).await?;
    let is_running = |state: &InstanceState| *state == InstanceState::Running;
    let state = cloud.until(&order, is_running).await?;
    ensure!(state.as_ref().is_some_and(is_running), "{state:?}");
    match cloud.stop(&made.provider_id).await {
        Err(ProviderError::Unsupported { .. }) => return Ok(()),
        stopped => stopped?,
    }
    let is_stopped = |state: &InstanceState| *state == InstanceState::Stopped;
    let state = cloud.until(&order, is_stopped).await?;
    ensure!(state.as_ref().is_some_and(is_stopped), "{state:?}");
    cloud.stop(&made.provider_id).await?;
    cloud.boot(&made.provider_id).await?;
    let state = cloud.until(&order, is_running).await?;
    ensure!(state.as_ref().is_some_and(is_running), "{state:?}");
    cloud.boot(&made.provider_id).await?;
    ensure!(cloud.machines_of(&order).await?.len() == 1);
    Ok(())
}

pub(super) async fn what_is_not_there_cannot_be_switched(cloud: &Watched<'_>) -> Result<()> {
    for switched in [cloud.boot(&cloud.absent).await, cloud.stop(&cloud.absent).await] {
        let error = switched.err().context("it was switched")?;
        ensure!(error.class() == ErrorClass::Reject, "{error:?}");
    }
    Ok(())
}

pub(super) async fn wrong_orders_are_refused_and_make_nothing(cloud: &Watched<'_>) -> Result<()> {
    for order in &cloud.wrong_orders {
        let error = cloud.create(order).await.err().with_context(|| format!("it was made: {order:?}"))?;
        let class = error.class();
        ensure!(matches!(class, ErrorClass::Reject | ErrorClass::NotSold), "{order:?}: {error:?}");
    }
    ensure!(cloud.list().await?.instances.is_empty());
    Ok(())
}

pub(super) async fn offers_are_sorted_and_have_prices(cloud: &Watched<'_>) -> Result<()> {
    let offers = cloud.offers().await?;
    ensure!(!offers.is_empty(), "nothing is sold");
    ensure!(
        offers.is_sorted_by_key(|offer| (offer.on_demand, offer.plan.clone(), offer.region.clone())),
        "{offers:?}"
    );
    for offer in &offers {
        ensure!(offer.on_demand > Micros::ZERO && offer.kind != PriceKind::Template, "{offer:?}");
        ensure!(offer.vcpus > 0 && offer.memory_mib > 0 && !offer.region.is_empty(), "{offer:?}");
    }
    let order = cloud.order(1);
    let is_ordered = offers.iter().any(|offer| *offer.plan == *order.plan && *offer.region == *order.region);
    ensure!(is_ordered, "what orders name is not offered");
    Ok(())
}

/// The future of a creation is dropped at many moments; what it left is listed, and the order made again finds it. One after the
/// other, as a provider may have room for few.
pub(super) async fn a_dropped_creation_is_listed_or_was_never_made(cloud: &Watched<'_>) -> Result<()> {
    for number in 1..=8 {
        let order = cloud.order(number);
        let within = cloud.moment * number * number;
        let dropped = timeout(within, cloud.create(&order)).await;
        // What was sent is done by the cloud in its own time.
        tokio::time::sleep(cloud.settled_after).await;
        let listed = cloud.machines_of(&order).await?.len();
        if cloud.has_fake() {
            let name = order.key.to_string();
            let there =
                cloud.fake().world(|world| world.machines.iter().filter(|one| one.name == name).count());
            ensure!(there == listed, "{there} are there, {listed} are listed");
        }
        let made = match dropped {
            Ok(made) => made?,
            Err(_) => cloud.create(&order).await?,
        };
        let all = cloud.machines_of(&order).await?;
        ensure!(
            all.len() == 1 && all.first().is_some_and(|one| one.provider_id == made.provider_id),
            "{all:?}"
        );
        cloud.delete(&made.provider_id).await?;
    }
    Ok(())
}
