//! Whether the key can be used as the hub is configured, before anything is ordered.

use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::redacted;
use blueprint_hub_provision_core::{Account, AccountReport, ProviderError, RightState};
use futures_util::future::{BoxFuture, FutureExt};
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::api::{Call, now};
use crate::cloud::{self, Hivelocity};
use crate::device::Line;
use crate::{errors, offers};

/// Longest text of an account that is shown, in bytes.
const MAX_SHOWN: usize = 256;

const PROFILE: Call = Call("get_basic_profile_resource");
const LOCATIONS: Call = Call("get_location_resource");

/// What a key may do cannot be narrowed by calls: these are what the contact that it belongs to has to be allowed.
#[must_use]
pub fn rights() -> Vec<&'static str> {
    vec!["devices: order, see, switch and cancel", "inventory: see"]
}

#[derive(Deserialize)]
struct Profile {
    #[serde(default)]
    id: Option<u64>,
    #[serde(default)]
    email: Option<String>,
}

#[derive(Deserialize)]
struct Location {
    code: String,
}

impl Account for Hivelocity {
    fn look(&self, _: HubId) -> BoxFuture<'_, Result<AccountReport, ProviderError>> {
        self.account().boxed()
    }
}

impl Hivelocity {
    /// What is found with the key.
    ///
    /// # Errors
    ///
    /// Where nothing of it can be said: the key is wrong, or the cloud cannot be reached.
    async fn account(&self) -> Result<AccountReport, ProviderError> {
        let mut report = AccountReport::default();
        match self.api.get::<Profile>(PROFILE, "/profile/basic").await {
            Ok((Profile { id, email }, _)) => {
                report.account = id.map(|id| id.to_string()).unwrap_or_default();
                report.identity = shown(&email.unwrap_or_default());
            }
            Err(ProviderError::Deny { action }) if action.contains("may not") => {
                report.notes.push(format!(
                    "whose key it is cannot be said, which orders do without: not allowed to {action}"
                ));
            }
            Err(error) => return Err(error),
        }
        let lists =
            Line::ALL.map(|line| ("devices: order, see, switch and cancel", cloud::LIST, line.path()));
        let stock = ("inventory: see", offers::STOCK, "/inventory/product?location=MAIN&group_by=flat");
        for (right, call, path) in lists.into_iter().chain([stock]) {
            let answer = self.api.send(call, Method::GET, path, None).await?;
            if answer.status().is_success() {
                report.note_right(right, RightState::Held);
                continue;
            }
            let error = errors::refused(call, &answer, now());
            if answer.status() != StatusCode::FORBIDDEN {
                return Err(error);
            }
            report.note_right(right, RightState::Missing);
            report.problems.push(error.line());
        }
        let (known, _) = self.api.get::<Vec<Location>>(LOCATIONS, "/inventory/locations").await?;
        for facility in &self.facilities {
            let is_there = known.iter().any(|own| own.code == *facility);
            report.regions.push((facility.clone(), Some(is_there)));
            if !is_there {
                report.problems.push(format!(
                    "{facility}: Hivelocity has no such facility; correct it in providers.hivelocity.facilities and start the \
                     hub again"
                ));
            }
        }
        report
            .notes
            .push("orders need a verified account with a payment method; that cannot be tried".to_owned());
        Ok(report)
    }
}

/// A text of the cloud, as it may be shown: one line, without what looks like a secret.
fn shown(text: &str) -> String {
    let mut text = redacted(text.as_bytes());
    let end = text.floor_char_boundary(MAX_SHOWN);
    text.truncate(end);
    text
}
