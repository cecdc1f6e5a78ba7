//! Who may import whom (ARCHITECTURE.md, "Layers"): the manifests against `[workspace.metadata.layers]`.

use crate::{Kind, Member, Workspace};

/// Layers that nothing outside `test` and `bench` may import.
const TOPMOST: [&str; 3] = ["binary", "test", "bench"];

/// The helper crate that any package may use in its tests.
const SUPPORT: &str = "tests/support";

/// Compares every dependency between members with the table in the top manifest.
#[must_use]
pub fn broken_edges(workspace: &Workspace) -> Vec<String> {
    let mut broken = Vec::new();
    for member in &workspace.members {
        let Some(allowed) = allowed(&workspace.manifest, member) else {
            broken.push(format!("{}: its layer {:?} is not in the layer table", member.folder, member.layer));
            continue;
        };
        for dependency in &member.dependencies {
            let Some(other) = workspace.member(&dependency.name) else { continue };
            if !is_allowed(member, other, dependency.kind, &allowed) {
                broken.push(format!(
                    "{} ({}) must not import {} ({})",
                    member.folder,
                    member.layer.as_deref().unwrap_or("-"),
                    other.folder,
                    other.layer.as_deref().unwrap_or("-")
                ));
            }
        }
    }
    broken
}

fn allowed(manifest: &toml::Table, member: &Member) -> Option<Vec<String>> {
    let layers = manifest.get("workspace")?.get("metadata")?.get("layers")?;
    let row = layers.get(member.layer.as_deref()?)?.as_array()?;
    Some(row.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect())
}

/// Tests may also use their own family and `common`, as far as those are libraries, and `tests/support`.
fn is_allowed(member: &Member, other: &Member, kind: Kind, allowed: &[String]) -> bool {
    let same_family = member.family() == other.family();
    let in_common = other.family() == "common";
    let in_tests_only = kind == Kind::Dev
        && (other.folder == SUPPORT
            || ((same_family || in_common) && !TOPMOST.iter().any(|layer| other.is_layer(layer))));
    in_tests_only
        || allowed.iter().any(|entry| match entry.as_str() {
            "anything" => true,
            "provision-core" => other.folder == "hub/provision-core",
            entry => match entry.split_once('-') {
                Some(("own", layer)) => same_family && other.is_layer(layer),
                Some(("common", layer)) => in_common && other.is_layer(layer),
                _ => other.is_layer(entry),
            },
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Dependency;

    const TABLE: &str = r#"
        [workspace.metadata.layers]
        types = []
        core = ["types"]
        driver = ["types", "own-core", "common-driver"]
        kit = ["types", "provision-core"]
        plugin = ["types", "provision-core", "own-kit"]
        test = ["anything"]
    "#;

    fn member(folder: &str, layer: &str, dependencies: &[(&str, Kind)]) -> Member {
        let dependency = |&(name, kind): &(&str, Kind)| Dependency { name: name.to_owned(), kind };
        Member {
            name: folder.to_owned(),
            folder: folder.to_owned(),
            layer: Some(layer.to_owned()),
            dependencies: dependencies.iter().map(dependency).collect(),
            manifest: toml::Table::new(),
        }
    }

    #[track_caller]
    fn check(edge: (Member, Member), expected: &[&str]) {
        let workspace = Workspace {
            root: "/".into(),
            manifest: TABLE.parse().unwrap_or_default(),
            members: vec![edge.0, edge.1],
            linked: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        assert_eq!(broken_edges(&workspace), expected);
    }

    #[test]
    fn a_driver_may_import_its_own_core_only() {
        let driver =
            || member("hub/x", "driver", &[("hub/x-core", Kind::Normal), ("agent/y-core", Kind::Normal)]);
        check((driver(), member("hub/x-core", "core", &[])), &[]);
        check(
            (driver(), member("agent/y-core", "core", &[])),
            &["hub/x (driver) must not import agent/y-core (core)"],
        );
    }

    #[test]
    fn a_core_never_imports_a_core_but_in_its_tests() {
        let core = |kind| member("hub/x-core", "core", &[("hub/y-core", kind)]);
        let other = || member("hub/y-core", "core", &[]);
        check((core(Kind::Normal), other()), &["hub/x-core (core) must not import hub/y-core (core)"]);
        check((core(Kind::Build), other()), &["hub/x-core (core) must not import hub/y-core (core)"]);
        check((core(Kind::Dev), other()), &[]);
    }

    #[test]
    fn tests_of_one_family_do_not_reach_into_another() {
        let core = member("agent/x-core", "core", &[("hub/y-core", Kind::Dev)]);
        check(
            (core, member("hub/y-core", "core", &[])),
            &["agent/x-core (core) must not import hub/y-core (core)"],
        );
    }

    #[test]
    fn a_plugin_may_import_the_provider_trait() {
        let plugin = member("hub/provider-x", "plugin", &[("hub/provision-core", Kind::Normal)]);
        check((plugin, member("hub/provision-core", "core", &[])), &[]);
    }

    #[test]
    fn plugins_share_a_kit_and_never_each_other() {
        let plugin = |other| member("hub/provider-x", "plugin", &[(other, Kind::Normal)]);
        check((plugin("hub/provider-kit"), member("hub/provider-kit", "kit", &[])), &[]);
        check(
            (plugin("hub/provider-y"), member("hub/provider-y", "plugin", &[])),
            &["hub/provider-x (plugin) must not import hub/provider-y (plugin)"],
        );
        let kit = member("hub/provider-kit", "kit", &[("hub/provider-y", Kind::Normal)]);
        check(
            (kit, member("hub/provider-y", "plugin", &[])),
            &["hub/provider-kit (kit) must not import hub/provider-y (plugin)"],
        );
    }

    #[test]
    fn support_is_for_tests_only() {
        let driver = |kind| member("hub/x", "driver", &[("tests/support", kind)]);
        let support = || member("tests/support", "test", &[]);
        check((driver(Kind::Dev), support()), &[]);
        check((driver(Kind::Normal), support()), &["hub/x (driver) must not import tests/support (test)"]);
    }

    #[test]
    fn a_layer_outside_the_table_is_named() {
        check(
            (member("hub/x", "glue", &[]), member("hub/y", "types", &[])),
            &["hub/x: its layer Some(\"glue\") is not in the layer table"],
        );
    }
}
