//! Which fields each cloud wants, and by which names people know them.

use blueprint_hub_provision_core::ProviderError;

/// One field of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name, in a file and in [`crate::Credentials`].
    pub name: &'static str,
    /// Variables of the environment that hold it; the first that is set counts.
    pub env: &'static [&'static str],
    /// Whether a person who types it should not see it.
    pub is_secret: bool,
}

/// What credentials of one cloud are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CredentialSpec {
    /// Name of the provider.
    pub provider: &'static str,
    /// Fields that have to be there.
    pub required: &'static [Field],
    /// Fields that may be.
    pub optional: &'static [Field],
}

const fn field(name: &'static str, env: &'static [&'static str], is_secret: bool) -> Field {
    Field { name, env, is_secret }
}

/// AWS: an access key, with a session token where it is a temporary one, and the role that it is to take on.
pub const AWS: CredentialSpec = CredentialSpec {
    provider: "aws",
    required: &[
        field("access_key_id", &["AWS_ACCESS_KEY_ID"], false),
        field("secret_access_key", &["AWS_SECRET_ACCESS_KEY"], true),
    ],
    // The role has no variable: AWS's own tools mean a sign-in by a token of Kubernetes with theirs.
    optional: &[
        field("session_token", &["AWS_SESSION_TOKEN"], true),
        field("role_arn", &[], false),
        field("external_id", &[], true),
    ],
};

/// Google Cloud: a project, and the key of a service account or an access token. The key is the JSON of Google's console in
/// base64; [`crate::Credentials::read`] takes the JSON itself, too.
pub const GCP: CredentialSpec = CredentialSpec {
    provider: "gcp",
    required: &[field("project_id", &["GCP_PROJECT_ID", "GOOGLE_CLOUD_PROJECT"], false)],
    optional: &[
        field("service_account_file", &["GOOGLE_APPLICATION_CREDENTIALS"], false),
        field("service_account_key", &["GCP_SERVICE_ACCOUNT_KEY"], true),
        field("access_token", &["GCP_ACCESS_TOKEN"], true),
        field("api_key", &["GCP_API_KEY"], true),
    ],
};

/// Azure: a subscription, and an application or an access token.
pub const AZURE: CredentialSpec = CredentialSpec {
    provider: "azure",
    required: &[field("subscription_id", &["AZURE_SUBSCRIPTION_ID"], false)],
    optional: &[
        field("tenant_id", &["AZURE_TENANT_ID"], false),
        field("client_id", &["AZURE_CLIENT_ID"], false),
        field("client_secret", &["AZURE_CLIENT_SECRET"], true),
        field("access_token", &["AZURE_ACCESS_TOKEN"], true),
    ],
};

/// DigitalOcean: a personal access token.
pub const DIGITALOCEAN: CredentialSpec = CredentialSpec {
    provider: "digitalocean",
    required: &[field(
        "token",
        &["DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN", "DO_API_TOKEN", "DO_TOKEN"],
        true,
    )],
    optional: &[],
};

/// Vultr: an API key.
pub const VULTR: CredentialSpec = CredentialSpec {
    provider: "vultr",
    required: &[field("api_key", &["VULTR_API_KEY"], true)],
    optional: &[],
};

/// Linode: a personal access token.
pub const LINODE: CredentialSpec = CredentialSpec {
    provider: "linode",
    required: &[field("token", &["LINODE_TOKEN", "LINODE_API_TOKEN", "LINODE_CLI_TOKEN"], true)],
    optional: &[],
};

/// Scaleway: the secret half of an API key, and the project that machines are made in. The access key only names it.
pub const SCALEWAY: CredentialSpec = CredentialSpec {
    provider: "scaleway",
    required: &[
        field("secret_key", &["SCW_SECRET_KEY", "SCALEWAY_SECRET_KEY"], true),
        field("project_id", &["SCW_DEFAULT_PROJECT_ID", "SCW_PROJECT_ID", "SCALEWAY_PROJECT_ID"], false),
    ],
    optional: &[field("access_key", &["SCW_ACCESS_KEY"], false)],
};

/// Hivelocity: an API key.
pub const HIVELOCITY: CredentialSpec = CredentialSpec {
    provider: "hivelocity",
    required: &[field("api_key", &["HIVELOCITY_API_KEY"], true)],
    optional: &[],
};

/// Hetzner: an API token.
pub const HETZNER: CredentialSpec = CredentialSpec {
    provider: "hetzner",
    required: &[field("token", &["HETZNER_API_TOKEN", "HCLOUD_TOKEN"], true)],
    optional: &[],
};

impl CredentialSpec {
    /// Every field, the required ones first.
    pub fn fields(&self) -> impl Iterator<Item = &'static Field> {
        self.required.iter().chain(self.optional)
    }

    /// Names of fields that hold what `field` says, too: the key of a service account of Google names its project.
    pub(crate) fn said_by(&self, field: &Field) -> &'static [&'static str] {
        match (self.provider, field.name) {
            ("gcp", "project_id") => &["service_account_file", "service_account_key"],
            _ => &[],
        }
    }

    /// The field that is called so in a file: by its name, or by one of its variables.
    pub(crate) fn named(&self, name: &str) -> Option<&'static Field> {
        self.fields().find(|field| field.name == name || field.env.contains(&name))
    }

    /// There are none: what to do about it.
    #[must_use]
    pub fn missing(&self) -> ProviderError {
        let variables: Vec<_> = self
            .required
            .iter()
            .filter_map(|field| field.env.split_first())
            .map(|(first, others)| match others {
                [] => (*first).to_owned(),
                others => format!("{first} (or {})", others.join(", ")),
            })
            .collect();
        let action = format!(
            "use {0}: no credentials; set {1}, or run `blueprint-hub provider configure {0}`",
            self.provider,
            variables.join(" and "),
        );
        ProviderError::Deny { action }
    }

    /// They cannot be used: `why` says what to do about it.
    #[must_use]
    pub fn unusable(&self, why: &str) -> ProviderError {
        ProviderError::Deny { action: format!("use {}: {why}", self.provider) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_every_name() {
        assert_eq!(
            DIGITALOCEAN.missing().to_string(),
            "not allowed to use digitalocean: no credentials; set DIGITALOCEAN_TOKEN (or DIGITALOCEAN_ACCESS_TOKEN, \
             DO_API_TOKEN, DO_TOKEN), or run `blueprint-hub provider configure digitalocean`"
        );
        assert!(AWS.missing().to_string().contains("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
    }

    #[test]
    fn no_name_means_two_fields() {
        for spec in [AWS, GCP, AZURE, DIGITALOCEAN, VULTR, LINODE, SCALEWAY, HIVELOCITY, HETZNER] {
            let names: Vec<_> =
                spec.fields().flat_map(|field| std::iter::once(&field.name).chain(field.env)).collect();
            let once: std::collections::BTreeSet<_> = names.iter().collect();
            assert_eq!(once.len(), names.len(), "{}", spec.provider);
        }
    }
}
