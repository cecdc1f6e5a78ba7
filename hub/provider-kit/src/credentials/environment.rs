//! Credentials from variables of the environment.

use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;

use blueprint_common_types::Secret;
use blueprint_hub_provision_core::ProviderError;
use futures_util::future::{BoxFuture, FutureExt, ready};

use super::{CredentialSource, CredentialSpec, Credentials, Field};

type Lookup = dyn Fn(&str) -> Option<OsString> + Send + Sync;

/// Reads the variables that a [`CredentialSpec`] names.
#[derive(Clone)]
pub struct Environment {
    spec: CredentialSpec,
    lookup: Arc<Lookup>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("provider", &self.spec.provider).finish_non_exhaustive()
    }
}

impl Environment {
    /// Of this process.
    #[must_use]
    pub fn new(spec: CredentialSpec) -> Self {
        Self::with(spec, |name| std::env::var_os(name))
    }

    /// As `lookup` says it is.
    pub fn with(
        spec: CredentialSpec,
        lookup: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static,
    ) -> Self {
        Self { spec, lookup: Arc::new(lookup) }
    }

    /// The first variable of a field that is set to something.
    fn find(&self, field: &Field) -> Option<(&'static str, OsString)> {
        field.env.iter().find_map(|name| {
            let value = (self.lookup)(name)?;
            (!value.is_empty()).then_some((*name, value))
        })
    }

    /// True where any field is set, also one that does not suffice: who set it meant it, and nothing else takes its place.
    fn has_any(&self) -> bool {
        self.spec.fields().any(|field| self.find(field).is_some())
    }

    /// True where another field that is set says what this one would.
    fn is_said(&self, field: &Field) -> bool {
        let others = self.spec.said_by(field);
        self.spec.fields().any(|other| others.contains(&other.name) && self.find(other).is_some())
    }

    fn read(&self) -> Result<Arc<Credentials>, ProviderError> {
        if !self.has_any() {
            return Err(self.spec.missing());
        }
        let mut fields = Vec::new();
        for field in self.spec.fields() {
            match self.find(field) {
                Some((name, value)) => {
                    let value = value.into_string().map_err(|_| {
                        self.spec.unusable(&format!("the variable {name} is not UTF-8; set it again"))
                    })?;
                    let value = Secret::new(value);
                    fields.push((field.name.to_owned(), Secret::new(value.expose().trim().to_owned())));
                }
                None if self.spec.required.contains(field) && !self.is_said(field) => {
                    let wanted = field.env.join(" or ");
                    return Err(self
                        .spec
                        .unusable(&format!("the environment holds only a part; set {wanted}, too")));
                }
                None => {}
            }
        }
        Ok(Arc::new(Credentials::new("the environment", fields)))
    }
}

impl CredentialSource for Environment {
    fn get(&self) -> BoxFuture<'_, Result<Arc<Credentials>, ProviderError>> {
        ready(self.read()).boxed()
    }

    fn is_there(&self) -> BoxFuture<'_, bool> {
        ready(self.has_any()).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AWS, AZURE, DIGITALOCEAN, GCP};
    use super::*;

    fn of(spec: CredentialSpec, rows: &'static [(&'static str, &'static str)]) -> Environment {
        let find = |name: &str| rows.iter().find(|row| row.0 == name).map(|row| OsString::from(row.1));
        Environment::with(spec, find)
    }

    #[test]
    fn every_name_is_taken_and_the_first_counts() {
        for name in DIGITALOCEAN.required[0].env {
            let source = Environment::with(DIGITALOCEAN, move |asked| {
                (asked == *name).then(|| OsString::from(" canary\n"))
            });
            assert_eq!(source.read().unwrap().require("token").unwrap().expose(), "canary");
        }
        let source = of(DIGITALOCEAN, &[("DO_TOKEN", "b"), ("DIGITALOCEAN_TOKEN", "a")]);
        assert_eq!(source.read().unwrap().require("token").unwrap().expose(), "a");
        let source = of(DIGITALOCEAN, &[("DO_TOKEN", "b"), ("DIGITALOCEAN_TOKEN", "")]);
        assert_eq!(source.read().unwrap().require("token").unwrap().expose(), "b");
    }

    #[test]
    fn nothing_and_half_of_it_are_told_apart() {
        let nothing = of(AWS, &[("AWS_SECRET_ACCESS_KEY", "")]);
        assert!(!nothing.is_there().now_or_never().unwrap());
        assert!(nothing.read().unwrap_err().to_string().contains("provider configure aws"));
        for (spec, name, wanted) in [
            (AWS, "AWS_ACCESS_KEY_ID", "set AWS_SECRET_ACCESS_KEY, too"),
            (AWS, "AWS_SESSION_TOKEN", "set AWS_ACCESS_KEY_ID, too"),
            (GCP, "GCP_ACCESS_TOKEN", "set GCP_PROJECT_ID or GOOGLE_CLOUD_PROJECT, too"),
            (AZURE, "AZURE_CLIENT_SECRET", "set AZURE_SUBSCRIPTION_ID, too"),
        ] {
            let half =
                Environment::with(spec, move |asked| (asked == name).then(|| OsString::from("canary")));
            assert!(half.is_there().now_or_never().unwrap(), "{name}");
            let error = half.read().unwrap_err().to_string();
            assert!(error.contains(wanted) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn the_key_of_a_service_account_says_its_project_itself() {
        for name in ["GOOGLE_APPLICATION_CREDENTIALS", "GCP_SERVICE_ACCOUNT_KEY"] {
            let source =
                Environment::with(GCP, move |asked| (asked == name).then(|| OsString::from("canary")));
            assert!(source.is_there().now_or_never().unwrap(), "{name}");
            assert_eq!(source.read().unwrap().names().count(), 1);
        }
    }
}
