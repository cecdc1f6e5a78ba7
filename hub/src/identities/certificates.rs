//! Certificates with which clouds sign documents, from files of the operator.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use blueprint_hub_identity_core::aws::AwsRules;
use blueprint_hub_identity_core::azure::AzureRules;

use crate::config::{AwsIdentity, AzureIdentity};
use crate::proxy::certificates;

/// Most regions that a folder may hold; AWS has about 40.
const MAX_REGIONS: usize = 256;

/// The rules for documents of AWS with the certificates of its folder, one file `REGION.pem` each; `None` where it is not set.
pub(super) fn of_aws(settings: &AwsIdentity) -> Result<Option<AwsRules>> {
    let Some(folder) = &settings.certificates else { return Ok(None) };
    let named = || format!("join.identity.aws_certificates: {}", folder.display());
    let mut certificates = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(named)? {
        let path = entry.with_context(named)?.path();
        let Some(region) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".pem")) else {
            continue;
        };
        certificates.insert(region.to_owned(), read(&path)?);
        ensure!(
            certificates.len() <= MAX_REGIONS,
            "{} holds more than {MAX_REGIONS} files",
            folder.display()
        );
    }
    ensure!(
        !certificates.is_empty(),
        "{} holds no file REGION.pem (join.identity.aws_certificates)",
        folder.display()
    );
    Ok(Some(AwsRules {
        accounts: settings.accounts.clone(),
        regions: settings.regions.clone(),
        certificates,
        max_age: settings.max_age,
    }))
}

/// The rules for Azure with the authorities of its files.
pub(super) fn of_azure(settings: &AzureIdentity) -> Result<AzureRules> {
    let read = |path: Option<&std::path::PathBuf>| path.map(|path| read(path)).transpose();
    Ok(AzureRules {
        subscriptions: settings.subscriptions.clone(),
        roots: read(settings.roots.as_ref()).context("join.identity.azure_roots")?.unwrap_or_default(),
        intermediates: read(settings.intermediates.as_ref())
            .context("join.identity.azure_intermediates")?
            .unwrap_or_default(),
    })
}

fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    Ok(certificates(path)?.iter().map(|der| der.as_ref().to_vec()).collect())
}
