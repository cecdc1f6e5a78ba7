//! Alerts: how much may be spent in a period, when somebody is told, and what happens once it is spent.
//!
//! Invariants:
//! - each threshold of an alert is told once in a period, also after the meter was read again from the beginning;
//! - what is held follows from the meter and the alert alone, so it holds before anybody was told and after a restart.

mod anomaly;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use blueprint_common_types::{Micros, Timestamp};

use crate::DeploymentId;

pub use anomaly::Anomaly;
pub use standing::{Bill, Finding, Held, Standing, held, last_believed};

/// Alerts of one hub at most.
pub const MAX_ALERTS: u32 = 100;

/// Thresholds of one alert at most.
pub const MAX_THRESHOLDS: usize = 10;

/// Where thresholds are where none were named, in percent.
pub const THRESHOLDS: [u16; 3] = [50, 80, 100];

/// Highest threshold, in percent.
pub const MAX_THRESHOLD: u16 = 1000;

/// A text is none of the words that an alert is made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is none of {expected}")]
pub struct ParseAlertError {
    text: String,
    expected: &'static str,
}

/// Makes an enum of words whose names are stored and shown.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every one there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Stable name, as it is stored and shown.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.label())
            }
        }

        impl FromStr for $name {
            type Err = ParseAlertError;

            fn from_str(text: &str) -> Result<Self, ParseAlertError> {
                let found = Self::ALL.iter().copied().find(|it| it.label() == text);
                found.ok_or_else(|| ParseAlertError { text: text.chars().take(64).collect(), expected: $expected })
            }
        }
    };
}

words! {
    /// For how long an amount is.
    Period, "day, month and total",
    /// A day in UTC.
    Day = "day",
    /// A calendar month in UTC.
    Month = "month",
    /// The life of a deployment.
    Total = "total",
}

words! {
    /// What happens once the amount is spent.
    AlertAction, "notify, hold and terminate",
    /// Somebody is told.
    Notify = "notify",
    /// Nothing new is ordered; what runs goes on.
    Hold = "hold",
    /// Nothing new is ordered, and deployments are ended for good.
    Terminate = "terminate",
}

words! {
    /// What is told.
    AlertKind, "threshold, anomaly and test",
    /// So much of the amount is spent.
    Threshold = "threshold",
    /// A day costs much more than those before it.
    Anomaly = "anomaly",
    /// The operator tries the way of the message.
    Test = "test",
}

words! {
    /// How it stands with the message to a webhook.
    DeliveryState, "none, waiting, delivered, failed and dropped",
    /// There is no webhook.
    None = "none",
    /// It is tried, or tried again later.
    Waiting = "waiting",
    /// The receiver took it.
    Delivered = "delivered",
    /// It was tried as often as it is.
    Failed = "failed",
    /// It was not tried to the end: too many were waiting, or the alert was removed.
    Dropped = "dropped",
}

/// Whose costs count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everybody's.
    All,
    /// Those of one deployment.
    Deployment(DeploymentId),
    /// Those of one provider.
    Provider(String),
}

impl Scope {
    /// Whether costs of a machine of `deployment` at `provider` count.
    #[must_use]
    pub fn takes(&self, deployment: &DeploymentId, provider: &str) -> bool {
        match self {
            Self::All => true,
            Self::Deployment(own) => own == deployment,
            Self::Provider(own) => own == provider,
        }
    }

    /// Stable name of its kind: `all`, `deployment` or `provider`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Deployment(_) => "deployment",
            Self::Provider(_) => "provider",
        }
    }

    /// Which deployment or provider.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Deployment(id) => Some(id.as_str()),
            Self::Provider(name) => Some(name),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject() {
            Some(subject) => write!(f, "{} {subject}", self.label()),
            None => f.write_str(self.label()),
        }
    }
}

/// Where messages of an alert go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The receiver as it is shown: what follows the host of a URL often is a secret.
    pub shown: String,
    /// Its URL and the key that messages are signed with, sealed by the hub.
    pub sealed: String,
}

impl Hook {
    /// A URL as it is shown: without what comes after its host.
    #[must_use]
    pub fn shortened(url: &str) -> String {
        let after = url.find("://").map_or(0, |at| at + 3);
        let (scheme, rest) = url.split_at(after);
        match rest.split_once(['/', '?']) {
            Some((host, _)) => format!("{scheme}{host}/..."),
            None => url.to_owned(),
        }
    }
}

/// What the operator says of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertTerms {
    /// Whose costs count.
    pub scope: Scope,
    /// For how long the amount is.
    pub period: Period,
    /// What may be spent in it, in US dollars; more than zero.
    pub amount: Micros,
    /// At which parts of it somebody is told, in percent.
    pub thresholds: BTreeSet<u16>,
    /// What happens once it is spent.
    pub action: AlertAction,
    /// When a day is told as unusual; never where `None`.
    pub anomaly: Option<Anomaly>,
    /// Where messages go besides log and history.
    pub webhook: Option<Hook>,
}

/// An alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// What the operator calls it.
    pub name: String,
    /// What the operator says of it.
    pub terms: AlertTerms,
    /// Another number whenever its scope, its period or its amount changes: everything is told anew then.
    pub edition: u64,
    /// The period in which the operator called its action off.
    pub released: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub changed_at: Timestamp,
}

/// What was told, so that it is not told twice in one edition of an alert.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// What.
    pub kind: AlertKind,
    /// For which period: `2026-11-22`, `2026-11` or `total`.
    pub period: String,
    /// At which threshold, in percent; 0 for what has none.
    pub threshold: u16,
}

/// How it stands with the message of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Where it is.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next; `None` where it is not.
    pub next_at: Option<Timestamp>,
    /// Why the last try failed, one line; empty where none did.
    pub error: String,
}

/// First and longest pause between two tries to deliver a message, in seconds.
const PAUSE_SECS: (u64, u64) = (2, 3600);

/// How often a message is tried: for about half a day.
const MAX_ATTEMPTS: u32 = 24;

impl Delivery {
    /// That of a message that has nowhere to go, or is to go at once.
    #[must_use]
    pub const fn new(has_webhook: bool, now: Timestamp) -> Self {
        let (state, next_at) =
            if has_webhook { (DeliveryState::Waiting, Some(now)) } else { (DeliveryState::None, None) };
        Self { state, attempts: 0, next_at, error: String::new() }
    }

    /// The same after one more try, with what went wrong with it.
    #[must_use]
    pub fn tried(&self, result: Result<(), String>, now: Timestamp) -> Self {
        let attempts = self.attempts.saturating_add(1);
        match result {
            Ok(()) => Self { state: DeliveryState::Delivered, attempts, next_at: None, error: String::new() },
            Err(error) => {
                let error = error.chars().take(300).collect();
                if attempts >= MAX_ATTEMPTS {
                    return Self { state: DeliveryState::Failed, attempts, next_at: None, error };
                }
                let doubled =
                    PAUSE_SECS.0.saturating_mul(1u64.wrapping_shl(attempts.saturating_sub(1).min(20)));
                let pause = std::time::Duration::from_secs(doubled.min(PAUSE_SECS.1));
                Self { state: DeliveryState::Waiting, attempts, next_at: Some(now.plus(pause)), error }
            }
        }
    }
}

/// Something that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertEvent {
    /// Its number, never given twice.
    pub id: u64,
    /// Of which alert.
    pub alert: String,
    /// When.
    pub at: Timestamp,
    /// What that alert allowed then, in US dollars.
    pub amount: Micros,
    /// What it does once that is spent.
    pub action: AlertAction,
    /// What was found.
    pub finding: Finding,
    /// How it stands with its message.
    pub delivery: Delivery,
}
