//! Amazon EC2: `providers.aws.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use blueprint_hub_provision_core::Provider;

use crate::config::AwsSettings;

/// The account, with the keys that are there when they are needed; asks nothing of it.
///
/// # Errors
///
/// Where there is no way to call it.
#[cfg(feature = "provider-aws")]
pub(super) fn make(settings: &AwsSettings, state: &Path) -> Result<Arc<dyn Provider>> {
    with::make(settings, state)
}

/// Nothing: there are no such settings in this build.
///
/// # Errors
///
/// None.
#[cfg(not(feature = "provider-aws"))]
pub(super) fn make(settings: &AwsSettings, _: &Path) -> Result<Arc<dyn Provider>> {
    match *settings {}
}

#[cfg(feature = "provider-aws")]
mod with {
    use std::path::PathBuf;

    use anyhow::Context;
    use blueprint_common_types::Secret;
    use blueprint_hub_provider_aws::{AssumedRole, AwsCloud, InstanceRole, Profile};
    use blueprint_hub_provider_kit::{
        AWS, Chain, CredentialSource, Environment, FileSource, HttpClient, HttpConfig,
    };

    use super::*;

    pub(super) fn make(settings: &AwsSettings, state: &Path) -> Result<Arc<dyn Provider>> {
        let http = HttpClient::new(HttpConfig::default()).context("cannot call AWS")?;
        let config = settings.config.clone();
        let own: Arc<dyn CredentialSource> = match &settings.profile {
            Some(name) => Arc::new(Profile::new(&file(), name)),
            None => Arc::new(Chain::new(AWS, usual(&http, state))),
        };
        let source: Arc<dyn CredentialSource> = match (&settings.role, config.regions.first()) {
            (Some(role), Some(region)) => {
                let by = (http.clone(), config.endpoint.clone());
                let external_id = settings.external_id.clone().map(Secret::new);
                Arc::new(AssumedRole::new(by, own, region.clone(), role, external_id))
            }
            (None, _) | (Some(_), None) => own,
        };
        Ok(Arc::new(AwsCloud::new(config, http, source)))
    }

    /// The hub's own file, and then where AWS's own tools look, in their order.
    fn usual(http: &HttpClient, state: &Path) -> Vec<Arc<dyn CredentialSource>> {
        let name = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
        let mut sources: Vec<Arc<dyn CredentialSource>> = vec![
            Arc::new(FileSource::new(AWS, &state.join("aws.credentials"))),
            Arc::new(Environment::new(AWS)),
            Arc::new(Profile::new(&file(), &name)),
        ];
        if !variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            let address = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
            sources.push(Arc::new(InstanceRole::new(http.clone(), address.as_deref())));
        }
        sources
    }

    /// The file of AWS's own tools.
    fn file() -> PathBuf {
        match variable("AWS_SHARED_CREDENTIALS_FILE") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(variable("HOME").unwrap_or_default()).join(".aws/credentials"),
        }
    }

    fn variable(name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }
}
