//! Several sources, of which the first that has anything counts.

use std::fmt;
use std::sync::Arc;

use blueprint_hub_provision_core::ProviderError;
use futures_util::future::{BoxFuture, FutureExt};

use super::{CredentialSource, CredentialSpec, Credentials};

/// Asks its sources in their order.
///
/// A source that has something that cannot be used ends the search: what was put there on purpose is not passed over.
#[derive(Clone)]
pub struct Chain {
    spec: CredentialSpec,
    sources: Vec<Arc<dyn CredentialSource>>,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("provider", &self.spec.provider)
            .field("sources", &self.sources.len())
            .finish()
    }
}

impl Chain {
    /// These sources, the first one first.
    #[must_use]
    pub fn new(spec: CredentialSpec, sources: Vec<Arc<dyn CredentialSource>>) -> Self {
        Self { spec, sources }
    }

    async fn first(&self) -> Option<&Arc<dyn CredentialSource>> {
        for source in &self.sources {
            if source.is_there().await {
                return Some(source);
            }
        }
        None
    }
}

impl CredentialSource for Chain {
    fn get(&self) -> BoxFuture<'_, Result<Arc<Credentials>, ProviderError>> {
        async {
            match self.first().await {
                Some(source) => source.get().await,
                None => Err(self.spec.missing()),
            }
        }
        .boxed()
    }

    fn is_there(&self) -> BoxFuture<'_, bool> {
        async { self.first().await.is_some() }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use blueprint_common_types::Secret;

    use super::super::{AWS, Environment, Fixed};
    use super::*;

    #[test]
    fn the_first_that_has_anything_counts() {
        let fixed = Fixed::new(Credentials::new("x", [("k".to_owned(), Secret::new("v".to_owned()))]));
        let empty = || Arc::new(Environment::with(AWS, |_| None));
        let half = Environment::with(AWS, |name| (name == "AWS_ACCESS_KEY_ID").then(|| OsString::from("a")));
        let get =
            |sources: Vec<Arc<dyn CredentialSource>>| Chain::new(AWS, sources).get().now_or_never().unwrap();
        assert_eq!(get(vec![empty(), Arc::new(fixed.clone())]).unwrap().origin(), "x");
        let error = get(vec![empty(), Arc::new(half), Arc::new(fixed)]).unwrap_err().to_string();
        assert!(error.contains("AWS_SECRET_ACCESS_KEY, too"), "{error}");
        assert!(get(vec![empty()]).unwrap_err().to_string().contains("provider configure aws"));
        assert!(!Chain::new(AWS, vec![]).is_there().now_or_never().unwrap());
    }
}
