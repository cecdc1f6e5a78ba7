//! Accounts at clouds: with whose credentials they are used, and whether they can be.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Path, Query, State};
use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_provision_core::catalogue::facts;
use blueprint_hub_provision_core::lifecycle::{Overview, RecordState, Records, RecordsError};
use blueprint_hub_provision_core::{AccountReport, CredentialRecord, ErrorClass, ProviderError, Tidied};
use blueprint_hub_registry_core::{AuditEvent, AuditKind};
use futures_util::future::BoxFuture;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::error;

use crate::AdminState;
use crate::error::ApiError;
use crate::policy::Way;
use crate::views::{now, time};

const SHAPE: &str = "a line NAME = VALUE for each field, or one JSON object; `blueprint-hub provider ls --output json` names the fields \
                     (the API takes it as {\"text\": \"...\"})";
const LIST: &str = "`blueprint-hub provider ls` lists them";

/// One field of the credentials of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CredentialField {
    /// Its name.
    pub name: &'static str,
    /// Variables of the environment that hold it.
    pub variables: &'static [&'static str],
    /// Whether nobody should see it.
    pub is_secret: bool,
    /// Whether it has to be there.
    pub is_required: bool,
}

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialOrigin {
    /// One word: `sealed`, `file`, `environment`, `profile`, `instance-role`, or `none`.
    pub kind: &'static str,
    /// The place, for people; or why what is there cannot be used.
    pub text: Result<String, String>,
}

/// What the operator is told of the account of one provider.
#[derive(Debug, Clone)]
pub struct AccountView {
    /// Name of the provider.
    pub name: String,
    /// Whether machines can be ordered of it.
    pub is_enabled: bool,
    /// The feature that would have to be built in, where it is not.
    pub lacks: Option<&'static str>,
    /// What its credentials are made of; empty where it needs none.
    pub fields: Vec<CredentialField>,
    /// Where they come from now; `None` where it needs none.
    pub origin: Option<CredentialOrigin>,
    /// What is sealed in the store.
    pub sealed: Option<CredentialRecord>,
    /// When the account was last looked at since the hub started, and what failed then; empty where all was well.
    pub checked: Option<(Timestamp, Vec<String>)>,
}

/// Why something was not done about an account.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// There is no such provider.
    #[error("there is no provider {0:?}")]
    Unknown(String),
    /// It was left out of the build.
    #[error("this program was built without the provider {0}")]
    NotBuilt(&'static str, &'static str),
    /// It has no account.
    #[error("the provider {0} needs no credentials: its machines are this host's")]
    NoAccount(String),
    /// It ended, as the text says with who sells the like.
    #[error("{0}")]
    Discontinued(String),
    /// It is not switched on.
    #[error("the provider {0} is not switched on")]
    Disabled(&'static str),
    /// What was given are no credentials.
    #[error("what was given {0}")]
    Invalid(String),
    /// Machines stand there, which other credentials may not see.
    #[error(
        "{1} of this hub's machines stand at {0}: credentials of another account would leave them there unseen, others would be \
             ordered in their place, and all of them cost money"
    )]
    Standing(&'static str, usize),
    /// Machines stand there, or are on their way, behind what would be deleted.
    #[error("{1} of this hub's machines stand at {0}, or are ordered there, and need what would be deleted")]
    Needed(&'static str, usize),
    /// Somebody else is asking the same.
    #[error("the account of {0} is being checked or cleaned already")]
    Busy(&'static str),
    /// The system has no source of randomness.
    #[error("there is no randomness to seal credentials with")]
    NoRandomness,
    /// The cloud, or the way to it, failed.
    #[error("{}", .1.line())]
    Cloud(&'static str, ProviderError),
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] RecordsError),
}

/// Keeps the credentials of providers, and looks at their accounts.
pub trait AccountDesk: Send + Sync {
    /// Every provider that this program knows, by name.
    fn list(&self) -> BoxFuture<'_, Vec<AccountView>>;

    /// Seals credentials and stores them in place of those of before; the next call is made with them. `by` says who asked;
    /// `standing` is how many machines must not be left behind, none where the operator insists.
    ///
    /// # Errors
    ///
    /// Where they are not stored.
    fn configure<'a>(
        &'a self,
        name: &'a str,
        text: Secret<String>,
        by: &'a str,
        standing: usize,
    ) -> BoxFuture<'a, Result<CredentialRecord, AccountError>>;

    /// Forgets what is sealed; false where nothing is. The arguments are as for [`Self::configure`].
    ///
    /// # Errors
    ///
    /// Where it is not forgotten.
    fn forget<'a>(
        &'a self,
        name: &'a str,
        by: &'a str,
        standing: usize,
    ) -> BoxFuture<'a, Result<bool, AccountError>>;

    /// Asks the cloud about the account. Makes no machine.
    ///
    /// # Errors
    ///
    /// Where it does not know the credentials, or cannot be asked.
    fn check<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<AccountReport, AccountError>>;

    /// Deletes what the hub made for itself there beside machines, and notes each in `tidied`; `standing` is how many machines it
    /// is still for.
    ///
    /// # Errors
    ///
    /// Where machines stand, or the cloud refuses. What went before is noted.
    fn clean<'a>(
        &'a self,
        name: &'a str,
        standing: usize,
        tidied: &'a mut Tidied,
    ) -> BoxFuture<'a, Result<(), AccountError>>;

    /// The least that the credentials have to allow, as the cloud writes it: `policy`, and `key_policy` where a key takes on a role
    /// first; or `scopes`.
    ///
    /// # Errors
    ///
    /// Where the provider has no account.
    fn policy<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Value, AccountError>>;
}

impl From<AccountError> for ApiError {
    fn from(failed: AccountError) -> Self {
        let text = failed.to_string();
        match failed {
            AccountError::Unknown(_) => Self::not_found(text, LIST),
            AccountError::NotBuilt(_, feature) => {
                Self::conflict(text, format!("build it with the feature {feature}"))
            }
            AccountError::NoAccount(_) => Self::conflict(text, LIST),
            AccountError::Discontinued(_) => {
                Self::conflict(text, "order elsewhere: `blueprint-hub offers` says what there is")
            }
            AccountError::Disabled(name) => Self::conflict(
                text,
                format!("set providers.{name}.enabled = true in hub.toml and start the hub again"),
            ),
            AccountError::Invalid(_) => Self::invalid(text, SHAPE),
            AccountError::Standing(name, _) => Self::conflict(
                text,
                format!(
                    "terminate them first (`blueprint-hub deployment ls`), or insist with --force where the credentials that count \
                     then are of the same account, as `blueprint-hub provider check {name}` says of those of now"
                ),
            ),
            AccountError::Needed(_, _) => Self::conflict(
                text,
                "terminate their deployments first (`blueprint-hub deployment ls`), and wait until they are gone",
            ),
            AccountError::Busy(_) => Self::conflict(text, "wait for its end, a minute or two at most"),
            AccountError::NoRandomness => Self::unavailable(text),
            AccountError::Cloud(name, error) => cloud(name, &error, text),
            AccountError::Store(failed) => {
                error!(error = %blueprint_common_runtime::Chain(&failed), "credentials not changed");
                Self::unavailable("the hub's store cannot do this now; the hub's log says why")
            }
        }
    }
}

/// What went wrong at a cloud: its refusal of the credentials is told apart from a cloud that cannot be asked.
fn cloud(name: &str, error: &ProviderError, text: String) -> ApiError {
    match error.class() {
        ErrorClass::Deny => ApiError::new(
            StatusCode::FORBIDDEN,
            "credentials_refused",
            text,
            format!(
                "`blueprint-hub provider ls` shows where they come from, `blueprint-hub provider configure {name}` stores others"
            ),
        ),
        ErrorClass::Throttle | ErrorClass::Again | ErrorClass::Unknown => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "cloud_unavailable",
            text,
            format!(
                "nothing was ordered; look whether this host reaches {name} (its name service, its firewall, \
                 providers.{name}.endpoint), and check again"
            ),
        ),
        ErrorClass::Reject
        | ErrorClass::Quota
        | ErrorClass::NoQuota
        | ErrorClass::Capacity
        | ErrorClass::NotSold => ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "cloud_refused",
            text,
            format!("nothing was ordered; `blueprint-hub config check` shows the keys providers.{name}.*"),
        ),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Configure {
    /// Lines `NAME = VALUE`, one JSON object as text, or the bare value where there is one field alone.
    text: String,
}

/// What the operator takes upon himself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Insistence {
    /// Also where machines stand.
    #[serde(default)]
    force: bool,
}

pub(crate) async fn list(State(state): State<AdminState>) -> Json<Value> {
    let overview = state.hub.deployer().overview();
    let views = state.hub.accounts().list().await;
    let rows: Vec<_> = views.iter().map(|view| row(view, &overview)).collect();
    Json(json!({ "accounts": rows }))
}

pub(crate) async fn configure(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    way: Option<Extension<Way>>,
    Query(how): Query<Insistence>,
    body: Result<Json<Configure>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    // The parser's own words may repeat a value.
    let Json(asked) = body.map_err(|_| ApiError::invalid("the request cannot be read", SHAPE))?;
    let text = Secret::new(asked.text);
    let by = way.map_or(Way::Socket, |Extension(way)| way).name();
    let machines = standing(&state.hub.deployer().records().await?, &name);
    let record = state.hub.accounts().configure(&name, text, by, how.left(machines)).await?;
    state.hub.deployer().credentials_changed(&name);
    Ok(Json(json!({
        "configured": record.provider,
        "shown": record.shown,
        "changed_at": time(record.changed_at),
        "changed_by": record.changed_by,
        "machines": machines,
    })))
}

pub(crate) async fn forget(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    way: Option<Extension<Way>>,
    Query(how): Query<Insistence>,
) -> Result<Json<Value>, ApiError> {
    let by = way.map_or(Way::Socket, |Extension(way)| way).name();
    let machines = standing(&state.hub.deployer().records().await?, &name);
    if !state.hub.accounts().forget(&name, by, how.left(machines)).await? {
        return Err(ApiError::not_found(
            format!("no credentials of {name} are sealed in the store"),
            "`blueprint-hub provider ls` shows where they come from",
        ));
    }
    state.hub.deployer().credentials_changed(&name);
    let views = state.hub.accounts().list().await;
    let origin = views.iter().find(|view| view.name == name).and_then(|view| view.origin.as_ref());
    Ok(Json(json!({
        "forgotten": name,
        "credentials": origin.map(shown_origin),
        "machines": machines,
    })))
}

pub(crate) async fn check(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let report = state.hub.accounts().check(&name).await?;
    let AccountReport { account, identity, rights, regions, quotas, problems, notes } = report;
    let rights = rights.iter().map(|right| json!({ "name": right.name, "state": right.state.label() }));
    let regions = regions.iter().map(|(name, is_there)| json!({ "name": name, "exists": is_there }));
    let quotas = quotas.iter().map(|(what, limit)| json!({ "of": what, "limit": limit }));
    Ok(Json(json!({
        "provider": name,
        "account": account,
        "identity": identity,
        "rights": rights.collect::<Vec<_>>(),
        "regions": regions.collect::<Vec<_>>(),
        "quotas": quotas.collect::<Vec<_>>(),
        "problems": problems,
        "notes": notes,
    })))
}

pub(crate) async fn clean(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    // What is stored behind the hold is all that there is: an order waits before it is stored.
    let hold = state.hub.deployer().hold_orders(&name);
    let records = state.hub.deployer().records().await?;
    let needed = records.instances.values().filter(|record| !record.state.is_ended());
    let needed = needed.filter(|record| record.candidate.provider == name).count();
    if hold.is_none() && needed == 0 {
        let text = format!("a machine of {name} is being ordered, or it is being cleaned already");
        return Err(ApiError::conflict(text, "wait for its end, two minutes at most"));
    }
    let audit =
        |detail: String| state.store.audit(AuditEvent::new(AuditKind::ProviderClean, &name, detail), now());
    // Refused before anything is asked of the cloud where machines need it, or it is none that is switched on.
    let begins = needed == 0 && state.hub.deployer().overview().clouds.iter().any(|cloud| cloud.name == name);
    if begins {
        audit("asked for".to_owned()).await?;
    }
    let mut tidied = Tidied::default();
    let done = state.hub.accounts().clean(&name, needed, &mut tidied).await;
    let Tidied { removed, kept } = tidied;
    if begins || !removed.is_empty() {
        audit(outcome(&removed, done.as_ref().err())).await?;
    }
    if let Err(failed) = done {
        return Err(ApiError::from(failed).behind(&removed));
    }
    drop(hold);
    Ok(Json(json!({ "provider": name, "removed": removed, "kept": kept })))
}

/// What became of a cleaning, for the audit log.
fn outcome(removed: &[String], failed: Option<&AccountError>) -> String {
    let gone = if removed.is_empty() { "nothing".to_owned() } else { removed.join(", ") };
    match failed {
        Some(failed) => format!("deleted: {gone}; then failed: {failed}"),
        None => format!("deleted: {gone}"),
    }
}

pub(crate) async fn policy(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(state.hub.accounts().policy(&name).await?))
}

impl Insistence {
    /// The machines that must not be left behind, of those that stand.
    const fn left(&self, standing: usize) -> usize {
        if self.force { 0 } else { standing }
    }
}

/// Machines that a provider has of this hub, or may have, as they are stored: what the cloud last listed may be old, or none.
fn standing(records: &Records, name: &str) -> usize {
    let is_there = |state: RecordState| !state.is_ended() && state != RecordState::Planned;
    let records = records.instances.values();
    records.filter(|record| record.candidate.provider == name && is_there(record.state)).count()
}

fn shown_origin(origin: &CredentialOrigin) -> Value {
    json!({
        "source": origin.kind,
        "place": origin.text.as_ref().ok(),
        "problem": origin.text.as_ref().err(),
    })
}

fn row(view: &AccountView, overview: &Overview) -> Value {
    let cloud = overview.clouds.iter().find(|cloud| cloud.name == view.name);
    let fields = view.fields.iter().map(|field| {
        json!({
            "name": field.name,
            "secret": field.is_secret,
            "required": field.is_required,
            "variables": field.variables,
        })
    });
    json!({
        "name": view.name,
        "enabled": view.is_enabled,
        "lacks": view.lacks,
        "discontinued": facts(&view.name).and_then(|facts| facts.discontinued()),
        "fields": fields.collect::<Vec<_>>(),
        "credentials": view.origin.as_ref().map(shown_origin),
        "sealed": view.sealed.as_ref().map(|record| json!({
            "shown": record.shown,
            "changed_at": time(record.changed_at),
            "changed_by": record.changed_by,
        })),
        "checked_at": view.checked.as_ref().map(|(at, _)| time(*at)),
        "check_problems": view.checked.as_ref().map(|(_, problems)| problems),
        "calls": cloud.map(|cloud| if cloud.is_closed { "open" } else { "paused" }),
        "listed_at": cloud.and_then(|cloud| cloud.listed_at).map(time),
        "machines": cloud.map(|cloud| cloud.machines),
        "error": cloud.and_then(|cloud| cloud.error.as_deref()),
    })
}

#[cfg(test)]
mod tests;
