//! What keeps a core free of I/O: nothing that does I/O is linked into it, and one clippy file for all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::{Member, Workspace};

/// Packages that no core may reach, however indirectly.
pub const IO_PACKAGES: [&str; 5] = ["tokio", "mio", "hyper", "tonic", "socket2"];

/// For each core, the way by which it reaches one of [`IO_PACKAGES`].
#[must_use]
pub fn reach_io(workspace: &Workspace) -> Vec<String> {
    let mut found = Vec::new();
    for core in cores(workspace) {
        let id = workspace.names.iter().find(|(_, name)| **name == core.name).map(|(id, _)| id);
        let Some(id) = id else { continue };
        for banned in IO_PACKAGES {
            if let Some(path) = path_to(&workspace.linked, &workspace.names, id, banned) {
                found.push(format!("{}: {}", core.folder, path.join(" -> ")));
            }
        }
    }
    found
}

/// Shortest way from package `from` to a package called `name`, as package names.
#[must_use]
pub fn path_to(
    linked: &BTreeMap<String, BTreeSet<String>>,
    names: &BTreeMap<String, String>,
    from: &str,
    name: &str,
) -> Option<Vec<String>> {
    let mut seen = BTreeSet::from([from.to_owned()]);
    let mut paths = std::collections::VecDeque::from([vec![from.to_owned()]]);
    while let Some(path) = paths.pop_front() {
        let Some(last) = path.last() else { continue };
        if names.get(last).is_some_and(|last| last == name) {
            return Some(path.iter().filter_map(|id| names.get(id).cloned()).collect());
        }
        for next in linked.get(last).into_iter().flatten() {
            if seen.insert(next.clone()) {
                let mut longer = path.clone();
                longer.push(next.clone());
                paths.push_back(longer);
            }
        }
    }
    None
}

/// Cores whose `.clippy.toml` is missing or differs from that of the first core, and others that have one.
#[must_use]
pub fn clippy_differences(workspace: &Workspace) -> Vec<String> {
    let read = |folder: &str| std::fs::read_to_string(clippy_file(&workspace.root, folder)).ok();
    let expected = cores(workspace).find_map(|core| read(&core.folder)).unwrap_or_default();
    let mut wrong = Vec::new();
    for member in &workspace.members {
        match (member.is_layer("core"), read(&member.folder)) {
            (true, None) => wrong.push(format!("{}: a core without .clippy.toml", member.folder)),
            (true, Some(text)) if text != expected => {
                wrong.push(format!("{}: .clippy.toml differs from the other cores'", member.folder));
            }
            (false, Some(_)) => {
                wrong.push(format!("{}: only a core has a .clippy.toml of its own", member.folder));
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
    wrong
}

/// What the root's `.clippy.toml` bans and a core's, which replaces it, forgot to repeat.
#[must_use]
pub fn forgotten_bans(root: &toml::Table, core: &toml::Table) -> Vec<String> {
    let banned = |table: &toml::Table, key: &str| -> BTreeSet<String> {
        let rows = table.get(key).and_then(toml::Value::as_array).cloned().unwrap_or_default();
        let path = |row: &toml::Value| Some(row.get("path")?.as_str()?.to_owned());
        rows.iter().filter_map(path).collect()
    };
    let mut forgotten = Vec::new();
    for key in ["disallowed-methods", "disallowed-types"] {
        forgotten
            .extend(banned(root, key).difference(&banned(core, key)).map(|path| format!("{key}: {path}")));
    }
    for (key, value) in root.iter().filter(|(_, value)| !value.is_array()) {
        if core.get(key) != Some(value) {
            forgotten.push(format!("{key} = {value}"));
        }
    }
    forgotten
}

/// Where a package would keep its own clippy rules.
#[must_use]
pub fn clippy_file(root: &Path, folder: &str) -> std::path::PathBuf {
    root.join(folder).join(".clippy.toml")
}

/// The members of the layer `core`.
pub fn cores(workspace: &Workspace) -> impl Iterator<Item = &Member> {
    workspace.members.iter().filter(|member| member.is_layer("core"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_indirect_way_to_a_socket_is_found_and_printed() {
        let pairs = [("a", "a"), ("b", "b"), ("t", "tokio"), ("c", "c")];
        let names = pairs.map(|(id, name)| (id.to_owned(), name.to_owned())).into();
        let edges = [("a", "b"), ("b", "t"), ("c", "a")];
        let linked = edges.map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()]))).into();
        let path = path_to(&linked, &names, "a", "tokio");
        assert_eq!(path, Some(["a", "b", "tokio"].map(str::to_owned).to_vec()));
        assert_eq!(path_to(&linked, &names, "a", "c"), None);
    }

    #[test]
    fn a_ban_that_a_core_does_not_repeat_is_named() {
        let root = "a = 1\ndisallowed-methods = [{ path = \"x::y\" }, { path = \"x::z\" }]";
        let core = "a = 2\ndisallowed-methods = [{ path = \"x::y\" }]";
        assert_eq!(
            forgotten_bans(&root.parse().unwrap(), &core.parse().unwrap()),
            ["disallowed-methods: x::z", "a = 1"]
        );
    }
}
