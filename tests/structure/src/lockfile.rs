//! What `Cargo.lock` holds: how many packages, from where, and none older than its security floor.

use anyhow::{Context, Result};

/// Most packages that `Cargo.lock` may hold, ours included.
///
/// Raised only together with a reason in the commit that adds the dependency (CONTRIBUTING.md).
pub const BUDGET: usize = 500;

/// The only registry that packages may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// One package of the lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it comes from; `None` for our own.
    pub source: Option<String>,
}

/// The packages of a lock file.
///
/// # Errors
///
/// Fails where a package has no name or version.
pub fn packages(lock: &toml::Table) -> Result<Vec<Locked>> {
    let rows =
        lock.get("package").and_then(toml::Value::as_array).context("the lock file has no packages")?;
    let field = |row: &toml::Value, key: &str| row.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    rows.iter()
        .map(|row| {
            Ok(Locked {
                name: field(row, "name").context("a locked package has no name")?,
                version: field(row, "version").context("a locked package has no version")?,
                source: field(row, "source"),
            })
        })
        .collect()
}

/// Packages from anywhere but crates.io and this workspace.
#[must_use]
pub fn foreign(packages: &[Locked]) -> Vec<String> {
    let foreign = |package: &&Locked| package.source.as_deref().is_some_and(|source| source != REGISTRY);
    packages.iter().filter(foreign).map(|package| format!("{} {}", package.name, package.version)).collect()
}

/// Packages that the `bans.deny` list of `.deny.toml` refuses: by name, or by name and `@<VERSION`.
///
/// The same list serves cargo-deny; this reads it without that tool.
#[must_use]
pub fn refused(packages: &[Locked], deny: &toml::Table) -> Vec<String> {
    let rows = deny.get("bans").and_then(|bans| bans.get("deny")).and_then(toml::Value::as_array);
    let specs = rows.into_iter().flatten().filter_map(|row| row.get("crate").and_then(toml::Value::as_str));
    let mut refused = Vec::new();
    for spec in specs {
        let (name, floor) = match spec.split_once("@<") {
            Some((name, floor)) => (name, Some(floor)),
            None => (spec, None),
        };
        for package in packages.iter().filter(|package| package.name == name) {
            match floor {
                Some(floor) if numbers(&package.version) >= numbers(floor) => {}
                Some(floor) => refused.push(format!("{name} {} is older than {floor}", package.version)),
                None => refused.push(format!("{name} is banned")),
            }
        }
    }
    refused
}

fn numbers(version: &str) -> Vec<u64> {
    let release = version.split(['-', '+']).next().unwrap_or_default();
    release.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_banned_and_foreign_packages_are_named() {
        let lock = r#"
            [[package]]
            name = "rustls"
            version = "0.23.9"
            source = "registry+https://github.com/rust-lang/crates.io-index"
            [[package]]
            name = "h2"
            version = "0.4.20"
            source = "git+https://example.org/h2"
            [[package]]
            name = "openssl"
            version = "0.10.0"
            [[package]]
            name = "ours"
            version = "0.1.0"
        "#;
        let deny = r#"
            [bans]
            deny = [{ crate = "rustls@<0.23.46" }, { crate = "h2@<0.4.16" }, { crate = "openssl" }]
        "#;
        let packages = packages(&lock.parse().unwrap()).unwrap();
        let refused = refused(&packages, &deny.parse().unwrap());
        assert_eq!(refused, ["rustls 0.23.9 is older than 0.23.46", "openssl is banned"]);
        assert_eq!(foreign(&packages), ["h2 0.4.20"]);
    }
}
