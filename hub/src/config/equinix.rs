//! Section `providers.equinix`: there is nothing to switch on any more.

use blueprint_common_runtime::config::{Key, Problems, Settings};
use blueprint_hub_provision_core::catalogue::facts;

pub(super) const ENABLED: Key = Key::new(
    "providers.equinix.enabled",
    "false",
    "Equinix Metal ended on 2026-06-30: true is refused, with who sells the like.",
);

/// Refuses to switch it on.
pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<()> {
    if !settings.take::<bool>(ENABLED.path, problems)? {
        return Some(());
    }
    let ended = facts("equinix").and_then(|facts| facts.discontinued()).unwrap_or_default();
    let why = format!("{ended}; take it out, and order elsewhere: `blueprint-hub offers` says what there is");
    settings.refuse(ENABLED.path, &why, problems);
    None
}
