//! Before what machines stand behind is taken away.

use blueprint_common_types::HubId;
use blueprint_hub_provision_core::{Provider, ProviderError};

/// Refuses while the cloud lists machines of `hub`, or of any hub where none is named.
///
/// # Errors
///
/// [`ProviderError::Reject`] where there are some; else as the list.
pub async fn nothing_stands(provider: &dyn Provider, hub: Option<HubId>) -> Result<(), ProviderError> {
    let listed = provider.list().await?.instances;
    let is_in_the_way = |own: Option<HubId>| hub.is_none() || own == hub;
    let mut standing = listed.iter().filter(|one| is_in_the_way(one.tags.as_ref().map(|tags| tags.hub)));
    let Some(first) = standing.next() else { return Ok(()) };
    let count = standing.count() + 1;
    let noun = if count == 1 { "machine stands" } else { "machines stand" };
    Err(ProviderError::Reject {
        reason: format!("{count} {noun} there that need it, such as {}; end them first", first.key),
    })
}
