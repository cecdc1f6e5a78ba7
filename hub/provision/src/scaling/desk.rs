//! What the operator asks of scaling.

use std::fmt;
use std::time::Duration;

use blueprint_common_types::ServiceKey;
use blueprint_hub_provision_core::lifecycle::{Deployer, Deployment, Wanted};
use blueprint_hub_provision_core::scaling::{
    Phase, ScaleDesk, ScaleDeskError, ScaleEvent, ScaleView, Scaling, Terms,
};
use futures_util::future::{BoxFuture, FutureExt};
use tracing::info;

use super::Parts;

/// The operator's side of scaling; cheap to clone.
#[derive(Clone)]
pub struct ScaleOffice(pub(super) Parts);

impl fmt::Debug for ScaleOffice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScaleOffice")
    }
}

impl ScaleOffice {
    fn view(&self, scaling: Scaling) -> ScaleView {
        let seen = self.0.seen.lock().get(&scaling.service).cloned();
        let (sight, why) = match seen {
            Some((sight, why)) => (Some(sight), why),
            None if self.0.config.is_enabled => (None, "it was not looked at yet".to_owned()),
            None => (None, "nothing is scaled: scaling.enabled is false".to_owned()),
        };
        ScaleView { scaling, sight, why }
    }

    async fn set_one(
        &self,
        service: ServiceKey,
        terms: Terms,
        known: Option<Scaling>,
    ) -> Result<ScaleView, ScaleDeskError> {
        let parts = &self.0;
        terms.check(&parts.config.limits)?;
        let records = parts.provisioner.store.load_lifecycle().await?;
        let offers = |it: &&Deployment| it.service == Some(service) && it.wanted != Wanted::Gone;
        let bound = known.as_ref().filter(|known| known.phase != Phase::Ended).map(|known| &known.deployment);
        let bound = bound.and_then(|id| records.deployments.get(id)).filter(offers);
        let mut all = records.deployments.values().filter(offers);
        let deployment = match (bound, all.next(), all.count()) {
            (Some(bound), _, _) => bound,
            (None, Some(only), 0) => only,
            (None, Some(_), others) => {
                return Err(ScaleDeskError::ManyDeployments { service, count: others.saturating_add(1) });
            }
            (None, None, _) => {
                let ended = known.as_ref().filter(|known| known.phase == Phase::Ended);
                return Err(match ended {
                    Some(ended) => ScaleDeskError::Ended(ended.deployment.clone()),
                    None => ScaleDeskError::NoDeployment(service),
                });
            }
        };
        self.check(service, &terms, known.as_ref())?;
        let now = parts.provisioner.now();
        let set = parts.store.set_scaling(service, deployment.id.clone(), terms, known, now).await?;
        let scaling = set.ok_or(ScaleDeskError::Changed(service))?;
        info!(target: "audit", %service, tier = scaling.terms.tier.label(), "tier set");
        parts.kick.notify_one();
        Ok(self.view(scaling))
    }
}

impl ScaleDesk for ScaleOffice {
    fn list(&self) -> BoxFuture<'_, Result<Vec<ScaleView>, ScaleDeskError>> {
        async move {
            let all = self.0.store.scalings().await?;
            Ok(all.into_iter().map(|scaling| self.view(scaling)).collect())
        }
        .boxed()
    }

    fn check(
        &self,
        service: ServiceKey,
        terms: &Terms,
        before: Option<&Scaling>,
    ) -> Result<(), ScaleDeskError> {
        terms.check(&self.0.config.limits)?;
        let now = self.0.provisioner.now();
        // New machines would be drained at once.
        let over =
            before.filter(|it| it.phase == Phase::Ended).and(terms.paid_until).filter(|end| *end <= now);
        over.map_or(Ok(()), |paid_until| Err(ScaleDeskError::Unpaid { service, paid_until }))
    }

    fn set(
        &self,
        service: ServiceKey,
        terms: Terms,
        before: Option<Scaling>,
    ) -> BoxFuture<'_, Result<ScaleView, ScaleDeskError>> {
        self.set_one(service, terms, before).boxed()
    }

    fn target_cpu(&self) -> u32 {
        self.0.config.target_cpu
    }

    fn drain(&self) -> Duration {
        self.0.config.settings.drain
    }

    fn remove(&self, service: ServiceKey) -> BoxFuture<'_, Result<(), ScaleDeskError>> {
        async move {
            if !self.0.store.remove_scaling(service, self.0.provisioner.now()).await? {
                return Err(ScaleDeskError::NoTerms(service));
            }
            self.0.seen.lock().remove(&service);
            info!(target: "audit", %service, "tier forgotten");
            self.0.kick.notify_one();
            Ok(())
        }
        .boxed()
    }

    fn history(
        &self,
        service: ServiceKey,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<ScaleEvent>, ScaleDeskError>> {
        async move { Ok(self.0.store.scale_events(service, limit).await?) }.boxed()
    }
}
