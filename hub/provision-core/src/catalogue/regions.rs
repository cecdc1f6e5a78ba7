//! Where regions are, so that one word finds them at every provider.

/// Where a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Part of a country or continent, the same word for every provider: `us-east`, `eu-west`, ...
    pub name: &'static str,
    /// Country, by its ISO 3166 code in lower case.
    pub country: &'static str,
    /// Continent: `na`, `sa`, `eu`, `as`, `oc`.
    pub continent: &'static str,
}

/// Provider, region, the name that the product's specification gives it, area, country, continent.
pub(crate) type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const REGIONS: &[Row] = &[
    ("aws", "us-east-1", "", "us-east", "us", "na"),
    ("aws", "us-west-2", "", "us-west", "us", "na"),
    ("aws", "eu-west-1", "", "eu-west", "ie", "eu"),
    ("aws", "eu-central-1", "", "eu-central", "de", "eu"),
    ("aws", "ap-southeast-1", "", "ap-southeast", "sg", "as"),
    ("aws", "ap-northeast-1", "", "ap-northeast", "jp", "as"),
    ("azure", "eastus", "", "us-east", "us", "na"),
    ("azure", "eastus2", "", "us-east", "us", "na"),
    ("azure", "centralus", "", "us-central", "us", "na"),
    ("azure", "westus2", "", "us-west", "us", "na"),
    ("azure", "westus3", "", "us-west", "us", "na"),
    ("azure", "canadacentral", "", "ca-central", "ca", "na"),
    ("azure", "brazilsouth", "", "sa-east", "br", "sa"),
    ("azure", "northeurope", "", "eu-west", "ie", "eu"),
    ("azure", "westeurope", "", "eu-west", "nl", "eu"),
    ("azure", "uksouth", "", "eu-west", "gb", "eu"),
    ("azure", "francecentral", "", "eu-west", "fr", "eu"),
    ("azure", "germanywestcentral", "", "eu-central", "de", "eu"),
    ("azure", "swedencentral", "", "eu-north", "se", "eu"),
    ("azure", "centralindia", "", "ap-south", "in", "as"),
    ("azure", "southeastasia", "", "ap-southeast", "sg", "as"),
    ("azure", "japaneast", "", "ap-northeast", "jp", "as"),
    ("azure", "australiaeast", "", "au-east", "au", "oc"),
    ("digitalocean", "nyc1", "", "us-east", "us", "na"),
    ("digitalocean", "nyc3", "", "us-east", "us", "na"),
    ("digitalocean", "sfo3", "", "us-west", "us", "na"),
    ("digitalocean", "lon1", "", "eu-west", "gb", "eu"),
    ("digitalocean", "fra1", "", "eu-central", "de", "eu"),
    ("digitalocean", "sgp1", "", "ap-southeast", "sg", "as"),
    ("digitalocean", "tor1", "", "ca-central", "ca", "na"),
    ("digitalocean", "ams3", "", "eu-west", "nl", "eu"),
    ("equinix", "da", "", "us-central", "us", "na"),
    ("equinix", "sv", "", "us-west", "us", "na"),
    ("equinix", "ny", "", "us-east", "us", "na"),
    ("equinix", "am", "", "eu-west", "nl", "eu"),
    ("equinix", "sg", "", "ap-southeast", "sg", "as"),
    ("equinix", "ty", "", "ap-northeast", "jp", "as"),
    ("equinix", "fr", "", "eu-central", "de", "eu"),
    ("gcp", "us-central1", "", "us-central", "us", "na"),
    ("gcp", "asia-east1", "", "ap-east", "tw", "as"),
    ("gcp", "asia-east2", "", "ap-east", "hk", "as"),
    ("gcp", "asia-northeast1", "", "ap-northeast", "jp", "as"),
    ("gcp", "asia-northeast2", "", "ap-northeast", "jp", "as"),
    ("gcp", "asia-northeast3", "", "ap-northeast", "kr", "as"),
    ("gcp", "asia-south1", "", "ap-south", "in", "as"),
    ("gcp", "asia-southeast1", "", "ap-southeast", "sg", "as"),
    ("gcp", "asia-southeast2", "", "ap-southeast", "id", "as"),
    ("gcp", "australia-southeast1", "", "au-east", "au", "oc"),
    ("gcp", "europe-north1", "", "eu-north", "fi", "eu"),
    ("gcp", "europe-west1", "", "eu-west", "be", "eu"),
    ("gcp", "europe-west2", "", "eu-west", "gb", "eu"),
    ("gcp", "europe-west3", "", "eu-central", "de", "eu"),
    ("gcp", "europe-west4", "", "eu-west", "nl", "eu"),
    ("gcp", "europe-west6", "", "eu-central", "ch", "eu"),
    ("gcp", "northamerica-northeast1", "", "ca-central", "ca", "na"),
    ("gcp", "southamerica-east1", "", "sa-east", "br", "sa"),
    ("gcp", "us-east1", "", "us-east", "us", "na"),
    ("gcp", "us-east4", "", "us-east", "us", "na"),
    ("gcp", "us-west1", "", "us-west", "us", "na"),
    ("gcp", "us-west2", "", "us-west", "us", "na"),
    ("gcp", "us-west3", "", "us-west", "us", "na"),
    ("gcp", "us-west4", "", "us-west", "us", "na"),
    ("hivelocity", "ATL2", "atlanta", "us-east", "us", "na"),
    ("hivelocity", "TPA1", "tampa", "us-east", "us", "na"),
    ("hivelocity", "LAX2", "los-angeles", "us-west", "us", "na"),
    ("hivelocity", "NYC1", "new-york", "us-east", "us", "na"),
    ("hivelocity", "MIA1", "miami", "us-east", "us", "na"),
    ("linode", "us-east", "", "us-east", "us", "na"),
    ("linode", "us-west", "", "us-west", "us", "na"),
    ("linode", "us-central", "", "us-central", "us", "na"),
    ("linode", "us-southeast", "", "us-east", "us", "na"),
    ("linode", "eu-west", "", "eu-west", "gb", "eu"),
    ("linode", "eu-central", "", "eu-central", "de", "eu"),
    ("linode", "ap-south", "", "ap-southeast", "sg", "as"),
    ("linode", "ap-northeast", "", "ap-northeast", "jp", "as"),
    // The specification's `au-sydney` does not exist: Sydney is `ap-southeast` there.
    ("linode", "ap-southeast", "au-sydney", "au-east", "au", "oc"),
    ("linode", "ca-central", "", "ca-central", "ca", "na"),
    ("scaleway", "fr-par-1", "par1", "eu-west", "fr", "eu"),
    ("scaleway", "fr-par-2", "par2", "eu-west", "fr", "eu"),
    ("scaleway", "fr-par-3", "", "eu-west", "fr", "eu"),
    ("scaleway", "nl-ams-1", "ams1", "eu-west", "nl", "eu"),
    ("scaleway", "nl-ams-2", "ams2", "eu-west", "nl", "eu"),
    ("scaleway", "nl-ams-3", "", "eu-west", "nl", "eu"),
    ("scaleway", "pl-waw-1", "waw1", "eu-central", "pl", "eu"),
    ("scaleway", "pl-waw-2", "", "eu-central", "pl", "eu"),
    ("scaleway", "pl-waw-3", "", "eu-central", "pl", "eu"),
    ("vultr", "ewr", "", "us-east", "us", "na"),
    ("vultr", "ord", "", "us-central", "us", "na"),
    ("vultr", "dfw", "", "us-central", "us", "na"),
    ("vultr", "sea", "", "us-west", "us", "na"),
    ("vultr", "lax", "", "us-west", "us", "na"),
    ("vultr", "ams", "", "eu-west", "nl", "eu"),
    ("vultr", "fra", "", "eu-central", "de", "eu"),
    ("vultr", "sgp", "", "ap-southeast", "sg", "as"),
    ("vultr", "syd", "", "au-east", "au", "oc"),
];

/// The region that what a provider calls a region belongs to: at Scaleway machines are ordered in zones, of which a region has
/// several.
#[must_use]
pub fn region_of<'a>(provider: &str, name: &'a str) -> &'a str {
    let zone = name.rsplit_once('-').filter(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
    zone.filter(|_| provider == "scaleway").map_or(name, |(region, _)| region)
}

/// The known regions of `provider`, by its own names.
pub(super) fn of(provider: &str) -> impl Iterator<Item = &'static str> {
    REGIONS.iter().filter(move |row| row.0 == provider).map(|row| row.1)
}

/// Where a region is; `None` where that is not known.
#[must_use]
pub fn area_of(provider: &str, region: &str) -> Option<Area> {
    let row = row_of(provider, region)?;
    Some(Area { name: row.3, country: row.4, continent: row.5 })
}

/// What is known of a region.
pub(super) fn row_of(provider: &str, region: &str) -> Option<&'static Row> {
    REGIONS.iter().find(|row| row.0 == provider && row.1 == region)
}

/// Whether `region` of `provider` is what `wanted` means: its name, the name that the product's specification gives it,
/// an area (`us-east`), a country (`de`) or a continent (`eu`). A provider's own name goes first: at Linode `eu-west` is
/// one region, not the area.
#[must_use]
pub fn region_matches(provider: &str, region: &str, wanted: &str) -> bool {
    Word::at(provider, wanted).means(region, row_of(provider, region))
}

/// A word for regions, as one provider understands it.
#[derive(Debug)]
pub(crate) struct Word<'a> {
    /// As it was written.
    pub(crate) text: &'a str,
    is_own: bool,
}

impl<'a> Word<'a> {
    /// The word at `provider`.
    pub(crate) fn at(provider: &str, text: &'a str) -> Self {
        Self { text, is_own: of(provider).any(|own| own == text) }
    }

    /// Whether it means `region`, of which `row` is known.
    pub(crate) fn means(&self, region: &str, row: Option<&Row>) -> bool {
        let is_wide = !self.is_own && !self.text.is_empty();
        let is_in = |row: &Row| [row.2, row.3, row.4, row.5].contains(&self.text);
        region == self.text || (is_wide && row.is_some_and(is_in))
    }
}

/// Whether `wanted` is a word that finds a region anywhere.
pub(crate) fn is_known(wanted: &str) -> bool {
    REGIONS.iter().any(|row| [row.1, row.2, row.3, row.4, row.5].contains(&wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_finds_regions_everywhere() {
        for (provider, region) in [
            ("aws", "us-east-1"),
            ("azure", "eastus"),
            ("digitalocean", "nyc1"),
            ("linode", "us-east"),
            ("vultr", "ewr"),
        ] {
            assert!(region_matches(provider, region, "us-east"), "{provider} {region}");
            assert!(region_matches(provider, region, "us") && region_matches(provider, region, "na"));
            assert!(!region_matches(provider, region, "us-west") && !region_matches(provider, region, "eu"));
        }
        assert!(region_matches("hivelocity", "ATL2", "atlanta"));
        assert!(region_matches("linode", "ap-southeast", "au-sydney"));
        assert!(region_matches("scaleway", "fr-par-1", "par1"));
        assert!(!region_matches("aws", "us-east-1", ""));
        assert!(!region_matches("aws", "unheard-of", "us-east"));
        assert!(region_matches("sim", "here", "here"));
        assert_eq!(area_of("vultr", "fra").map(|area| area.country), Some("de"));
    }

    #[test]
    fn a_provider_s_own_name_means_that_region_alone() {
        assert!(region_matches("linode", "us-east", "us-east"));
        assert!(!region_matches("linode", "us-southeast", "us-east"));
    }
}
