//! What every manifest has to say.

use crate::{Member, Workspace};

/// Fields that every package inherits from the workspace.
const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];

/// Layers whose packages may use `anyhow`: elsewhere a caller must be able to tell errors apart.
const ANYHOW_LAYERS: [&str; 3] = ["binary", "test", "bench"];

/// Every rule that a member's manifest breaks.
#[must_use]
pub fn faults(workspace: &Workspace) -> Vec<String> {
    let mut faults: Vec<String> = workspace.members.iter().flat_map(member_faults).collect();
    faults.extend(root_faults(&workspace.manifest).into_iter().map(|fault| format!("Cargo.toml: {fault}")));
    faults
}

fn root_faults(manifest: &toml::Table) -> Vec<&'static str> {
    let at = |path: &[&str]| look_up(manifest, path);
    let mut faults = Vec::new();
    if manifest.contains_key("package") {
        faults.push("the top manifest is virtual");
    }
    if at(&["workspace", "package", "publish"]).and_then(toml::Value::as_bool) != Some(false) {
        faults.push("workspace.package.publish is not false");
    }
    if at(&["workspace", "lints", "rust", "unsafe_code"]).and_then(toml::Value::as_str) != Some("deny") {
        faults.push("unsafe_code is not denied");
    }
    faults
}

fn member_faults(member: &Member) -> Vec<String> {
    let at = |path: &[&str]| look_up(&member.manifest, path);
    let is_true = |path: &[&str]| at(path).and_then(toml::Value::as_bool) == Some(true);
    let mut faults = Vec::new();
    let mut check = |good: bool, fault: &str| {
        if !good {
            faults.push(format!("{}: {fault}", member.folder));
        }
    };
    let parts: Vec<&str> = member.folder.split('/').collect();
    check(member.name == format!("blueprint-{}", parts.join("-")), "its name is not its path");
    check(parts.len() <= 2, "it lies more than one level below a top folder");
    check(member.layer.is_some(), "[package.metadata] names no layer");
    check(is_true(&["lints", "workspace"]), "lints are not those of the workspace");
    for field in INHERITED {
        check(is_true(&["package", field, "workspace"]), &format!("{field} is not inherited"));
    }
    let description = at(&["package", "description"]).and_then(toml::Value::as_str).unwrap_or_default();
    check(!description.trim().is_empty(), "description is missing");
    check(!description.ends_with('.'), "description ends with a full stop");
    for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (name, value) in at(&[table]).and_then(toml::Value::as_table).into_iter().flatten() {
            let inherited = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
            check(inherited, &format!("{table}: {name} does not inherit its version"));
        }
    }
    let anyhow = member.dependencies.iter().any(|dependency| dependency.name == "anyhow");
    check(
        !anyhow || ANYHOW_LAYERS.iter().any(|layer| member.is_layer(layer)),
        "anyhow is for binaries and tests",
    );
    faults
}

fn look_up<'a>(table: &'a toml::Table, path: &[&str]) -> Option<&'a toml::Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dependency, Kind};

    const GOOD: &str = r#"
        [package]
        description = "Does one thing"
        version.workspace = true
        edition.workspace = true
        rust-version.workspace = true
        license.workspace = true
        publish.workspace = true
        [lints]
        workspace = true
        [dependencies]
        bytes.workspace = true
    "#;

    fn member(name: &str, manifest: &str) -> Member {
        Member {
            name: name.to_owned(),
            folder: "hub/x".to_owned(),
            layer: Some("driver".to_owned()),
            dependencies: Vec::new(),
            manifest: manifest.parse().unwrap_or_default(),
        }
    }

    #[test]
    fn a_good_manifest_passes() {
        assert_eq!(member_faults(&member("blueprint-hub-x", GOOD)), Vec::<String>::new());
    }

    #[test]
    fn each_fault_is_named() {
        let bad = GOOD
            .replace("version.workspace = true\n        edition", "version = \"1.0.0\"\n        edition")
            .replace("bytes.workspace = true", "bytes = \"1\"")
            .replace("one thing", "one thing.");
        let mut member = member("blueprint-x", &bad);
        member.layer = None;
        member.dependencies.push(Dependency { name: "anyhow".to_owned(), kind: Kind::Normal });
        assert_eq!(
            member_faults(&member),
            [
                "hub/x: its name is not its path",
                "hub/x: [package.metadata] names no layer",
                "hub/x: version is not inherited",
                "hub/x: description ends with a full stop",
                "hub/x: dependencies: bytes does not inherit its version",
                "hub/x: anyhow is for binaries and tests",
            ]
        );
    }
}
