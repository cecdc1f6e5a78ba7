//! A file that is imported: its bytes, and what is in it.

use std::io::Read;
use std::path::Path;

use blueprint_common_runtime::cli::CliError;
use blueprint_common_types::Secret;
use blueprint_hub_import_core::{MAX_BYTES, Report, Surroundings};

/// Name and bytes of a file, or of standard input for `-`; no more than can be understood.
pub(in crate::cmd) fn read(path: &Path) -> Result<(String, Vec<u8>), CliError> {
    let is_input = path.as_os_str() == "-";
    let label = if is_input { "standard input".to_owned() } else { path.display().to_string() };
    let failed = |error: std::io::Error| {
        let text = format!("cannot read {label}: {error}");
        let failed = if error.kind() == std::io::ErrorKind::NotFound {
            CliError::not_found(text)
        } else {
            CliError::failure(text)
        };
        failed.hint("name a file that this user may read, or - for standard input")
    };
    let source: Box<dyn Read> = if is_input {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    source.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok((label, bytes))
}

/// What is in a file, with the variables of this command's environment put in.
pub(in crate::cmd) fn understand(label: &str, bytes: &[u8]) -> Result<Report, CliError> {
    let variable = |name: &str| std::env::var(name).ok().map(Secret::new);
    let home = std::env::var("HOME").ok().filter(|home| !home.is_empty());
    let around = Surroundings { variable: &variable, home };
    // The name without its folders: `.env` is a name that is all ending.
    let name = Path::new(label)
        .file_name()
        .map_or_else(|| label.to_owned(), |name| name.to_string_lossy().into_owned());
    blueprint_hub_import_core::read(&name, bytes, &around).map_err(|error| {
        CliError::usage(format!("{label}: {error}"))
            .hint("docs/migration.md lists the files that are read; hosts with their keys are read by providers.ssh.hosts, \
                   deployments by `blueprint-hub apply`")
    })
}
