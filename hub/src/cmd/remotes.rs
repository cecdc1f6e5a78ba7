//! Places with a name that orders go to: `--remote NAME` and `--remote-config FILE`.

use std::path::Path;

use blueprint_common_runtime::cli::{CliError, Exit};
use blueprint_hub_import_core::{Remote, Remotes, provider_name};

use super::import::file;
use crate::cli::Global;
use crate::files;

/// The remotes that this hub keeps; none where it has no such file.
pub(super) fn kept(global: &Global) -> Result<Remotes, CliError> {
    let path = global.state()?.join(files::REMOTES);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Remotes::default()),
        Err(error) => return Err(CliError::failure(format!("cannot read {}: {error}", path.display()))),
    };
    Remotes::read(&text).map_err(|error| {
        CliError::new(Exit::Config, format!("{}: {error}", path.display())).hint(
            "mend the file, or move it away and import again; docs/migration.md shows what it looks like",
        )
    })
}

/// The place that the options name: of the file where one is given, else of the hub, else a provider of this name.
pub(super) fn find(
    global: &Global,
    name: Option<&str>,
    config: Option<&Path>,
) -> Result<Option<Remote>, CliError> {
    let (remote, name) = match (name, config) {
        (None, None) => return Ok(None),
        (name, Some(path)) => of_file(path, name)?,
        (Some(name), None) => match kept(global)?.remote.remove(name) {
            Some(remote) => (remote, name.to_owned()),
            None => (Remote::of(provider_name(name).unwrap_or(name)), name.to_owned()),
        },
    };
    if let Some(why) = &remote.unusable {
        return Err(CliError::usage(format!("nothing can be ordered at the remote {name}: {why}")));
    }
    Ok(Some(remote))
}

fn of_file(path: &Path, name: Option<&str>) -> Result<(Remote, String), CliError> {
    let (label, bytes) = file::read(path)?;
    // Our own form first: a file that a hub has written.
    let own = std::str::from_utf8(&bytes).ok().and_then(|text| Remotes::read(text).ok());
    let mut remotes = match own.filter(|own| !own.remote.is_empty()) {
        Some(own) => own.remote,
        None => file::understand(&label, &bytes)?.remotes,
    };
    let names: Vec<String> = remotes.keys().cloned().collect();
    let name = match (name, names.as_slice()) {
        (Some(name), _) => name.to_owned(),
        (None, [one]) => one.clone(),
        (None, _) => {
            return Err(CliError::usage(format!("{label} has {} remotes", names.len()))
                .hint(format!("name one with --remote: {}", names.join(", "))));
        }
    };
    match remotes.remove(&name) {
        Some(remote) => Ok((remote, name)),
        None => Err(CliError::not_found(format!("{label} has no remote {name}"))
            .hint(format!("it has {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") }))),
    }
}
