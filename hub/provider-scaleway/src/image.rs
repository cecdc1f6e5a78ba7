//! Which image a machine boots: the id that a label has in a zone, for its processor.

use blueprint_hub_provision_core::{InstanceSpec, ProviderError};
use serde::Deserialize;

use crate::api::{Api, Call, Rows, call, rights};

pub(crate) const IMAGES: Call = call("ListLocalImages", rights::NONE);

#[derive(Debug, Deserialize)]
struct LocalImage {
    id: String,
    #[serde(default)]
    arch: String,
    #[serde(default)]
    compatible_commercial_types: Vec<String>,
}

#[derive(Deserialize)]
struct LocalImages {
    local_images: Vec<LocalImage>,
    total_count: usize,
}

impl Rows for LocalImages {
    type Row = LocalImage;
    const SIZE: &'static str = "page_size";

    fn rows(self) -> Vec<LocalImage> {
        self.local_images
    }

    fn total(&self) -> Option<usize> {
        Some(self.total_count)
    }

    fn id(row: &LocalImage) -> String {
        row.id.clone()
    }
}

/// The id of the image with this label that `spec` can boot from a block volume. What is an id already is taken as it is.
///
/// # Errors
///
/// [`ProviderError::Reject`] where the zone has no such label, [`ProviderError::NotSold`] where it has none for the plan.
pub(crate) async fn find(api: &Api, label: &str, spec: &InstanceSpec) -> Result<String, ProviderError> {
    if is_id(label) {
        return Ok(label.to_owned());
    }
    let zone = &spec.region;
    let path = format!("/marketplace/v2/local-images?image_label={label}&zone={zone}&type=instance_sbs");
    let (images, _) = api.list::<LocalImages>(IMAGES, &path, true).await?;
    if images.is_empty() {
        return Err(ProviderError::Reject {
            reason: format!(
                "{zone} has no image {label}; set providers.scaleway.image to a label that it has"
            ),
        });
    }
    let arch = spec.arch.as_str();
    let fits =
        |image: &&LocalImage| image.arch == arch && image.compatible_commercial_types.contains(&spec.plan);
    let found = images.iter().find(fits).ok_or_else(|| ProviderError::NotSold {
        what: format!("{} ({arch}) in {zone} with the image {label}", spec.plan),
    })?;
    Ok(found.id.clone())
}

/// True for a UUID.
fn is_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}
