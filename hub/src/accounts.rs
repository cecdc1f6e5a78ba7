//! Accounts at clouds: whose credentials are used, and what the operator asks about them.

mod vault;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blueprint_common_types::{HubId, Secret, Timestamp};
use blueprint_hub_admin::{AccountDesk, AccountError, AccountView, CredentialField, CredentialOrigin};
use blueprint_hub_provider_kit::{Chain, CredentialSource, CredentialSpec, Credentials};
use blueprint_hub_provision_core::catalogue::facts;
use blueprint_hub_provision_core::{
    Account, AccountReport, CredentialRecord, Provider, ProviderError, Tidied,
};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::timeout;

pub(crate) use self::vault::{Sealed, Vault};

/// Longest check of one account: some calls for each of its regions.
const CHECK_WITHIN: Duration = Duration::from_secs(120);

/// Longest search for credentials: a metadata service that is not there takes 5 s.
const FIND_WITHIN: Duration = Duration::from_secs(8);

/// Where the credentials of a provider may come from, the first one first, each with one word for it.
pub(crate) type Sources = Vec<(&'static str, Arc<dyn CredentialSource>)>;

/// What a policy is made of besides the account: the role that a key takes on, if any.
type Policy = Box<dyn Fn(Option<&str>) -> Value + Send + Sync>;

/// A provider that has an account.
pub(crate) struct Entry {
    /// What its credentials are made of; names it, too.
    pub(crate) spec: CredentialSpec,
    /// Where they come from.
    pub(crate) sources: Sources,
    /// The role that its configuration names.
    pub(crate) role: Option<String>,
    /// What looks at it; `None` where it is not switched on.
    pub(crate) account: Option<Arc<dyn Account>>,
    /// The least that the credentials have to allow, or the feature that this build lacks.
    pub(crate) policy: Result<Policy, &'static str>,
    /// Variables that other tools read for this cloud and this hub does not.
    pub(crate) unused: &'static [&'static str],
}

impl Entry {
    const fn name(&self) -> &'static str {
        self.spec.provider
    }

    fn policy_of(&self) -> Result<&Policy, AccountError> {
        self.policy.as_ref().map_err(|feature| AccountError::NotBuilt(self.name(), feature))
    }

    /// Where credentials come from now.
    async fn origin(&self) -> CredentialOrigin {
        for (kind, source) in &self.sources {
            if source.is_there().await {
                let text = match source.get().await {
                    Ok(credentials) => Ok(credentials.origin().to_owned()),
                    Err(error) => Err(error.line()),
                };
                return CredentialOrigin { kind, text };
            }
        }
        CredentialOrigin { kind: "none", text: Err(self.spec.missing().line()) }
    }

    /// The role that is taken on: that of the credentials, else that of the configuration.
    async fn role(&self) -> Option<String> {
        let sources = self.sources.iter().map(|(_, source)| Arc::clone(source)).collect();
        let own = timeout(FIND_WITHIN, Chain::new(self.spec, sources).get()).await.ok().and_then(Result::ok);
        let own = own.and_then(|own| Some(own.get("role_arn")?.expose().clone()));
        own.filter(|role| !role.is_empty()).or_else(|| self.role.clone())
    }
}

/// What the last check of an account found, and whether one is under way.
#[derive(Default)]
struct Checked {
    last: Mutex<Option<(Timestamp, Vec<String>)>>,
    running: tokio::sync::Mutex<()>,
}

/// Every account of this hub.
pub(crate) struct Accounts {
    hub: HubId,
    vault: Arc<Vault>,
    entries: BTreeMap<&'static str, (Entry, Checked)>,
    /// Providers without an account, and whether they are switched on.
    others: BTreeMap<String, bool>,
    /// Those of them that are switched on.
    plain: BTreeMap<&'static str, Arc<dyn Provider>>,
}

impl Accounts {
    /// These entries, and providers without an account with whether they are switched on.
    pub(crate) fn new(
        hub: HubId,
        vault: Arc<Vault>,
        entries: Vec<Entry>,
        others: BTreeMap<String, bool>,
    ) -> Self {
        let entries = entries.into_iter().map(|entry| (entry.name(), (entry, Checked::default()))).collect();
        Self { hub, vault, entries, others, plain: BTreeMap::new() }
    }

    /// The same, with what is asked where a provider without an account is checked.
    pub(crate) fn with_plain(mut self, providers: &[Arc<dyn Provider>]) -> Self {
        let plain = providers.iter().filter(|provider| self.others.contains_key(provider.name()));
        self.plain = plain.map(|provider| (provider.name(), Arc::clone(provider))).collect();
        self
    }

    fn entry(&self, name: &str) -> Result<&(Entry, Checked), AccountError> {
        match self.entries.get(name) {
            Some(found) => Ok(found),
            None => Err(match ended(name) {
                Some(ended) => AccountError::Discontinued(ended),
                None if self.others.contains_key(name) => AccountError::NoAccount(name.to_owned()),
                None => AccountError::Unknown(name.chars().take(40).collect()),
            }),
        }
    }

    async fn view(&self, entry: &Entry, checked: &Checked) -> AccountView {
        let is_required = |name: &str| entry.spec.required.iter().any(|field| field.name == name);
        let fields = entry.spec.fields().map(|field| CredentialField {
            name: field.name,
            variables: field.env,
            is_secret: field.is_secret,
            is_required: is_required(field.name),
        });
        let origin = timeout(FIND_WITHIN, entry.origin()).await.unwrap_or_else(|_| CredentialOrigin {
            kind: "none",
            text: Err(format!("the search for credentials took more than {} s", FIND_WITHIN.as_secs())),
        });
        AccountView {
            name: entry.name().to_owned(),
            is_enabled: entry.account.is_some(),
            lacks: entry.policy.as_ref().err().copied(),
            fields: fields.collect(),
            origin: Some(origin),
            sealed: self.vault.record(entry.name()),
            checked: checked.last.lock().clone(),
        }
    }

    async fn views(&self) -> Vec<AccountView> {
        let own = join_all(self.entries.values().map(|(entry, checked)| self.view(entry, checked))).await;
        let others = self.others.iter().map(|(name, is_enabled)| AccountView {
            name: name.clone(),
            is_enabled: *is_enabled,
            lacks: None,
            fields: Vec::new(),
            origin: None,
            sealed: None,
            checked: None,
        });
        let mut views: Vec<_> = own.into_iter().chain(others).collect();
        views.sort_by(|one, other| one.name.cmp(&other.name));
        views
    }

    async fn look(&self, name: &str) -> Result<AccountReport, AccountError> {
        if let Some(provider) = self.plain.get(name) {
            return ask(&**provider, self.hub).await;
        }
        let (entry, checked) = self.entry(name)?;
        entry.policy_of()?;
        let account = entry.account.as_ref().ok_or(AccountError::Disabled(entry.name()))?;
        let Ok(_one) = checked.running.try_lock() else { return Err(AccountError::Busy(entry.name())) };
        let looked = match timeout(CHECK_WITHIN, account.look(self.hub)).await {
            Ok(looked) => looked,
            Err(late) => Err(ProviderError::Other { call: "the check", source: Box::new(late) }),
        };
        let problems = match &looked {
            Ok(report) => report.problems.clone(),
            Err(error) => vec![error.line()],
        };
        *checked.last.lock() = Some((now(), problems));
        let mut report = looked.map_err(|error| AccountError::Cloud(entry.name(), error))?;
        let set = entry.unused.iter().filter(|name| std::env::var_os(name).is_some());
        report.notes.extend(set.map(|name| {
            format!("{name} is set and not used: nobody signs in to machines of this hub by SSH")
        }));
        Ok(report)
    }
}

impl Accounts {
    async fn tidy(&self, name: &str, standing: usize, tidied: &mut Tidied) -> Result<(), AccountError> {
        let (entry, checked) = self.entry(name)?;
        entry.policy_of()?;
        let account = entry.account.as_ref().ok_or(AccountError::Disabled(entry.name()))?;
        if standing > 0 {
            return Err(AccountError::Needed(entry.name(), standing));
        }
        let Ok(_one) = checked.running.try_lock() else { return Err(AccountError::Busy(entry.name())) };
        let done = match timeout(CHECK_WITHIN, account.tidy(self.hub, tidied)).await {
            Ok(done) => done,
            Err(late) => Err(ProviderError::Other { call: "the cleaning", source: Box::new(late) }),
        };
        done.map_err(|error| AccountError::Cloud(entry.name(), error))
    }
}

/// What can be said of a provider that has no account: whether it answers, where it sells, and how many machines it has.
async fn ask(provider: &dyn Provider, hub: HubId) -> Result<AccountReport, AccountError> {
    let asked = timeout(CHECK_WITHIN, async { Ok((provider.list().await?, provider.offers().await?)) }).await;
    let asked =
        asked.unwrap_or_else(|late| Err(ProviderError::Other { call: "the check", source: Box::new(late) }));
    let (listing, offers) = asked.map_err(|error| AccountError::Cloud(provider.name(), error))?;
    let regions: BTreeSet<_> = offers.iter().map(|offer| offer.region.to_string()).collect();
    let own = listing.instances.iter().filter(|one| one.tags.as_ref().is_some_and(|tags| tags.hub == hub));
    let mut report = AccountReport {
        regions: regions.into_iter().map(|region| (region, Some(true))).collect(),
        notes: vec![format!("it has no account; it lists {} machines of this hub", own.count())],
        ..AccountReport::default()
    };
    if offers.is_empty() {
        report
            .problems
            .push("it answers, and sells nothing; look at what its configuration allows".to_owned());
    }
    Ok(report)
}

/// Why nothing can be had of a provider any more.
fn ended(name: &str) -> Option<String> {
    facts(name)?.discontinued()
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

impl AccountDesk for Accounts {
    fn list(&self) -> BoxFuture<'_, Vec<AccountView>> {
        self.views().boxed()
    }

    fn configure<'a>(
        &'a self,
        name: &'a str,
        text: Secret<String>,
        by: &'a str,
        standing: usize,
    ) -> BoxFuture<'a, Result<CredentialRecord, AccountError>> {
        async move {
            let (entry, checked) = self.entry(name)?;
            entry.policy_of()?;
            let given = Credentials::given(&entry.spec, "the operator", text.expose());
            let credentials = given.map_err(|why| AccountError::Invalid(why.to_string()))?;
            if standing > 0 {
                return Err(AccountError::Standing(entry.name(), standing));
            }
            let record = self.vault.set(&entry.spec, &credentials, by, now()).await?;
            // What was found was found with others.
            *checked.last.lock() = None;
            Ok(record)
        }
        .boxed()
    }

    fn forget<'a>(
        &'a self,
        name: &'a str,
        by: &'a str,
        standing: usize,
    ) -> BoxFuture<'a, Result<bool, AccountError>> {
        async move {
            let (entry, checked) = self.entry(name)?;
            if standing > 0 && self.vault.record(entry.name()).is_some() {
                return Err(AccountError::Standing(entry.name(), standing));
            }
            let was_there = self.vault.forget(entry.name(), by, now()).await?;
            *checked.last.lock() = None;
            Ok(was_there)
        }
        .boxed()
    }

    fn check<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<AccountReport, AccountError>> {
        self.look(name).boxed()
    }

    fn clean<'a>(
        &'a self,
        name: &'a str,
        standing: usize,
        tidied: &'a mut Tidied,
    ) -> BoxFuture<'a, Result<(), AccountError>> {
        self.tidy(name, standing, tidied).boxed()
    }

    fn policy<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Value, AccountError>> {
        async move {
            let (entry, _) = self.entry(name)?;
            let policy = entry.policy_of()?;
            Ok(policy(entry.role().await.as_deref()))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
