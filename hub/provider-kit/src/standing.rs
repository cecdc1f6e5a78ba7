//! Which account the machines of a provider stand in: names of machines do not say it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blueprint_common_types::HubId;
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::lifecycle::Rate;
use blueprint_hub_provision_core::{Instance, InstanceKey, InstanceSpec, Listing, Provider, ProviderError};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

/// A provider whose credentials say which account is looked at: a project, or a subscription.
pub trait HasAccount: Provider {
    /// The account that would be called now.
    ///
    /// # Errors
    ///
    /// As for the credentials.
    fn account(&self) -> BoxFuture<'_, Result<String, ProviderError>>;
}

/// A provider that refuses to look at another account than the one that machines of this hub stand in, wherever its credentials
/// come from: a list of the other would be whole and empty, and what stands in the first would be forgotten and go on costing
/// money.
///
/// The account is kept in a file from the first order on, until a list shows that no machine of this hub is left.
#[derive(Debug)]
pub struct Standing<P> {
    inner: Arc<P>,
    hub: HubId,
    path: PathBuf,
    /// Held while the file is read or written.
    file: Mutex<()>,
}

impl<P: HasAccount> Standing<P> {
    /// `inner`, with the account of the machines of `hub` in the file at `path`, which need not be there yet.
    pub fn new(inner: Arc<P>, hub: HubId, path: &Path) -> Self {
        Self { inner, hub, path: path.to_owned(), file: Mutex::default() }
    }

    fn unusable(&self, error: &io::Error) -> ProviderError {
        ProviderError::Busy { reason: format!("the file {} fails: {error}", self.path.display()) }
    }

    async fn kept(&self) -> Result<Option<String>, ProviderError> {
        match tokio::fs::read_to_string(&self.path).await {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unusable(&error)),
        }
    }

    /// The account of now, where it is the one that machines stand in.
    async fn same(&self) -> Result<String, ProviderError> {
        let account = self.inner.account().await?;
        let _one = self.file.lock().await;
        match self.kept().await? {
            Some(kept) if kept != account => Err(ProviderError::Deny {
                action: format!(
                    "use {0} with credentials of {account}: machines of this hub stand in {kept}; give back credentials of \
                     {kept}, or, to leave them there unseen and billed, remove the file {1}",
                    self.inner.name(),
                    self.path.display()
                ),
            }),
            Some(_) | None => Ok(account),
        }
    }

    /// Keeps whether machines stand in `account`.
    async fn note(&self, account: &str, stands: bool) -> Result<(), ProviderError> {
        let _one = self.file.lock().await;
        let is_kept = self.kept().await?.is_some();
        let done = match (stands, is_kept) {
            (true, false) => write(&self.path, account).await,
            (false, true) => tokio::fs::remove_file(&self.path).await,
            (true, true) | (false, false) => Ok(()),
        };
        done.map_err(|error| self.unusable(&error))
    }

    async fn list_all(&self) -> Result<Listing, ProviderError> {
        let before = self.same().await?;
        let listing = self.inner.list().await?;
        // Credentials may have changed meanwhile.
        if self.same().await? != before {
            return Err(ProviderError::Busy {
                reason: "its credentials changed while it was listed".to_owned(),
            });
        }
        let is_own = |one: &Instance| one.tags.as_ref().is_some_and(|tags| tags.hub == self.hub);
        self.note(&before, listing.instances.iter().any(is_own)).await?;
        Ok(listing)
    }
}

/// Writes a file so that it is whole or not there.
async fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("account.new");
    let mut file = tokio::fs::File::create(&new).await?;
    file.write_all(format!("{text}\n").as_bytes()).await?;
    file.sync_all().await?;
    tokio::fs::rename(&new, path).await?;
    match path.parent() {
        Some(folder) => tokio::fs::File::open(folder).await?.sync_all().await,
        None => Ok(()),
    }
}

impl<P: HasAccount> Provider for Standing<P> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn rate(&self) -> Rate {
        self.inner.rate()
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.inner.offers()
    }

    fn price_list(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.inner.price_list()
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        self.list_all().boxed()
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        async {
            let account = self.same().await?;
            self.note(&account, true).await?;
            self.inner.create(spec).await
        }
        .boxed()
    }

    fn delete<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        async {
            self.same().await?;
            self.inner.delete(provider_id).await
        }
        .boxed()
    }

    fn boot<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        async {
            self.same().await?;
            self.inner.boot(provider_id).await
        }
        .boxed()
    }

    fn stop<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        async {
            self.same().await?;
            self.inner.stop(provider_id).await
        }
        .boxed()
    }

    fn vouched_name<'a>(
        &'a self,
        key: &'a InstanceKey,
    ) -> BoxFuture<'a, Result<Option<String>, ProviderError>> {
        async {
            self.same().await?;
            self.inner.vouched_name(key).await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
