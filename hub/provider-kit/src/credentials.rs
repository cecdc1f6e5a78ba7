//! The right to use an account of a cloud, and where it comes from.

mod chain;
mod environment;
mod file;
mod spec;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_types::Secret;
use blueprint_hub_provision_core::ProviderError;
use futures_util::future::{BoxFuture, FutureExt, ready};

pub use chain::Chain;
pub use environment::Environment;
pub use file::FileSource;
pub use spec::{
    AWS, AZURE, CredentialSpec, DIGITALOCEAN, Field, GCP, HETZNER, HIVELOCITY, LINODE, SCALEWAY, VULTR,
};
pub use text::CredentialTextError;

/// Named fields, of which none can be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    origin: String,
    fields: BTreeMap<String, Secret<String>>,
}

impl Credentials {
    /// The fields of an account; `origin` says in messages where they come from, such as `the environment`.
    #[must_use]
    pub fn new(origin: &str, fields: impl IntoIterator<Item = (String, Secret<String>)>) -> Self {
        Self { origin: origin.to_owned(), fields: fields.into_iter().collect() }
    }

    /// Where they come from, for messages.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Names of the fields, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// A field that may be left out.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Secret<String>> {
        self.fields.get(name)
    }

    /// A field that a call cannot do without.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Deny`] that names the field and where it was looked for.
    pub fn require(&self, name: &str) -> Result<&Secret<String>, ProviderError> {
        self.get(name).ok_or_else(|| ProviderError::Deny {
            action: format!("use the account: {} has no {name}; add it", self.origin),
        })
    }
}

/// Says what to call a cloud with. It is asked before every call, so that what changes is used at once.
pub trait CredentialSource: Send + Sync {
    /// What to call with now.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Deny`] that says what to set where there are none, or they cannot be used.
    fn get(&self) -> BoxFuture<'_, Result<Arc<Credentials>, ProviderError>>;

    /// Whether anything is there, good or not; a [`Chain`] asks the next source where not.
    fn is_there(&self) -> BoxFuture<'_, bool> {
        ready(true).boxed()
    }
}

/// Credentials that do not change.
#[derive(Debug, Clone)]
pub struct Fixed(Arc<Credentials>);

impl Fixed {
    /// Always `credentials`.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self(Arc::new(credentials))
    }
}

impl CredentialSource for Fixed {
    fn get(&self) -> BoxFuture<'_, Result<Arc<Credentials>, ProviderError>> {
        ready(Ok(Arc::clone(&self.0))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_them_is_printed() {
        let secret = |text: &str| Secret::new(text.to_owned());
        let credentials = Credentials::new("a test", [("token".to_owned(), secret("canary"))]);
        let source = Fixed::new(credentials.clone());
        let error = credentials.require("key").unwrap_err();
        for text in [format!("{credentials:?}"), format!("{source:?}"), format!("{error:?}"), error.line()] {
            assert!(!text.contains("canary"), "{text}");
        }
        assert_eq!(error.to_string(), "not allowed to use the account: a test has no key; add it");
        assert_eq!(credentials.require("token").unwrap().expose(), "canary");
        assert!(credentials.names().eq(["token"]));
    }
}
