//! How Azure is used.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{CredentialSource, HttpClient};
use blueprint_hub_provision_core::resource::Arch;
use serde_json::{Value, json};

/// Where Azure Resource Manager is.
pub const ENDPOINT: &str = "https://management.azure.com";

/// Where applications sign in.
pub const LOGIN_ENDPOINT: &str = "https://login.microsoftonline.com";

/// Where a machine of Azure asks about itself.
pub const METADATA_ENDPOINT: &str = "http://169.254.169.254";

/// Where Azure gives its prices to anybody.
pub const PRICES_ENDPOINT: &str = "https://prices.azure.com";

/// What the provider is made of.
#[derive(Clone)]
pub struct AzureConfig {
    /// Whose machines they are.
    pub hub: HubId,
    /// Regions that machines are ordered in, such as `westeurope`; at least one.
    pub regions: Vec<String>,
    /// The resource group that all is made in; `blueprint-hub-ID` where not said. No other hub may have the same.
    pub group: Option<String>,
    /// Image of machines with x86-64 processors. It has to run cloud-init, and to be of generation 2.
    pub image: Image,
    /// The same for machines with arm64 processors.
    pub image_arm64: Image,
    /// Whether spot machines are offered.
    pub spot: bool,
    /// Scheme and host of Azure Resource Manager; [`ENDPOINT`] but in tests.
    pub endpoint: String,
    /// Scheme and host of the sign-in; [`LOGIN_ENDPOINT`] but in tests.
    pub login_endpoint: String,
    /// Scheme and host of the metadata service; [`METADATA_ENDPOINT`] but in tests.
    pub metadata_endpoint: String,
    /// Scheme and host of the public price list; [`PRICES_ENDPOINT`] but in tests.
    pub prices_endpoint: String,
    /// Where credentials come from: the fields of [`blueprint_hub_provider_kit::AZURE`].
    pub credentials: Arc<dyn CredentialSource>,
    /// What calls.
    pub http: HttpClient,
    /// How long what Azure took on is followed; see [`AzureConfig::FOLLOW`].
    pub follow_within: Duration,
}

impl AzureConfig {
    /// How long a creation is followed by default: refusals for want of capacity mostly come in the first seconds, and
    /// a call of the provisioner has 30 s.
    pub const FOLLOW: Duration = Duration::from_secs(12);

    /// Machines in these regions, with the public endpoints, Ubuntu 24.04 and no spot machines.
    #[must_use]
    pub fn new(
        hub: HubId,
        regions: Vec<String>,
        credentials: Arc<dyn CredentialSource>,
        http: HttpClient,
    ) -> Self {
        Self {
            hub,
            regions,
            group: None,
            image: Image::ubuntu("server"),
            image_arm64: Image::ubuntu("server-arm64"),
            spot: false,
            endpoint: ENDPOINT.to_owned(),
            login_endpoint: LOGIN_ENDPOINT.to_owned(),
            metadata_endpoint: METADATA_ENDPOINT.to_owned(),
            prices_endpoint: PRICES_ENDPOINT.to_owned(),
            credentials,
            http,
            follow_within: Self::FOLLOW,
        }
    }

    /// The name of the resource group.
    pub(crate) fn group(&self) -> String {
        self.group.clone().unwrap_or_else(|| format!("blueprint-hub-{}", self.hub))
    }

    /// The image for this kind of processor.
    pub(crate) const fn image_for(&self, arch: Arch) -> &Image {
        match arch {
            Arch::X86_64 => &self.image,
            Arch::Arm64 => &self.image_arm64,
        }
    }
}

impl fmt::Debug for AzureConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureConfig")
            .field("endpoint", &self.endpoint)
            .field("regions", &self.regions)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

/// A text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no image: PUBLISHER:OFFER:SKU:VERSION, or /subscriptions/... of an own one, was expected")]
pub struct ParseImageError(String);

/// An image: one of the marketplace, or an own one by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// Publisher, offer, SKU and version.
    Market([String; 4]),
    /// The id of an image, or of one in a gallery, from `/subscriptions/` on.
    Own(String),
}

impl Image {
    /// Canonical's image of Ubuntu 24.04, of generation 2.
    fn ubuntu(sku: &str) -> Self {
        Self::Market(["Canonical", "ubuntu-24_04-lts", sku, "latest"].map(str::to_owned))
    }

    /// As the document of a machine names it.
    pub(crate) fn reference(&self) -> Value {
        match self {
            Self::Market([publisher, offer, sku, version]) => {
                json!({ "publisher": publisher, "offer": offer, "sku": sku, "version": version })
            }
            Self::Own(id) => json!({ "id": id }),
        }
    }
}

impl FromStr for Image {
    type Err = ParseImageError;

    fn from_str(text: &str) -> Result<Self, ParseImageError> {
        let wrong = || ParseImageError(text.chars().take(64).collect());
        let is_plain = |part: &str| {
            let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !part.is_empty() && part.len() <= 80 && part.bytes().all(is_of_name)
        };
        if let Some(path) = text.strip_prefix("/subscriptions/") {
            let is_path = path.split('/').all(|part| is_plain(part) && part != "." && part != "..");
            return if is_path { Ok(Self::Own(text.to_owned())) } else { Err(wrong()) };
        }
        let parts: Vec<_> = text.split(':').map(str::to_owned).collect();
        let parts: [String; 4] = parts.try_into().map_err(|_| wrong())?;
        if parts.iter().all(|part| is_plain(part)) { Ok(Self::Market(parts)) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_the_market_and_own_ones_are_read() {
        let market: Image = "Debian:debian-13:13-gen2:latest".parse().unwrap();
        assert_eq!(market.reference()["sku"], "13-gen2");
        let id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Compute/images/x";
        assert_eq!(id.parse::<Image>().unwrap().reference(), json!({ "id": id }));
        for wrong in ["", "Debian", "a:b:c", "a:b:c:d:e", "a:b::d", "a:b:c:d e", "/subscriptions/../x", "/x"]
        {
            assert!(wrong.parse::<Image>().unwrap_err().to_string().contains("PUBLISHER"), "{wrong}");
        }
    }
}
