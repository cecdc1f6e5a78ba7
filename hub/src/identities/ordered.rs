//! Machines that this hub orders: which of them join by their cloud's word, so that their user data holds no token, and how their
//! clouds name them.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Result;
use blueprint_common_types::ProofKind;
use blueprint_hub_identity_core::{Allowed, Machine};
use blueprint_hub_provision_core::{InstanceKey, Provider};
use tokio::time::timeout;

use super::certificates;
use crate::config::{IdentitySettings, ProviderSettings};

/// How long a cloud may take to say how it names a machine: all of it is within one join.
const NAME_WITHIN: Duration = Duration::from_secs(6);

/// What keys of ordered machines begin with, see [`InstanceKey::of`].
const KEY_START: &str = "bp-";

/// Which ordered machines join by identity.
#[derive(Default)]
pub(crate) struct OrderedMachines {
    /// Regions of AWS whose documents can be checked.
    aws: BTreeSet<String>,
    /// Regions of Google Cloud, any where empty; `None` where its machines do not.
    gcp: Option<Allowed>,
    azure: bool,
    /// Azure, once it can be asked.
    asked: OnceLock<Arc<dyn Provider>>,
}

impl OrderedMachines {
    /// Machines of clouds that vouch for them, by the configuration.
    ///
    /// # Errors
    ///
    /// Where certificates cannot be read.
    pub(crate) fn new(settings: &IdentitySettings, providers: &ProviderSettings) -> Result<Self> {
        let wants = |kind| settings.ordered.contains(&kind);
        let mut aws = BTreeSet::new();
        if let Some(own) = settings.aws.as_ref().filter(|_| wants(ProofKind::Aws) && providers.aws.is_some())
        {
            let is_allowed = |region: &String| own.regions.is_empty() || own.regions.0.contains(region);
            let rules = certificates::of_aws(own)?;
            aws = rules
                .into_iter()
                .flat_map(|rules| rules.certificates.into_keys())
                .filter(is_allowed)
                .collect();
        }
        // Google names no machine that has no service account.
        let account = providers.gcp.as_ref().and_then(|gcp| gcp.service_account());
        let gcp = settings.gcp.as_ref().filter(|own| {
            let is_allowed =
                |account| own.service_accounts.is_empty() || own.service_accounts.0.contains(account);
            wants(ProofKind::Gcp) && account.is_some_and(is_allowed)
        });
        Ok(Self {
            aws,
            gcp: gcp.map(|own| own.regions.clone()),
            azure: settings.azure.is_some() && wants(ProofKind::Azure) && providers.azure.is_some(),
            asked: OnceLock::new(),
        })
    }

    /// Whom to ask from now on.
    pub(crate) fn ask(&self, providers: &[Arc<dyn Provider>]) {
        let azure = providers.iter().find(|provider| provider.name() == ProofKind::Azure.name());
        if let Some(azure) = azure {
            // The providers of a hub are made once.
            let _ = self.asked.set(Arc::clone(azure));
        }
    }

    /// Whose word a machine of this provider and region joins by; `None` where it needs a token.
    pub(crate) fn proof_of(&self, provider: &str, region: &str) -> Option<ProofKind> {
        let kind: ProofKind = provider.parse().ok()?;
        let does = match kind {
            ProofKind::Aws => self.aws.contains(region),
            ProofKind::Gcp => {
                self.gcp.as_ref().is_some_and(|regions| regions.is_empty() || regions.0.contains(region))
            }
            ProofKind::Azure => self.azure,
            // Their machines have no role that could ask for a token; pods are never ordered.
            ProofKind::AwsSts | ProofKind::Kubernetes => false,
        };
        does.then_some(kind)
    }

    /// What this hub's provider calls a machine of a cloud whose word holds another name: Azure is asked whether its machine `name` is
    /// the one that it vouches for. None where it is not.
    ///
    /// # Errors
    ///
    /// Why Azure cannot be asked now.
    pub(crate) async fn provider_ids(&self, name: &str, machine: &Machine) -> Result<Vec<String>, String> {
        let key = Some(name).filter(|name| name.starts_with(KEY_START)).and_then(|name| name.parse().ok());
        let key: Option<InstanceKey> = key;
        let Some(key) = key else { return Ok(Vec::new()) };
        let azure = match self.asked.get() {
            Some(azure) => azure,
            // A genuine machine must not be refused for that.
            None if self.azure => return Err("the hub is starting and does not ask Azure yet".to_owned()),
            None => return Ok(Vec::new()),
        };
        let asked = timeout(NAME_WITHIN, azure.vouched_name(&key)).await;
        let asked = asked.map_err(|_| "Azure did not say in time how it names the machine".to_owned())?;
        let own = asked.map_err(|error| error.line())?;
        let is_it = own == Some(format!("{}/{}", machine.account, machine.instance).to_ascii_lowercase());
        Ok(is_it.then(|| key.to_string()).into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
