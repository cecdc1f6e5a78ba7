//! Amazon EC2: `providers.aws.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{AWS, Environment, FileSource};
use blueprint_hub_provision_core::Provider;

use crate::accounts::{Entry, Sealed, Sources, Vault};
use crate::config::AwsSettings;

/// The account, with the keys that are there when they are needed, and the provider where it is switched on; asks nothing of it.
///
/// # Errors
///
/// Where there is no way to call it.
pub(super) fn make(
    settings: Option<&AwsSettings>,
    hub: HubId,
    vault: &Arc<Vault>,
    state: &Path,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    let sources: Sources = vec![
        ("sealed", Arc::new(Sealed::new(Arc::clone(vault), AWS))),
        ("file", Arc::new(FileSource::new(AWS, &state.join("aws.credentials")))),
        ("environment", Arc::new(Environment::new(AWS))),
    ];
    let entry = Entry {
        spec: AWS,
        sources,
        role: None,
        account: None,
        policy: Err("provider-aws"),
        unused: &["AWS_KEY_PAIR_NAME", "AWS_SSH_KEY_PATH"],
    };
    built(settings, hub, entry)
}

/// Nothing: there are no such settings in this build.
#[cfg(not(feature = "provider-aws"))]
fn built(
    settings: Option<&AwsSettings>,
    _: HubId,
    entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    match settings {
        Some(settings) => match *settings {},
        None => Ok((None, entry)),
    }
}

#[cfg(feature = "provider-aws")]
use with::built;

#[cfg(feature = "provider-aws")]
mod with {
    use std::path::PathBuf;

    use anyhow::Context;
    use blueprint_common_types::Secret;
    use blueprint_hub_provider_aws::{AssumedRole, AwsCloud, AwsConfig, InstanceRole, Profile, policy};
    use blueprint_hub_provider_kit::{Chain, CredentialSource, HttpClient, HttpConfig};
    use serde_json::json;

    use super::*;

    pub(super) fn built(
        settings: Option<&AwsSettings>,
        hub: HubId,
        mut entry: Entry,
    ) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
        let config = settings.map_or_else(|| AwsConfig::new(Vec::new()), |settings| settings.config.clone());
        let of = config.clone();
        entry.policy = Ok(Box::new(move |role| {
            json!({
                "role": role,
                "policy": policy(hub, &of, None),
                "key_policy": role.map(|role| policy(hub, &of, Some(role))),
            })
        }));
        let Some(settings) = settings else {
            entry.sources.push(("profile", Arc::new(usual_profile())));
            return Ok((None, entry));
        };
        let http = HttpClient::new(HttpConfig::default()).context("cannot call AWS")?;
        match &settings.profile {
            // What is sealed was given to this hub on purpose; nothing else goes before a profile that is named.
            Some(name) => {
                entry.sources.truncate(1);
                entry.sources.push(("profile", Arc::new(Profile::new(&file(), name))));
            }
            None => entry.sources.extend(usual(&http)),
        }
        entry.role.clone_from(&settings.role);
        let sources = entry.sources.iter().map(|(_, source)| Arc::clone(source)).collect();
        let own: Arc<dyn CredentialSource> = Arc::new(Chain::new(AWS, sources));
        let source = match config.regions.first() {
            Some(region) => {
                let by = (http.clone(), config.endpoint.clone());
                let external_id = settings.external_id.clone().map(Secret::new);
                let role = settings.role.as_deref();
                Arc::new(AssumedRole::new(by, own, region.clone(), role, external_id))
            }
            None => own,
        };
        let provider = Arc::new(AwsCloud::new(config, http, source));
        entry.account = Some(Arc::<AwsCloud>::clone(&provider));
        Ok((Some(provider), entry))
    }

    /// Where AWS's own tools look behind the environment, in their order.
    fn usual(http: &HttpClient) -> Sources {
        let mut sources: Sources = vec![("profile", Arc::new(usual_profile()))];
        if !variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            let address = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
            sources.push(("instance-role", Arc::new(InstanceRole::new(http.clone(), address.as_deref()))));
        }
        sources
    }

    fn usual_profile() -> Profile {
        Profile::new(&file(), &variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned()))
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
