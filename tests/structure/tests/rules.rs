//! The rules, applied to this repository.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use blueprint_tests_structure::{
    Workspace, cores, files, layers, links, lockfile, manifests, read_toml, source,
};

/// Turns what a check found into a failure that lists all of it.
fn none(what: &str, found: impl IntoIterator<Item = String>) -> Result<()> {
    let found: Vec<String> = found.into_iter().collect();
    ensure!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
    Ok(())
}

#[test]
fn dependencies_follow_the_layers() -> Result<()> {
    none("imports against the layer table", layers::broken_edges(&Workspace::load()?))
}

#[test]
fn no_core_reaches_a_runtime_or_a_socket() -> Result<()> {
    let mut workspace = Workspace::load()?;
    none("cores that reach I/O", cores::reach_io(&workspace))?;
    // The same search has to find the way of a crate that is known to have one.
    for member in workspace.members.iter_mut().filter(|member| member.folder == "hub/proxy") {
        member.layer = Some("core".to_owned());
    }
    ensure!(cores::reach_io(&workspace).iter().any(|path| path.contains("-> tokio")), "the search is blind");
    Ok(())
}

#[test]
fn all_cores_carry_the_same_clippy_rules() -> Result<()> {
    let workspace = Workspace::load()?;
    none("clippy files", cores::clippy_differences(&workspace))?;
    let core = cores::cores(&workspace).next().context("there is no core")?;
    let root = read_toml(&workspace.root.join(".clippy.toml"))?;
    let own = read_toml(&cores::clippy_file(&workspace.root, &core.folder))?;
    none("rules of the root that the cores' file lost", cores::forgotten_bans(&root, &own))
}

#[test]
fn every_manifest_is_complete() -> Result<()> {
    none("manifests", manifests::faults(&Workspace::load()?))
}

#[test]
fn the_top_level_holds_only_what_belongs_there() -> Result<()> {
    let workspace = Workspace::load()?;
    none("strangers at the top", files::strangers_at_the_top(&files::list(&workspace.root)?))
}

#[test]
#[expect(clippy::print_stdout, reason = "the ten longest files are a report")]
fn files_stay_short() -> Result<()> {
    let workspace = Workspace::load()?;
    let lengths = files::lengths(&workspace.root, &files::list(&workspace.root)?)?;
    for (path, lines) in lengths.iter().take(10) {
        println!("{lines:5}  {path}");
    }
    none("files to split", files::too_long(&lengths))
}

#[test]
fn scripts_can_be_run() -> Result<()> {
    let workspace = Workspace::load()?;
    let paths = files::list(&workspace.root)?;
    none("scripts without a run bit", files::scripts_without_run_bit(&workspace.root, &paths)?)
}

#[test]
fn unchecked_code_has_one_home() -> Result<()> {
    let workspace = Workspace::load()?;
    let mut found = Vec::new();
    for path in files::list(&workspace.root)?.iter().filter(|path| path.ends_with(".rs")) {
        found.extend(source::unchecked_code(path, &read(&workspace, path)?));
    }
    none("code that the compiler does not check", found)
}

#[test]
fn links_in_pages_lead_somewhere() -> Result<()> {
    let workspace = Workspace::load()?;
    let mut pages = BTreeMap::new();
    for path in files::list(&workspace.root)?.into_iter().filter(|path| links::is_page(path)) {
        let text = read(&workspace, &path)?;
        pages.insert(path, text);
    }
    none("broken links", links::broken(&pages, |path| workspace.root.join(path).exists()))
}

#[test]
fn the_number_of_packages_stays_in_its_budget() -> Result<()> {
    let packages = lockfile::packages(&read_toml(&Workspace::load()?.root.join("Cargo.lock"))?)?;
    let (count, budget) = (packages.len(), lockfile::BUDGET);
    ensure!(count <= budget, "Cargo.lock holds {count} packages, the budget is {budget}");
    Ok(())
}

#[test]
fn packages_come_from_one_registry_and_above_their_floors() -> Result<()> {
    let workspace = Workspace::load()?;
    let packages = lockfile::packages(&read_toml(&workspace.root.join("Cargo.lock"))?)?;
    none("packages from elsewhere", lockfile::foreign(&packages))?;
    none("refused packages", lockfile::refused(&packages, &read_toml(&workspace.root.join(".deny.toml"))?))
}

fn read(workspace: &Workspace, path: &str) -> Result<String> {
    std::fs::read_to_string(workspace.root.join(path)).with_context(|| format!("cannot read {path}"))
}
