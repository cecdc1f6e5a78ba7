//! `deploy --package`: a program that runs on the machines that were ordered.

use std::path::{Path, PathBuf};
use std::time::Duration;

use blueprint_common_runtime::cli::{CliError, Output, eprint_line, print_json, print_line};
use blueprint_common_types::ServiceKey;
use serde_json::{Map, Value, json};

use crate::cli::Global;
use crate::cmd::client::{rows, text};
use crate::cmd::deployment::show;
use crate::cmd::{artefact, workload};

/// The file of a package: a path, or what Cargo has built of a package of this name. It is looked for before anything is ordered.
pub(super) fn find(package: &str) -> Result<PathBuf, CliError> {
    let path = Path::new(package);
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let is_name = package.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if path.exists() || !is_name || package.is_empty() {
        return Err(CliError::not_found(format!("{package:?} is no file, and no name of a package"))
            .hint("name a program, an archive with one, or a Cargo package that was built here"));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let built = target.join("release").join(package);
    if built.is_file() {
        return Ok(built);
    }
    Err(CliError::not_found(format!("there is neither a file {package} nor {}", built.display())).hint(
        format!("build it first with `cargo build --release -p {package}`, in the folder of its workspace"),
    ))
}

/// Gives the file to the hub, has one of the deployment's machines run it as this service, with the rest of its document, and shows both.
pub(super) fn run(
    global: &Global,
    file: &Path,
    (service, document): (ServiceKey, Map<String, Value>),
    deployment: &Value,
    within: Duration,
) -> Result<(), CliError> {
    let nodes: Vec<String> = rows(deployment, "instances")
        .iter()
        .filter_map(|machine| machine.pointer("/node/id").and_then(Value::as_str).map(str::to_owned))
        .collect();
    let id = text(deployment, "id");
    if nodes.is_empty() {
        return Err(CliError::failure(format!("no machine of deployment {id} has joined"))
            .hint(format!("`blueprint-hub deployment show {id}` says why")));
    }
    let (sha256, _) = artefact::give(global, file)?;
    if nodes.len() > 1 {
        eprint_line(&format!(
            "{service} runs on one of the {} machines; another of them takes it where that is away",
            nodes.len()
        ));
    }
    let started = workload::pushed(global, service, sha256, (nodes, document), within);
    let workload = started.map_err(|error| {
        let hint = format!("the machines stand; `blueprint-hub deployment terminate {id}` ends them");
        match error.hint.clone() {
            Some(own) => error.hint(format!("{own}; {hint}")),
            None => error.hint(hint),
        }
    })?;
    match global.output {
        Output::Json => print_json(&json!({ "deployment": deployment, "workload": workload })),
        Output::Table => {
            show(global, deployment);
            print_line(&format!("{service} is {}", text(&workload, "state")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_a_file_or_what_was_built() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("demo.tar.gz");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(find(&file.display().to_string()).unwrap(), file);
        let error = find("no-such-package").unwrap_err();
        assert!(error.hint.is_some_and(|hint| hint.contains("cargo build --release -p no-such-package")));
        assert!(find("../x; y").unwrap_err().message.contains("no name of a package"));
        assert!(find(&folder.path().display().to_string()).is_err());
    }
}
