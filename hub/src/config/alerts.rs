//! Section `alerts`: how often costs are looked at, and where messages may go.

use std::path::PathBuf;
use std::time::Duration;

use blueprint_common_runtime::config::{Key, Problems, Settings};

use super::span;

pub(super) const EVERY: Key = Key::new(
    "alerts.every",
    "30s",
    "How often it is looked at what machines cost and have sent, 1 s to 10 min; holds do not wait for it.",
);
pub(super) const CA: Key = Key::unset(
    "alerts.webhook_ca",
    "PEM file with authorities that are trusted for webhooks besides the public ones (Mozilla's list).",
);
pub(super) const PRIVATE: Key = Key::new(
    "alerts.webhook_private_dangerously",
    "false",
    "Let webhooks have addresses that are not public, such as 10.1.2.3; those of metadata services and of the link never.",
);

/// How alerts are watched and delivered.
#[derive(Debug, Clone)]
pub(crate) struct AlertSettings {
    pub(crate) every: Duration,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) private_dangerously: bool,
}

impl AlertSettings {
    pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        let every = span(settings, EVERY.path, 1, 600, problems);
        let ca = settings.take_optional::<PathBuf>(CA.path, problems);
        let private_dangerously = settings.take::<bool>(PRIVATE.path, problems);
        Some(Self { every: every?, ca, private_dangerously: private_dangerously? })
    }
}
