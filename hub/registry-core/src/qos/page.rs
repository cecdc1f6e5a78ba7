//! A page of metrics as a map: what clients of the Blueprint SDK ask for.

use std::collections::BTreeMap;

/// Most entries of a page that are given.
pub const MAX_ENTRIES: usize = 512;

/// Most bytes of all names and values together.
pub const MAX_TEXT: usize = 128 * 1024;

/// Longest name with its labels, and longest value, in bytes.
const MAX_NAME: usize = 512;
const MAX_VALUE: usize = 64;

/// Reads Prometheus or OpenMetrics text: names with their labels as they stand there, and values. Comments, times and
/// exemplars are left out, and so is every line that is none. Past the bounds the rest of the page is left out.
#[must_use]
pub fn entries(page: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut room = MAX_TEXT;
    for line in page.lines() {
        let Some((name, value)) = entry(line.trim()) else { continue };
        let length = name.len() + value.len();
        if found.len() >= MAX_ENTRIES || length > room {
            break;
        }
        room -= length;
        found.insert(name.to_owned(), value.to_owned());
    }
    found
}

/// `name{label="value"} 1.5 [time] [# exemplar]`.
fn entry(line: &str) -> Option<(&str, &str)> {
    if line.starts_with('#') {
        return None;
    }
    let end = match line.find(['{', ' ', '\t'])? {
        open if line.as_bytes().get(open) == Some(&b'{') => open + end_of_labels(line.get(open..)?)?,
        end => end,
    };
    let (name, rest) = line.split_at_checked(end)?;
    let value = rest.split_whitespace().next()?;
    let is_name = |first: char| first.is_ascii_alphabetic() || matches!(first, '_' | ':');
    let is_good = name.starts_with(is_name) && name.len() <= MAX_NAME && value.len() <= MAX_VALUE;
    (is_good && is_number(value)).then_some((name, value))
}

fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}

/// Length of `{...}`, in which a brace within quotes ends nothing.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'}' if !is_quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}
