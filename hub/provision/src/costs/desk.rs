//! The operator's side of alerts.

use blueprint_common_types::{Secret, Timestamp, fill_random};
use blueprint_hub_provision_core::catalogue::Day;
use blueprint_hub_provision_core::cost::alert::{
    Alert, AlertAction, AlertEvent, AlertTerms, Bill, Hook, Period, Standing,
};
use blueprint_hub_provision_core::cost::egress::Egress;
use blueprint_hub_provision_core::cost::{CostDesk, CostDeskError, Set, SetAlertError};
use blueprint_hub_provision_core::lifecycle::Deployer;
use futures_util::future::{BoxFuture, FutureExt};
use tracing::info;

use super::Parts;

/// Messages that may wait where the operator tries an alert.
const CROWDED: u32 = 100;

/// Why no key or number is made.
const NO_RANDOMNESS: &str = "no randomness for the key of a webhook";

/// Access to alerts and to what machines sent; cheap to clone.
#[derive(Debug, Clone)]
pub struct CostOffice(pub(super) Parts);

type Answer<T> = Result<T, CostDeskError>;

impl CostOffice {
    async fn all(&self) -> Answer<Vec<(Alert, Standing)>> {
        let alerts = self.0.store.alerts().await?;
        if alerts.is_empty() {
            return Ok(Vec::new());
        }
        let read = self.0.read(alerts.iter().any(|alert| alert.terms.period == Period::Total)).await?;
        let limits = self.0.provisioner.limits();
        let bill = Bill {
            spans: &read.spans,
            egress: &read.egress,
            limits: &limits,
            now: read.now,
            last: read.last,
        };
        let standings = alerts.into_iter().map(|alert| {
            let standing = alert.standing(&bill);
            (alert, standing)
        });
        Ok(standings.collect())
    }

    async fn one(&self, name: &str) -> Answer<(Alert, Standing)> {
        let found = self.all().await?.into_iter().find(|(alert, _)| alert.name == name);
        found.ok_or_else(|| CostDeskError::Unknown(name.to_owned()))
    }

    async fn set(
        &self,
        name: String,
        mut terms: AlertTerms,
        webhook: Option<Secret<String>>,
        is_sure: bool,
    ) -> Answer<Set> {
        let mut shown = None;
        let known = self.0.store.alerts().await?.into_iter().find(|alert| alert.name == name);
        if !is_sure {
            self.ends_nothing(&name, &terms, known.as_ref()).await?;
        }
        let kept = known.and_then(|alert| alert.terms.webhook);
        if terms.webhook.is_some() {
            terms.webhook.clone_from(&kept);
        }
        if let Some(url) = webhook {
            self.0.courier.check(url.expose()).map_err(CostDeskError::Webhook)?;
            let kept = kept.filter(|hook| self.0.courier.is_same(&name, hook, &url));
            terms.webhook = Some(match kept {
                Some(kept) => kept,
                None => {
                    let key = new_key()?;
                    let sealed = self.0.courier.seal(&name, &url, &key);
                    let sealed = sealed.ok_or(CostDeskError::Unavailable(NO_RANDOMNESS))?;
                    shown = Some(key);
                    Hook { shown: Hook::shortened(url.expose()), sealed }
                }
            });
        }
        let now = self.0.provisioner.now();
        let alert = self.0.store.set_alert(name, terms, now).await.map_err(|error| match error {
            SetAlertError::TooMany => CostDeskError::TooMany,
            SetAlertError::Store(error) => CostDeskError::Store(error),
        })?;
        let terms = &alert.terms;
        info!(target: "audit", alert = alert.name, scope = %terms.scope, amount = %terms.amount, action = %terms.action, "alert set");
        self.0.kick.notify_one();
        Ok((alert, shown))
    }

    /// Refuses terms that would end deployments at once, unless those of before do already or were called off.
    async fn ends_nothing(&self, name: &str, terms: &AlertTerms, known: Option<&Alert>) -> Answer<()> {
        let parts = |terms: &AlertTerms| (terms.scope.clone(), terms.period, terms.amount, terms.action);
        let is_known = known.is_some_and(|known| parts(&known.terms) == parts(terms));
        if terms.action != AlertAction::Terminate || is_known {
            return Ok(());
        }
        let read = self.0.read(terms.period == Period::Total).await?;
        let (limits, now) = (self.0.provisioner.limits(), read.now);
        let bill = Bill { spans: &read.spans, egress: &read.egress, limits: &limits, now, last: read.last };
        let (name, terms) = (name.to_owned(), terms.clone());
        let next = Alert { name, terms, edition: 0, released: None, created_at: now, changed_at: now };
        let standing = next.standing(&bill);
        if !standing.is_over {
            return Ok(());
        }
        Err(CostDeskError::WouldEnd {
            spent: standing.spent.to_string(),
            amount: next.terms.amount.to_string(),
            period: standing.period,
        })
    }

    async fn release(&self, name: String) -> Answer<String> {
        let (alert, standing) = self.one(&name).await?;
        if !standing.is_in_force {
            return Err(CostDeskError::NotHeld {
                name,
                spent: standing.spent.to_string(),
                amount: alert.terms.amount.to_string(),
                period: standing.period,
                action: alert.terms.action.label(),
            });
        }
        let (period, now) = (standing.period, self.0.provisioner.now());
        if !self.0.store.release_alert(name.clone(), period.clone(), now).await? {
            return Err(CostDeskError::Unknown(name));
        }
        info!(target: "audit", alert = name, period, "alert released");
        Ok(period)
    }

    async fn test(&self, name: String) -> Answer<AlertEvent> {
        let alerts = self.0.store.alerts().await?;
        let alert = alerts.into_iter().find(|alert| alert.name == name);
        let alert = alert.ok_or_else(|| CostDeskError::Unknown(name.clone()))?;
        let waiting = self.0.store.deliveries(Timestamp::default(), 0).await?.waiting;
        if waiting >= CROWDED {
            return Err(CostDeskError::Crowded(waiting));
        }
        let read = self.0.read(alert.terms.period == Period::Total).await?;
        let limits = self.0.provisioner.limits();
        let bill = Bill {
            spans: &read.spans,
            egress: &read.egress,
            limits: &limits,
            now: read.now,
            last: read.last,
        };
        let mut number = [0; 8];
        fill_random(&mut number).map_err(|_| CostDeskError::Unavailable(NO_RANDOMNESS))?;
        let finding = alert.test(&bill, u64::from_be_bytes(number));
        let events = self.0.store.fire(name.clone(), alert.edition, vec![finding], read.now).await?;
        self.0.fired(&events);
        self.0.kick.notify_one();
        events.into_iter().next().ok_or(CostDeskError::Unknown(name))
    }
}

/// A key to sign messages with: 32 random bytes in hexadecimal digits.
fn new_key() -> Answer<Secret<String>> {
    let mut bytes = [0u8; 32];
    fill_random(&mut bytes).map_err(|_| CostDeskError::Unavailable(NO_RANDOMNESS))?;
    let bytes = Secret::new(bytes);
    Ok(Secret::new(bytes.expose().iter().map(|byte| format!("{byte:02x}")).collect()))
}

impl CostDesk for CostOffice {
    fn alerts(&self) -> BoxFuture<'_, Answer<Vec<(Alert, Standing)>>> {
        self.all().boxed()
    }

    fn set_alert(
        &self,
        name: String,
        terms: AlertTerms,
        webhook: Option<Secret<String>>,
        is_sure: bool,
    ) -> BoxFuture<'_, Answer<Set>> {
        self.set(name, terms, webhook, is_sure).boxed()
    }

    fn remove_alert(&self, name: String) -> BoxFuture<'_, Answer<()>> {
        async move {
            let now = self.0.provisioner.now();
            if !self.0.store.remove_alert(name.clone(), now).await? {
                return Err(CostDeskError::Unknown(name));
            }
            info!(target: "audit", alert = name, "alert removed");
            Ok(())
        }
        .boxed()
    }

    fn release_alert(&self, name: String) -> BoxFuture<'_, Answer<String>> {
        self.release(name).boxed()
    }

    fn test_alert(&self, name: String) -> BoxFuture<'_, Answer<AlertEvent>> {
        self.test(name).boxed()
    }

    fn alert_events(&self, name: Option<String>, limit: u32) -> BoxFuture<'_, Answer<Vec<AlertEvent>>> {
        async move { Ok(self.0.store.alert_events(name, limit).await?) }.boxed()
    }

    fn egress(&self, since: Timestamp) -> BoxFuture<'_, Answer<Vec<Egress>>> {
        async move { Ok(self.0.store.egress(Day::from(since).back(31)).await?) }.boxed()
    }
}
