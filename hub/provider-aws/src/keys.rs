//! What signs, out of credentials.

mod assumed;
mod instance;
mod profile;

use blueprint_common_types::Secret;
use blueprint_hub_provider_kit::Credentials;
use blueprint_hub_provision_core::ProviderError;

pub use assumed::AssumedRole;
pub use instance::InstanceRole;
pub use profile::Profile;

/// Keys of an account, or of a role in it.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Name of the key; no secret.
    pub(crate) id: String,
    /// What signs.
    pub(crate) secret: Secret<String>,
    /// Goes with keys that end.
    pub(crate) session: Option<Secret<String>>,
}

impl Keys {
    /// The keys among these fields, which are those of [`blueprint_hub_provider_kit::AWS`].
    ///
    /// # Errors
    ///
    /// Where one is missing, which says where it was looked for.
    pub(crate) fn of(credentials: &Credentials) -> Result<Self, ProviderError> {
        Ok(Self {
            id: credentials.require("access_key_id")?.expose().clone(),
            secret: credentials.require("secret_access_key")?.clone(),
            session: credentials.get("session_token").cloned(),
        })
    }
}

/// Credentials of these three parts.
fn credentials(origin: &str, id: &str, secret: &str, session: Option<&str>) -> Credentials {
    let field = |name: &str, value: &str| (name.to_owned(), Secret::new(value.to_owned()));
    let session = session.map(|session| field("session_token", session));
    let fields = [field("access_key_id", id), field("secret_access_key", secret)];
    Credentials::new(origin, fields.into_iter().chain(session))
}
