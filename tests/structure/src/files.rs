//! Which files the repository holds, where, and how long they are.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// What may stand at the top, beside dot files.
const TOP: [&str; 16] = [
    "hub",
    "agent",
    "proto",
    "common",
    "packaging",
    "tests",
    "bench",
    "docs",
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "LICENSE",
];

/// Lines at which a source file has to be split; the second is for tests.
const MAX_LINES: [usize; 2] = [800, 1200];

/// Lines at which a `main.rs` does more than to start things.
const MAX_MAIN_LINES: usize = 120;

/// Lines at which nobody reads `ARCHITECTURE.md` any more.
const MAX_ARCHITECTURE_LINES: usize = 300;

/// Files that may be longer than the rule, each with its reason.
const LONGER: [(&str, &str); 3] = [
    ("proto/src/gen/blueprint.plugin.v1.rs", "generated from the .proto file"),
    ("proto/src/gen/blueprint.v1.rs", "generated from the .proto files"),
    ("proto/src/gen/blueprint_manager_bridge.rs", "generated from the .proto files"),
];

/// Paths of all files below `root` that are kept or about to be, sorted.
///
/// # Errors
///
/// Fails where neither git nor the folder itself can be read.
pub fn list(root: &Path) -> Result<Vec<String>> {
    let git = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output();
    let mut paths = match git {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8(output.stdout).context("a file name is no UTF-8")?;
            text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect()
        }
        Ok(_) | Err(_) => walk(root, "")?,
    };
    paths.retain(|path| root.join(path).is_file());
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// What an unpacked archive without git holds.
fn walk(root: &Path, below: &str) -> Result<Vec<String>> {
    let folder = root.join(below);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        if !entry.file_type()?.is_dir() {
            paths.push(path);
        } else if name != ".git" && name != "target" {
            paths.extend(walk(root, &path)?);
        }
    }
    Ok(paths)
}

/// Names at the top that do not belong there.
#[must_use]
pub fn strangers_at_the_top(paths: &[String]) -> BTreeSet<String> {
    paths
        .iter()
        .filter_map(|path| path.split('/').next())
        .filter(|name| !name.starts_with('.') && !name.starts_with("LICENSE-") && !TOP.contains(name))
        .map(str::to_owned)
        .collect()
}

/// Source files that are too long, and files called `mod.rs`.
#[must_use]
pub fn too_long(lengths: &[(String, usize)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, lines) in lengths {
        let max = max_lines(path);
        if *lines > max && !LONGER.iter().any(|(longer, _)| longer == path) {
            wrong.push(format!("{path}: {lines} lines, at most {max}"));
        }
        if path.ends_with("/mod.rs") {
            wrong.push(format!("{path}: a module lies beside its folder"));
        }
    }
    wrong
}

fn max_lines(path: &str) -> usize {
    let [source, tests] = MAX_LINES;
    if path == "ARCHITECTURE.md" {
        MAX_ARCHITECTURE_LINES
    } else if path.ends_with("src/main.rs") {
        MAX_MAIN_LINES
    } else if path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs") {
        tests
    } else {
        source
    }
}

/// Lines of each file whose length has a bound, longest first.
///
/// # Errors
///
/// Fails where a file cannot be read as text.
pub fn lengths(root: &Path, paths: &[String]) -> Result<Vec<(String, usize)>> {
    let mut lengths = Vec::new();
    for path in paths.iter().filter(|path| path.ends_with(".rs") || *path == "ARCHITECTURE.md") {
        let text = std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))?;
        lengths.push((path.clone(), text.lines().count()));
    }
    lengths.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(lengths)
}

/// Scripts, told by their first two bytes, that nobody may run.
///
/// # Errors
///
/// Fails where a file cannot be read.
pub fn scripts_without_run_bit(root: &Path, paths: &[String]) -> Result<Vec<String>> {
    use std::os::unix::fs::PermissionsExt;
    let mut wrong = Vec::new();
    for path in paths.iter().filter(|path| !path.ends_with(".rs")) {
        let full = root.join(path);
        let bytes = std::fs::read(&full).with_context(|| format!("cannot read {path}"))?;
        if bytes.starts_with(b"#!") && full.metadata()?.permissions().mode() & 0o111 == 0 {
            wrong.push(path.clone());
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_at_the_top_is_named() {
        let paths =
            ["hub/src/main.rs", ".ci/run", "LICENSE-MIT", "notes/x.md", "build.sh"].map(str::to_owned);
        assert_eq!(strangers_at_the_top(&paths).into_iter().collect::<Vec<_>>(), ["build.sh", "notes"]);
    }

    #[test]
    fn each_kind_of_file_has_its_own_bound() {
        let lengths = [
            ("hub/src/lib.rs", 801),
            ("hub/src/main.rs", 121),
            ("tests/model/src/lib.rs", 1200),
            ("hub/store/tests/kill.rs", 1201),
            ("proto/src/gen/blueprint.v1.rs", 5000),
            ("hub/src/cli/mod.rs", 1),
        ];
        let lengths = lengths.map(|(path, lines)| (path.to_owned(), lines));
        assert_eq!(
            too_long(&lengths),
            [
                "hub/src/lib.rs: 801 lines, at most 800",
                "hub/src/main.rs: 121 lines, at most 120",
                "hub/store/tests/kill.rs: 1201 lines, at most 1200",
                "hub/src/cli/mod.rs: a module lies beside its folder",
            ]
        );
    }
}
