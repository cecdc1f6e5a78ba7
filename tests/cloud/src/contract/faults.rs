//! Promises that hold in a cloud that misbehaves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_hub_provision_core::{ErrorClass, InstanceSpec, ProviderError};

use super::witness::Watched;
use crate::world::{Fault, Kind, Nonsense, Refusal, Throttling};

/// Machines that a cloud has beside the first one, made after its likeness.
fn add_likes(cloud: &Watched<'_>, first: &InstanceSpec, count: u32) {
    cloud.fake().world(|world| {
        let like = world.machines.first().cloned().unwrap();
        for number in 0..count {
            let order = cloud.order(1000 + number);
            let renamed = |text: &String| text.replace(first.key.as_str(), order.key.as_str());
            let tags: Vec<_> = like.tags.iter().map(renamed).collect();
            world.add(&renamed(&like.name), &tags, &like.plan, &like.region, "");
        }
    });
}

fn count_of(cloud: &Watched<'_>, order: &InstanceSpec) -> usize {
    let is_it = |tag: &String| tag.contains(order.key.as_str());
    cloud.fake().world(|world| {
        world
            .machines
            .iter()
            .filter(|one| one.name.contains(order.key.as_str()) || one.tags.iter().any(is_it))
            .count()
    })
}

fn class<T>(result: &Result<T, ProviderError>) -> Option<ErrorClass> {
    result.as_ref().err().map(ProviderError::class)
}

pub(super) async fn strangers_are_not_touched(cloud: &Watched<'_>) -> Result<()> {
    let order = cloud.order(1);
    let stranger =
        cloud.fake().world(|world| world.add(order.key.as_str(), &[], &order.plan, &order.region, ""));
    ensure!(cloud.list().await?.instances.is_empty(), "a machine without tags is listed");
    let made = cloud.create(&order).await?;
    ensure!(made.provider_id != cloud.name_of(stranger), "a machine without tags is taken for an order's");
    cloud.delete(&made.provider_id).await?;
    let left = cloud.fake().world(|world| world.machines.iter().map(|one| one.id).collect::<Vec<_>>());
    ensure!(left == [stranger], "{left:?}");
    Ok(())
}

pub(super) async fn a_long_list_comes_whole(cloud: &Watched<'_>) -> Result<()> {
    let order = cloud.order(1);
    cloud.create(&order).await?;
    add_likes(cloud, &order, 450);
    for limit in [usize::MAX, 50] {
        cloud.fake().world(|world| world.page_limit = limit);
        let listed = cloud.list().await?.instances;
        let once: BTreeSet<_> = listed.iter().map(|instance| instance.provider_id.clone()).collect();
        ensure!(listed.len() == 451 && once.len() == 451, "{} of 451 are listed", listed.len());
        ensure!(listed.iter().all(|one| one.tags.is_some()));
    }
    Ok(())
}

pub(super) async fn half_a_list_is_an_error(cloud: &Watched<'_>) -> Result<()> {
    if !cloud.has_pages {
        return Ok(());
    }
    let order = cloud.order(1);
    cloud.create(&order).await?;
    add_likes(cloud, &order, 20);
    cloud.fake().world(|world| world.page_limit = 5);
    for fault in [Fault::Break, Fault::Refuse(Refusal::Broken), Fault::Say(Nonsense::Truncated)] {
        // The second page.
        cloud.fake().fail(Kind::List, Fault::Slow(Duration::ZERO));
        cloud.fake().fail(Kind::List, fault);
        let listed = cloud.list().await;
        ensure!(class(&listed) == Some(ErrorClass::Unknown), "{fault:?}: {listed:?}");
        ensure!(cloud.fake().faults_left() == 0);
    }
    ensure!(cloud.list().await?.instances.len() == 21);
    Ok(())
}

pub(super) async fn a_list_that_changes_is_whole_or_an_error(cloud: &Watched<'_>) -> Result<()> {
    if !cloud.has_pages {
        return Ok(());
    }
    let order = cloud.order(1);
    cloud.create(&order).await?;
    add_likes(cloud, &order, 20);
    cloud.fake().world(|world| {
        world.page_limit = 5;
        world.shrinks_between_pages = true;
    });
    if let Ok(listing) = cloud.list().await {
        let there = cloud
            .fake()
            .world(|world| world.machines.iter().map(|one| cloud.name_of(one.id)).collect::<Vec<_>>());
        let listed: BTreeSet<_> = listing.instances.iter().map(|one| one.provider_id.clone()).collect();
        ensure!(there.iter().all(|id| listed.contains(id)), "a machine was passed over between two pages");
    }
    ensure!(cloud.list().await?.instances.len() == 20);
    Ok(())
}

pub(super) async fn a_late_list_is_no_error(cloud: &Watched<'_>) -> Result<()> {
    cloud.fake().world(|world| world.late = Duration::from_secs(3600));
    let made = cloud.create(&cloud.order(1)).await?;
    ensure!(cloud.list().await?.instances.is_empty());
    cloud.fake().world(|world| world.late = Duration::ZERO);
    let listed = cloud.list().await?.instances;
    ensure!(listed.len() == 1 && listed.iter().all(|one| one.provider_id == made.provider_id), "{listed:?}");
    Ok(())
}

pub(super) async fn a_machine_made_behind_an_error_is_found(cloud: &Watched<'_>) -> Result<()> {
    let refusals = [
        (Refusal::Broken, ErrorClass::Unknown),
        (Refusal::Unavailable, ErrorClass::Unknown),
        (Refusal::Throttled(Throttling::Silent), ErrorClass::Throttle),
    ];
    for (number, (refusal, expected)) in (1..).zip(refusals) {
        let order = cloud.order(number);
        cloud.fake().fail(Kind::Create, Fault::DoAndRefuse(refusal));
        let made = cloud.create(&order).await;
        ensure!(class(&made) == Some(expected), "{refusal:?}: {made:?}");
        ensure!(count_of(cloud, &order) == 1);
        let made = cloud.create(&order).await?;
        let listed = cloud.machines_of(&order).await?;
        ensure!(
            listed.len() == 1 && listed.iter().all(|one| one.provider_id == made.provider_id),
            "{listed:?}"
        );
    }
    Ok(())
}

pub(super) async fn a_lost_answer_is_unknown_and_its_machine_is_found(cloud: &Watched<'_>) -> Result<()> {
    for (number, nonsense) in
        (1..).zip([None, Some(Nonsense::Html), Some(Nonsense::Truncated), Some(Nonsense::Empty)])
    {
        let order = cloud.order(number);
        cloud.fake().fail(Kind::Create, nonsense.map_or(Fault::DoAndBreak, Fault::Say));
        let made = cloud.create(&order).await;
        ensure!(class(&made) == Some(ErrorClass::Unknown), "{nonsense:?}: {made:?}");
        ensure!(cloud.machines_of(&order).await?.len() == 1);
        cloud.create(&order).await?;
        ensure!(count_of(cloud, &order) == 1, "{nonsense:?}: a second machine");
    }
    let order = cloud.order(9);
    let made = cloud.create(&order).await?;
    cloud.fake().fail(Kind::Delete, Fault::DoAndBreak);
    let deleted = cloud.delete(&made.provider_id).await;
    ensure!(class(&deleted) == Some(ErrorClass::Unknown), "{deleted:?}");
    cloud.delete(&made.provider_id).await?;
    Ok(())
}

pub(super) async fn a_machine_made_twice_is_listed_twice(cloud: &Watched<'_>) -> Result<()> {
    let order = cloud.order(1);
    cloud.fake().fail(Kind::Create, Fault::Twice);
    cloud.create(&order).await?;
    let twins = cloud.machines_of(&order).await?;
    // A cloud with request keys makes one of them.
    let there = count_of(cloud, &order);
    ensure!(twins.len() == there, "{twins:?}");
    for twin in &twins {
        ensure!(twin.tags == order.tags, "{twin:?}");
        cloud.delete(&twin.provider_id).await?;
    }
    ensure!(count_of(cloud, &order) == 0);
    Ok(())
}

pub(super) async fn refusals_have_their_class_and_make_nothing(cloud: &Watched<'_>) -> Result<()> {
    let order = cloud.order(1);
    for (refusal, expected) in [
        (Refusal::Quota, ErrorClass::Quota),
        (Refusal::Capacity, ErrorClass::Capacity),
        (Refusal::NotSold, ErrorClass::NotSold),
        (Refusal::Unauthorized, ErrorClass::Deny),
        (Refusal::Forbidden, ErrorClass::Deny),
        (Refusal::Busy, ErrorClass::Again),
        (Refusal::Broken, ErrorClass::Unknown),
        (Refusal::Unavailable, ErrorClass::Unknown),
    ] {
        cloud.fake().fail(Kind::Create, Fault::Refuse(refusal));
        let made = cloud.create(&order).await;
        ensure!(class(&made) == Some(expected), "{refusal:?}: {made:?}");
        ensure!(cloud.machines_of(&order).await?.is_empty(), "{refusal:?} made something");
    }
    cloud.fake().world(|world| world.quota = 0);
    let made = cloud.create(&order).await;
    ensure!(class(&made) == Some(ErrorClass::Quota), "{made:?}");
    Ok(())
}

pub(super) async fn a_pause_is_told_in_every_dialect(cloud: &Watched<'_>) -> Result<()> {
    pauses(cloud, 0).await
}

/// The cloud's clock is hours ahead, or behind: a pause until a date is reckoned with its own.
pub(super) async fn a_pause_is_right_with_a_wrong_clock(cloud: &Watched<'_>) -> Result<()> {
    pauses(cloud, 7200).await?;
    pauses(cloud, -7200).await
}

async fn pauses(cloud: &Watched<'_>, skew: i64) -> Result<()> {
    cloud.fake().world(|world| world.skew = skew);
    for throttling in cloud.fake().throttlings() {
        for kind in [Kind::List, Kind::Create, Kind::Offers] {
            cloud.fake().fail(kind, Fault::Refuse(Refusal::Throttled(throttling)));
            let error = match kind {
                Kind::List => cloud.list().await.err(),
                Kind::Offers => cloud.offers().await.err(),
                Kind::Create | Kind::Delete | Kind::Switch | Kind::Other => {
                    cloud.create(&cloud.order(1)).await.err()
                }
            };
            let Some(ProviderError::Throttle { retry_after }) = error else {
                anyhow::bail!("{throttling:?} of {kind:?}: {error:?}");
            };
            let seconds = |pause: Option<Duration>| pause.map(|pause| pause.as_secs_f64());
            let is_right = match (seconds(retry_after), seconds(throttling.pause())) {
                (Some(told), Some(asked)) => (told - asked).abs() <= 1.5,
                (told, asked) => told == asked,
            };
            ensure!(is_right, "{throttling:?} of {kind:?} with {skew} s: {retry_after:?}");
        }
    }
    Ok(())
}

pub(super) async fn nonsense_is_an_error(cloud: &Watched<'_>) -> Result<()> {
    cloud.create(&cloud.order(1)).await?;
    for (number, nonsense) in (2..).zip(Nonsense::ALL) {
        cloud.fake().fail(Kind::List, Fault::Say(nonsense));
        let listed = cloud.list().await;
        ensure!(class(&listed) == Some(ErrorClass::Unknown), "{nonsense:?}: {listed:?}");
        cloud.fake().fail(Kind::Offers, Fault::Say(nonsense));
        let offers = cloud.offers().await;
        ensure!(class(&offers) == Some(ErrorClass::Unknown), "{nonsense:?}: {offers:?}");
        cloud.fake().fail(Kind::Create, Fault::Say(nonsense));
        let order = cloud.order(number);
        let made = cloud.create(&order).await;
        ensure!(class(&made) == Some(ErrorClass::Unknown), "{nonsense:?}: {made:?}");
        for instance in cloud.machines_of(&order).await? {
            cloud.delete(&instance.provider_id).await?;
        }
    }
    Ok(())
}

pub(super) async fn a_slow_answer_is_given_up(cloud: &Watched<'_>) -> Result<()> {
    let began = Instant::now();
    cloud.fake().fail(Kind::List, Fault::Slow(Duration::from_secs(60)));
    let listed = cloud.list().await;
    ensure!(class(&listed) == Some(ErrorClass::Unknown), "{listed:?}");
    ensure!(began.elapsed() < Duration::from_secs(20), "labs use clients that wait for a second");
    Ok(())
}

pub(super) async fn nothing_is_tried_twice(cloud: &Watched<'_>) -> Result<()> {
    let made = cloud.create(&cloud.order(1)).await?;
    for kind in [Kind::List, Kind::Create, Kind::Delete, Kind::Offers] {
        for fault in [
            Fault::Break,
            Fault::Refuse(Refusal::Broken),
            Fault::Refuse(Refusal::Throttled(Throttling::Silent)),
        ] {
            let before = cloud.fake().count(kind);
            cloud.fake().fail(kind, fault);
            let is_error = match kind {
                Kind::List => cloud.list().await.is_err(),
                Kind::Create => cloud.create(&cloud.order(2)).await.is_err(),
                Kind::Delete => cloud.delete(&made.provider_id).await.is_err(),
                Kind::Offers | Kind::Switch | Kind::Other => cloud.offers().await.is_err(),
            };
            ensure!(is_error, "{kind:?} {fault:?} succeeded");
            let calls = cloud.fake().count(kind) - before;
            ensure!(calls == 1, "{kind:?} {fault:?}: {calls} calls");
        }
    }
    Ok(())
}

/// Each request before that of the machine itself fails once: whoever ordered is not told to wait for a machine.
pub(super) async fn what_fails_before_an_order_says_that_nothing_was_ordered(
    cloud: &Watched<'_>,
) -> Result<()> {
    for number in 1..40_u32 {
        // Reads that were asked together with the one that failed may still be on their way.
        tokio::time::sleep(cloud.settled_after).await;
        let order = cloud.order(number);
        let earlier = cloud.fake().asked().len();
        let fault = if number % 2 == 0 { Fault::Break } else { Fault::Refuse(Refusal::Broken) };
        let at = usize::try_from(number)?;
        cloud.fake().fail_nth(at, fault);
        let made = cloud.create(&order).await;
        let asked = cloud.fake().asked();
        let mut asked = asked.iter().skip(earlier).take(at);
        if asked.any(|asked| asked.kind == Kind::Create) {
            ensure!(number > 1, "nothing is asked before an order");
            return Ok(());
        }
        let class = class(&made);
        ensure!(class.is_some() && class != Some(ErrorClass::Unknown), "request {number}: {made:?}");
        ensure!(count_of(cloud, &order) == 0);
    }
    anyhow::bail!("no order came")
}

pub(super) async fn wrong_credentials_are_told(cloud: &Watched<'_>) -> Result<()> {
    cloud.fake().world(|world| world.token = "another one by now".to_owned());
    let errors = [
        cloud.list().await.err(),
        cloud.offers().await.err(),
        cloud.create(&cloud.order(1)).await.err(),
        cloud.delete(&cloud.absent).await.err(),
        cloud.boot(&cloud.absent).await.err(),
        cloud.stop(&cloud.absent).await.err(),
    ];
    for error in errors {
        let error = error.context("it went through")?;
        ensure!(error.class() == ErrorClass::Deny, "{error:?}");
        let text = error.line();
        ensure!(text.contains(cloud.remedy), "it does not say what to do: {text}");
    }
    Ok(())
}

pub(super) async fn absurd_prices_are_not_offered(cloud: &Watched<'_>) -> Result<()> {
    let sane = cloud.offers().await?;
    cloud.fake().world(|world| world.has_absurd_prices = true);
    let offers = cloud.offers().await?;
    ensure!(offers == sane, "{offers:?}");
    Ok(())
}

pub(super) async fn without_a_cloud_nothing_was_done(cloud: &Watched<'_>) -> Result<()> {
    let listed = cloud.list().await;
    ensure!(class(&listed) == Some(ErrorClass::Again), "{listed:?}");
    let made = cloud.create(&cloud.order(1)).await;
    ensure!(matches!(made, Err(ProviderError::Unsent { .. })), "{made:?}");
    ensure!(cloud.leak().is_none());
    Ok(())
}
