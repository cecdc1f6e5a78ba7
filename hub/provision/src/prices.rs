//! Price lists: whom the hub asks, what of it is kept, and the task that asks again.
//!
//! Invariants:
//! - a list is stored before anything goes by it;
//! - what was known stays where a provider does not answer, or with what is no price list;
//! - one question to a provider at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::catalogue::{
    Catalogue, Oddity, Offer, PriceDesk, PriceError, PriceList, PriceListView, PriceSource, PriceStore, sift,
};
use blueprint_hub_provision_core::lifecycle::{DeployError, Deployer, RecordsResult};
use blueprint_hub_provision_core::{ErrorClass, ProviderError};
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::Provisioner;
use crate::calls::chain;
use crate::metrics::PriceMetrics;

/// How often the task looks whether a list is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Lists that the hub goes by.
pub type PriceLists = Arc<Vec<PriceList>>;

/// Asks the providers that machines are ordered of, as orders do: with their credentials and at their pace.
#[derive(Debug)]
struct Account {
    provider: String,
    provisioner: Provisioner,
}

impl PriceSource for Account {
    fn provider(&self) -> &str {
        &self.provider
    }

    fn origin(&self) -> String {
        "the account of this hub".to_owned()
    }

    fn ask(&self, _now: Timestamp) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        let failed = |error: DeployError| {
            let (call, source) = ("offers", error.to_string().into());
            match error {
                DeployError::Provider { class: ErrorClass::Again | ErrorClass::Throttle, .. } => {
                    ProviderError::Unsent { call, source }
                }
                DeployError::Provider { .. }
                | DeployError::UnknownProvider(_)
                | DeployError::Mismatch { .. }
                | DeployError::OverLimit(_)
                | DeployError::Held(_)
                | DeployError::Named { .. }
                | DeployError::Unknown(_)
                | DeployError::Terminated(_)
                | DeployError::Unavailable(_)
                | DeployError::Store(_) => ProviderError::Other { call, source },
            }
        };
        self.provisioner.price_list(self.provider.clone()).map(move |offers| offers.map_err(failed)).boxed()
    }
}

/// Why there is no new list, one line.
enum Unasked {
    /// Nothing was said; it may be later.
    Unreached(String),
    /// What was said is no list.
    Failed(String),
}

/// One provider, and how it stands with its list.
struct Desk {
    source: Arc<dyn PriceSource>,
    turn: Turn<()>,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    odd: BTreeMap<Oddity, usize>,
    error: Option<String>,
    failed_at: Option<Timestamp>,
}

/// Access to price lists; cheap to clone.
#[derive(Clone)]
pub struct PriceOffice {
    desks: Arc<BTreeMap<String, Desk>>,
    store: Arc<dyn PriceStore>,
    lists: Arc<watch::Sender<PriceLists>>,
    provisioner: Provisioner,
    metrics: PriceMetrics,
}

impl fmt::Debug for PriceOffice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PriceOffice").field("providers", &self.desks.keys()).finish_non_exhaustive()
    }
}

impl PriceOffice {
    /// Reads what is kept. It asks `sources`, and for `accounts` the providers of these names.
    ///
    /// # Errors
    ///
    /// Where the store cannot be read.
    pub async fn open(
        sources: Vec<Arc<dyn PriceSource>>,
        accounts: Vec<String>,
        store: Arc<dyn PriceStore>,
        provisioner: Provisioner,
    ) -> RecordsResult<Self> {
        let mut lists = Vec::new();
        for (provider, asked_at, rows) in store.price_lists().await? {
            match PriceList::read(provider.clone(), asked_at, &rows) {
                Ok(list) => lists.push(list),
                // What another version of this program wrote; it is asked for anew.
                Err(error) => warn!(provider, %error, "price list not understood, left out"),
            }
        }
        let own = accounts.into_iter().map(|provider| {
            let account: Arc<dyn PriceSource> =
                Arc::new(Account { provider, provisioner: provisioner.clone() });
            account
        });
        let desks = sources.into_iter().chain(own).map(|source| {
            let desk = Desk { source: Arc::clone(&source), turn: Turn::default(), last: Mutex::default() };
            (source.provider().to_owned(), desk)
        });
        let (lists, _) = watch::channel(Arc::new(lists));
        Ok(Self {
            desks: Arc::new(desks.collect()),
            store,
            lists: Arc::new(lists),
            provisioner,
            metrics: PriceMetrics::default(),
        })
    }

    /// Shows what comes of it in `metrics`.
    pub fn register(&self, metrics: &Metrics) {
        self.metrics.register(metrics);
        for list in self.lists.borrow().iter() {
            self.metrics.renewed_at(&list.provider, list.asked_at);
        }
    }

    /// The lists as they change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<PriceLists> {
        self.lists.subscribe()
    }

    /// Asks each provider again once its list is older than `every`, until `stop`.
    pub async fn run(self, every: Duration, stop: CancellationToken) {
        loop {
            for provider in self.due(every) {
                let asked = tokio::select! {
                    () = stop.cancelled() => return,
                    asked = self.ask(provider) => asked,
                };
                if let Err(error) = asked {
                    warn!(error = chain(&error), "prices not renewed; those of before stay");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn due(&self, every: Duration) -> Vec<String> {
        let now = self.provisioner.now();
        let is_due = |provider: &str, desk: &Desk| {
            let age = |at: Timestamp| now.since(at);
            let is_old = self.asked_at(provider).is_none_or(|at| age(at) >= every);
            is_old && desk.last.lock().failed_at.is_none_or(|at| age(at) >= desk.source.again_after())
        };
        let due = self.desks.iter().filter(|(provider, desk)| is_due(provider, desk));
        due.map(|(provider, _)| provider.clone()).collect()
    }

    fn asked_at(&self, provider: &str) -> Option<Timestamp> {
        self.lists.borrow().iter().find(|list| list.provider == provider).map(|list| list.asked_at)
    }

    fn view(&self, provider: &str, desk: &Desk) -> PriceListView {
        let lists = self.lists.borrow().clone();
        let list = lists.iter().find(|list| list.provider == provider);
        let last = desk.last.lock();
        PriceListView {
            provider: provider.to_owned(),
            origin: desk.source.origin(),
            asked_at: list.map(|list| list.asked_at),
            rows: list.map_or(0, |list| list.offers.len()),
            regions: list.map_or(0, PriceList::regions),
            odd: last.odd.clone(),
            error: last.error.clone(),
        }
    }

    async fn ask(&self, provider: String) -> Result<PriceListView, PriceError> {
        let Some(desk) = self.desks.get(&provider) else {
            let known = self.desks.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(PriceError::Unknown { provider, known });
        };
        let Ok(_turn) = desk.turn.try_lock() else { return Err(PriceError::Busy(provider)) };
        let now = self.provisioner.now();
        match self.fetch(&provider, desk, now).await {
            Ok((list, odd)) => {
                self.store.set_price_list(provider.clone(), now, list.rows()).await?;
                let rows = list.offers.len();
                self.lists.send_modify(|lists| {
                    let others = lists.iter().filter(|other| other.provider != provider).cloned();
                    *lists = Arc::new(others.chain([list]).collect());
                });
                let left_out: usize = odd.values().sum();
                info!(provider, rows, left_out, "prices renewed");
                self.metrics.asked(&provider, "ok");
                self.metrics.renewed_at(&provider, now);
                *desk.last.lock() = Last { odd, error: None, failed_at: None };
                Ok(self.view(&provider, desk))
            }
            Err(unasked) => {
                self.metrics.asked(&provider, "failed");
                let mut last = desk.last.lock();
                let (failed, reason) = match unasked {
                    Unasked::Unreached(reason) => {
                        (PriceError::Unreached { provider, reason: reason.clone() }, reason)
                    }
                    Unasked::Failed(reason) => {
                        (PriceError::Failed { provider, reason: reason.clone() }, reason)
                    }
                };
                (last.error, last.failed_at) = (Some(reason), Some(now));
                Err(failed)
            }
        }
    }

    /// What the provider says, as far as it can be believed; an error is one line.
    async fn fetch(
        &self,
        provider: &str,
        desk: &Desk,
        now: Timestamp,
    ) -> Result<(PriceList, BTreeMap<Oddity, usize>), Unasked> {
        let within = desk.source.within();
        let asked = timeout(within, desk.source.ask(now)).await;
        let late = || Unasked::Unreached(format!("no whole list within {} s", within.as_secs()));
        let offers = asked.map_err(|_| late())?.map_err(|error| match error.class() {
            ErrorClass::Again | ErrorClass::Throttle => Unasked::Unreached(chain(&error)),
            ErrorClass::Deny
            | ErrorClass::Reject
            | ErrorClass::Quota
            | ErrorClass::NoQuota
            | ErrorClass::Capacity
            | ErrorClass::NotSold
            | ErrorClass::Unknown => Unasked::Failed(chain(&error)),
        })?;
        let (lists, name) = (self.lists.borrow().clone(), provider.to_owned());
        // Reading the built-in list takes a moment.
        let sifted = tokio::task::spawn_blocking(move || {
            let known = Catalogue::embedded().map_err(|error| error.to_string())?.with_lists(&lists);
            Ok::<_, String>(sift(&name, offers, &known))
        });
        let sifted =
            sifted.await.map_err(|_| Unasked::Failed("the hub failed over its answer".to_owned()))?;
        let sifted = sifted.map_err(Unasked::Failed)?;
        if sifted.offers.is_empty() {
            return Err(Unasked::Failed("its answer has no row that can be believed".to_owned()));
        }
        let list = PriceList { provider: provider.to_owned(), asked_at: now, offers: sifted.offers };
        Ok((list, sifted.odd))
    }
}

impl PriceDesk for PriceOffice {
    fn lists(&self) -> Vec<PriceListView> {
        self.desks.iter().map(|(provider, desk)| self.view(provider, desk)).collect()
    }

    fn refresh(&self, provider: String) -> BoxFuture<'_, Result<PriceListView, PriceError>> {
        async move {
            let asked = self.ask(provider).await;
            if let Err(PriceError::Store(error)) = &asked {
                error!(error = chain(error), "price list not stored");
            }
            asked
        }
        .boxed()
    }
}
