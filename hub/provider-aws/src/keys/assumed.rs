//! A role that the hub takes on, in its own account or another one.

use std::fmt;
use std::sync::Arc;

use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_provider_kit::{CredentialSource, Credentials, Fixed, HttpClient, Kept};
use blueprint_hub_provision_core::ProviderError;
use futures_util::future::{BoxFuture, FutureExt};

use super::credentials;
use crate::action::Action;
use crate::answer::{AnswerError, time};
use crate::api::{Api, Failure, now, unreadable};
use crate::config::Region;
use crate::query::Query;
use crate::xml::Node;

/// How the hub calls itself in the account's log.
const SESSION: &str = "blueprint-hub";

/// Takes on a role with the keys of another source, for an hour, and again 5 min before that is over, or at once where the
/// source has other keys by then.
///
/// Where the source's own fields name a role (`role_arn`, `external_id`), it is that one; where nobody names one, the keys are
/// used as they are.
pub struct AssumedRole {
    http: HttpClient,
    endpoint: Option<String>,
    source: Arc<dyn CredentialSource>,
    region: Region,
    role: Option<Role>,
    kept: Kept<Arc<Credentials>>,
}

/// A role to take on.
#[derive(Debug, Clone)]
struct Role {
    arn: String,
    external_id: Option<Secret<String>>,
}

impl fmt::Debug for AssumedRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssumedRole")
            .field("region", &self.region)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl AssumedRole {
    /// The role of this ARN, if any, asked for in `region` with the keys of `source`; `external_id` is what the role's owner
    /// asks for.
    #[must_use]
    pub fn new(
        (http, endpoint): (HttpClient, Option<String>),
        source: Arc<dyn CredentialSource>,
        region: Region,
        role: Option<&str>,
        external_id: Option<Secret<String>>,
    ) -> Self {
        let role = role.map(|arn| Role { arn: arn.to_owned(), external_id });
        Self { http, endpoint, source, region, role, kept: Kept::default() }
    }

    async fn current(&self) -> Result<Arc<Credentials>, ProviderError> {
        let own = self.source.get().await?;
        let named = own.get("role_arn").filter(|arn| !arn.expose().is_empty()).map(|arn| Role {
            arn: arn.expose().clone(),
            external_id: own.get("external_id").filter(|id| !id.expose().is_empty()).cloned(),
        });
        match named.or_else(|| self.role.clone()) {
            Some(role) => self.kept.get(now(), Some(&own), async || self.renewed(&own, &role).await).await,
            None => Ok(own),
        }
    }

    async fn renewed(
        &self,
        own: &Credentials,
        role: &Role,
    ) -> Result<(Arc<Credentials>, Timestamp), ProviderError> {
        self.renew(own, role).await.map(|(credentials, ends)| (Arc::new(credentials), ends))
    }

    async fn renew(&self, own: &Credentials, role: &Role) -> Result<(Credentials, Timestamp), ProviderError> {
        let mut query = Query::default()
            .with("RoleArn", &role.arn)
            .with("RoleSessionName", SESSION)
            .with("DurationSeconds", "3600");
        if let Some(id) = &role.external_id {
            query = query.with("ExternalId", id.expose());
        }
        let api = Api::new(self.http.clone(), Arc::new(Fixed::new(own.clone())), self.endpoint.clone());
        let action = Action::AssumeRole;
        let answered = match api.query(self.region.as_str(), action, &query).await {
            Ok(answer) => read(&answer.root, &role.arn).map_err(|error| unreadable(action, error)),
            Err(failure) => Err(failure),
        };
        answered.map_err(|failure: Failure| failure.into_error(action, self.region.as_str()))
    }
}

fn read(root: &Node, role: &str) -> Result<(Credentials, Timestamp), AnswerError> {
    let found = root.child("AssumeRoleResult").and_then(|result| result.child("Credentials"));
    let found = found.ok_or(AnswerError("Credentials"))?;
    let text = |name| found.text(name).filter(|text| !text.is_empty()).ok_or(AnswerError(name));
    let ends = time(Some(text("Expiration")?)).ok_or(AnswerError("Expiration"))?;
    let session = Some(text("SessionToken")?);
    let origin = format!("the role {role}");
    Ok((credentials(&origin, text("AccessKeyId")?, text("SecretAccessKey")?, session), ends))
}

impl CredentialSource for AssumedRole {
    fn get(&self) -> BoxFuture<'_, Result<Arc<Credentials>, ProviderError>> {
        self.current().boxed()
    }
}
