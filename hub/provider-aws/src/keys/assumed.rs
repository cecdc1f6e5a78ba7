//! A role that the hub takes on, in its own account or another one.

use std::sync::Arc;

use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_provider_kit::{CredentialSource, Credentials, HttpClient};
use blueprint_hub_provision_core::ProviderError;
use futures_util::future::{BoxFuture, FutureExt};

use super::credentials;
use super::kept::Kept;
use crate::action::Action;
use crate::answer::{AnswerError, time};
use crate::api::{Api, Failure, now, unreadable};
use crate::config::Region;
use crate::query::Query;
use crate::xml::Node;

/// How the hub calls itself in the account's log.
const SESSION: &str = "blueprint-hub";

/// Takes on a role with the keys of another source, for an hour, and again 5 min before that is over.
#[derive(Debug)]
pub struct AssumedRole {
    api: Api,
    region: Region,
    role: String,
    external_id: Option<Secret<String>>,
    kept: Kept,
}

impl AssumedRole {
    /// The role of this ARN, asked for in `region` with the keys of `source`; `external_id` is what the role's owner asks for.
    #[must_use]
    pub fn new(
        (http, endpoint): (HttpClient, Option<String>),
        source: Arc<dyn CredentialSource>,
        region: Region,
        role: &str,
        external_id: Option<Secret<String>>,
    ) -> Self {
        let api = Api::new(http, source, endpoint);
        Self { api, region, role: role.to_owned(), external_id, kept: Kept::default() }
    }

    async fn renew(&self) -> Result<(Credentials, Timestamp), ProviderError> {
        let mut query = Query::default()
            .with("RoleArn", &self.role)
            .with("RoleSessionName", SESSION)
            .with("DurationSeconds", "3600");
        if let Some(id) = &self.external_id {
            query = query.with("ExternalId", id.expose());
        }
        let action = Action::AssumeRole;
        let answered = match self.api.query(self.region.as_str(), action, &query).await {
            Ok(answer) => self.read(&answer.root).map_err(|error| unreadable(action, error)),
            Err(failure) => Err(failure),
        };
        answered.map_err(|failure: Failure| failure.into_error(action, self.region.as_str()))
    }

    fn read(&self, root: &Node) -> Result<(Credentials, Timestamp), AnswerError> {
        let found = root.child("AssumeRoleResult").and_then(|result| result.child("Credentials"));
        let found = found.ok_or(AnswerError("Credentials"))?;
        let text = |name| found.text(name).filter(|text| !text.is_empty()).ok_or(AnswerError(name));
        let ends = time(Some(text("Expiration")?)).ok_or(AnswerError("Expiration"))?;
        let session = Some(text("SessionToken")?);
        let origin = format!("the role {}", self.role);
        Ok((credentials(&origin, text("AccessKeyId")?, text("SecretAccessKey")?, session), ends))
    }
}

impl CredentialSource for AssumedRole {
    fn get(&self) -> BoxFuture<'_, Result<Arc<Credentials>, ProviderError>> {
        self.kept.get(now(), async || self.renew().await).boxed()
    }
}
