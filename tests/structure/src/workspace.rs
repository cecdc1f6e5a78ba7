//! The workspace as `cargo metadata` and its manifests describe it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Which build a dependency takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Linked into the package.
    Normal,
    /// Used by its build script.
    Build,
    /// Used by its tests only.
    Dev,
}

/// One line of a manifest's dependency tables.
#[derive(Debug, Clone)]
pub struct Dependency {
    /// Name of the package, not what it is renamed to.
    pub name: String,
    /// Which table it stands in.
    pub kind: Kind,
}

/// A package of this workspace.
#[derive(Debug, Clone)]
pub struct Member {
    /// Name of the package.
    pub name: String,
    /// Its folder below the root, with `/` between the parts.
    pub folder: String,
    /// What `[package.metadata] layer` says.
    pub layer: Option<String>,
    /// Everything it names, in this workspace or outside.
    pub dependencies: Vec<Dependency>,
    /// Its `Cargo.toml`.
    pub manifest: toml::Table,
}

impl Member {
    /// The first folder of its path: whom it may import depends on it.
    #[must_use]
    pub fn family(&self) -> &str {
        self.folder.split('/').next().unwrap_or_default()
    }

    /// Whether its layer is `layer`.
    #[must_use]
    pub fn is_layer(&self, layer: &str) -> bool {
        self.layer.as_deref() == Some(layer)
    }
}

/// What cargo knows about this workspace on this kind of machine.
#[derive(Debug)]
pub struct Workspace {
    /// Folder of the top manifest.
    pub root: PathBuf,
    /// The top manifest.
    pub manifest: toml::Table,
    /// The packages of the workspace, by folder.
    pub members: Vec<Member>,
    /// Package id to the ids of what is linked into it; dev and build dependencies are left out.
    pub linked: BTreeMap<String, BTreeSet<String>>,
    /// Package id to package name.
    pub names: BTreeMap<String, String>,
}

impl Workspace {
    /// Asks cargo about the workspace that this crate belongs to.
    ///
    /// The network is used only where the offline answer fails, which a build beforehand rules out.
    ///
    /// # Errors
    ///
    /// Fails where cargo does, where the lock file is not current, or where a manifest cannot be read.
    pub fn load() -> Result<Self> {
        let metadata = metadata(&["--offline"]).or_else(|_| metadata(&[]))?;
        let root = PathBuf::from(text(&metadata, "workspace_root")?);
        let manifest = read_toml(&root.join("Cargo.toml"))?;
        let wanted: BTreeSet<&str> =
            array(&metadata, "workspace_members")?.iter().filter_map(Value::as_str).collect();
        let mut members = Vec::new();
        let mut names = BTreeMap::new();
        for package in array(&metadata, "packages")? {
            let id = text(package, "id")?;
            names.insert(id.to_owned(), text(package, "name")?.to_owned());
            if wanted.contains(id) {
                members.push(member(&root, package)?);
            }
        }
        members.sort_by(|a, b| a.folder.cmp(&b.folder));
        let mut linked = BTreeMap::new();
        for node in array(metadata.get("resolve").unwrap_or(&Value::Null), "nodes")? {
            linked.insert(text(node, "id")?.to_owned(), linked_into(node)?);
        }
        Ok(Self { root, manifest, members, linked, names })
    }

    /// The member called `name`.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
}

/// Reads a TOML file.
///
/// # Errors
///
/// Fails where the file cannot be read or is no TOML; the text names the file.
pub fn read_toml(path: &Path) -> Result<toml::Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.parse().with_context(|| format!("{} is no TOML", path.display()))
}

fn metadata(more: &[&str]) -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", &host()?])
        .args(more)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// The target triple of this machine: packages of other systems need not be downloaded.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("rustc -vV names no host")?.to_owned())
}

fn member(root: &Path, package: &Value) -> Result<Member> {
    let path = PathBuf::from(text(package, "manifest_path")?);
    let folder = path.parent().and_then(|dir| dir.strip_prefix(root).ok()).context("outside the root")?;
    let mut dependencies = Vec::new();
    for dependency in array(package, "dependencies")? {
        let kind = match dependency.get("kind").and_then(Value::as_str) {
            None => Kind::Normal,
            Some("build") => Kind::Build,
            Some(_) => Kind::Dev,
        };
        dependencies.push(Dependency { name: text(dependency, "name")?.to_owned(), kind });
    }
    Ok(Member {
        name: text(package, "name")?.to_owned(),
        folder: folder.to_string_lossy().replace('\\', "/"),
        layer: package.pointer("/metadata/layer").and_then(Value::as_str).map(str::to_owned),
        dependencies,
        manifest: read_toml(&path)?,
    })
}

fn linked_into(node: &Value) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for dependency in array(node, "deps")? {
        let normal =
            array(dependency, "dep_kinds")?.iter().any(|kind| kind.get("kind").is_some_and(Value::is_null));
        if normal {
            ids.insert(text(dependency, "pkg")?.to_owned());
        }
    }
    Ok(ids)
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("cargo metadata has no text `{key}`"))
}

fn array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value.get(key).and_then(Value::as_array).with_context(|| format!("cargo metadata has no list `{key}`"))
}
