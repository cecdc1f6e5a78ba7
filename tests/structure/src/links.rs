//! Links in the pages that people read: each relative one points to a file, and to a heading where it says so.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Whether the links of the page at `path` are checked.
#[must_use]
pub fn is_page(path: &str) -> bool {
    path.ends_with(".md")
        && (!path.contains('/') || path.starts_with("docs/") || path.ends_with("/README.md"))
}

/// Links in `pages` (path to text) that lead nowhere; `exists` tells which other files there are.
pub fn broken(pages: &BTreeMap<String, String>, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut broken = Vec::new();
    for (path, text) in pages {
        for link in links(text) {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let Some(target) = resolve(path, file) else {
                broken.push(format!("{path}: {link} leaves the repository"));
                continue;
            };
            if !exists(&target) {
                broken.push(format!("{path}: {link} does not exist"));
            } else if !heading.is_empty()
                && pages.get(&target).is_some_and(|page| !has_heading(page, heading))
            {
                broken.push(format!("{path}: {target} has no heading #{heading}"));
            }
        }
    }
    broken
}

/// Targets of inline links and images that are no addresses of the web.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        let mut rest = line;
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, tail)) = after.split_once(')') else { break };
            rest = tail;
            let target = target.split_whitespace().next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push(target.to_owned());
            }
        }
    }
    found
}

/// The lines outside fenced code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    })
}

/// Where `file`, as written on the page at `page`, lies below the root; the page itself where it is empty.
fn resolve(page: &str, file: &str) -> Option<String> {
    if file.is_empty() {
        return Some(page.to_owned());
    }
    let mut resolved = PathBuf::new();
    for part in Path::new(page).parent()?.join(file).components() {
        match part {
            Component::Normal(name) => resolved.push(name),
            Component::ParentDir if resolved.pop() => {}
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(resolved.to_string_lossy().into_owned())
}

/// Whether a heading of `text` has this anchor, made as GitHub makes it.
fn has_heading(text: &str, anchor: &str) -> bool {
    prose(text).filter(|line| line.starts_with('#')).any(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>() == anchor
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let pages = BTreeMap::from([
            ("docs/a.md".to_owned(), text.to_owned()),
            ("README.md".to_owned(), "# Blueprint hub\n## The `dev` command".to_owned()),
        ]);
        let exists = |path: &str| ["docs/a.md", "README.md", "hub"].contains(&path);
        assert_eq!(broken(&pages, exists), expected);
    }

    #[test]
    fn good_links_pass() {
        check("[r](../README.md#the-dev-command) [w](https://x.org/y.md) [h](../hub)", &[]);
        check("```\n[no](link.md)\n```\n# Up here\n[self](#up-here)", &[]);
    }

    #[test]
    fn broken_links_are_named() {
        check("[r](README.md)", &["docs/a.md: README.md does not exist"]);
        check("[r](../README.md#nope)", &["docs/a.md: README.md has no heading #nope"]);
        check("[r](../../x.md)", &["docs/a.md: ../../x.md leaves the repository"]);
    }
}
