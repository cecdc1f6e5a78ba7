//! A provider whose every error and log line is kept, to be searched for secrets.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::{Instance, InstanceSpec, InstanceState, Listing, Provider, ProviderError};
use parking_lot::Mutex;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

use super::Lab;
use crate::FakeCloud;

/// Everything that is logged on this thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(super) fn listen(&self) -> DefaultGuard {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(self.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn take(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.0.lock())).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A lab's provider, watched.
pub(super) struct Watched<'a> {
    provider: &'a dyn Provider,
    fake: Option<&'a FakeCloud>,
    orders: Box<dyn Fn(u32) -> InstanceSpec + 'a>,
    names: Box<dyn Fn(u64) -> String + 'a>,
    pub(super) wrong_orders: Vec<InstanceSpec>,
    pub(super) absent: String,
    pub(super) has_pages: bool,
    pub(super) remedy: &'static str,
    pub(super) moment: Duration,
    pub(super) settled_after: Duration,
    secrets: Vec<String>,
    told: Mutex<Vec<String>>,
    log: &'a Log,
}

impl<'a> Watched<'a> {
    pub(super) fn new<L: Lab>(lab: &'a L, log: &'a Log) -> Self {
        log.take();
        Self {
            provider: lab.provider(),
            fake: lab.fake(),
            orders: Box::new(|number| lab.order(number)),
            names: Box::new(|id| lab.name_of(id)),
            wrong_orders: lab.wrong_orders(),
            absent: lab.absent(),
            has_pages: lab.has_pages(),
            remedy: lab.remedy(),
            moment: lab.moment(),
            settled_after: lab.settled_after(),
            secrets: lab.secrets(),
            told: Mutex::default(),
            log,
        }
    }

    /// What was told that should not have been.
    pub(super) fn leak(&self) -> Option<String> {
        let mut told = std::mem::take(&mut *self.told.lock());
        told.push(self.log.take());
        let lines = told.iter().flat_map(|text| text.lines());
        let mut leaks = lines.filter(|line| self.secrets.iter().any(|secret| line.contains(secret)));
        leaks.next().map(|line| line.chars().take(500).collect())
    }

    pub(super) fn fake(&self) -> &FakeCloud {
        self.fake.unwrap()
    }

    pub(super) const fn has_fake(&self) -> bool {
        self.fake.is_some()
    }

    pub(super) fn order(&self, number: u32) -> InstanceSpec {
        (self.orders)(number)
    }

    pub(super) fn name_of(&self, id: u64) -> String {
        (self.names)(id)
    }

    fn note<T: Debug>(&self, result: Result<T, ProviderError>) -> Result<T, ProviderError> {
        let text = match &result {
            Ok(value) => format!("{value:?}"),
            Err(error) => format!("{error:?} {error} {}", error.line()),
        };
        self.told.lock().push(text);
        result
    }

    pub(super) async fn offers(&self) -> Result<Vec<Offer>, ProviderError> {
        self.note(self.provider.offers().await)
    }

    pub(super) async fn list(&self) -> Result<Listing, ProviderError> {
        self.note(self.provider.list().await)
    }

    pub(super) async fn create(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        self.note(self.provider.create(spec).await)
    }

    pub(super) async fn delete(&self, provider_id: &str) -> Result<(), ProviderError> {
        self.note(self.provider.delete(provider_id).await)
    }

    pub(super) async fn boot(&self, provider_id: &str) -> Result<(), ProviderError> {
        self.note(self.provider.boot(provider_id).await)
    }

    pub(super) async fn stop(&self, provider_id: &str) -> Result<(), ProviderError> {
        self.note(self.provider.stop(provider_id).await)
    }

    /// The machines that are listed under the key of an order.
    pub(super) async fn machines_of(&self, spec: &InstanceSpec) -> Result<Vec<Instance>, ProviderError> {
        let mut listed = self.list().await?.instances;
        listed.retain(|instance| instance.key == spec.key);
        Ok(listed)
    }

    /// Waits until the machine of an order is in such a state; gives the last one seen.
    pub(super) async fn until(
        &self,
        spec: &InstanceSpec,
        is_it: impl Fn(&InstanceState) -> bool,
    ) -> Result<Option<InstanceState>, ProviderError> {
        let mut last = None;
        for _ in 0..200 {
            last = self.machines_of(spec).await?.pop().map(|instance| instance.state);
            if last.as_ref().is_some_and(&is_it) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(last)
    }
}
