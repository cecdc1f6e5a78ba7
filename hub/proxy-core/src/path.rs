//! One spelling for every path.
//!
//! The normal form: starts with `/`; no empty, `.` or `..` segment (a last empty one, the trailing
//! slash, stays); unreserved characters never escaped, everything else that is not allowed in a
//! segment always escaped, in upper case. A path that a later server could still read as another
//! one is refused instead: escaped slashes and backslashes, control characters, dot segments with
//! parameters, overlong UTF-8.

use std::borrow::Cow;
use std::fmt::Write;

/// Why a path has no normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// Neither empty nor starting with a slash.
    #[error("it does not start with a slash")]
    NotAbsolute,
    /// `%` without two hexadecimal digits.
    #[error("it has a broken percent escape")]
    Escape,
    /// A control character, escaped or not; NUL among them.
    #[error("it has a control character")]
    Control,
    /// A slash or backslash in disguise.
    #[error("it has an escaped slash or a backslash")]
    Slash,
    /// `..` at the top.
    #[error("it climbs above the root")]
    AboveRoot,
    /// `.;x` or `..;x`, which some servers read as `.` or `..`.
    #[error("it has a dot segment with parameters")]
    DotParameter,
    /// A byte that starts only overlong UTF-8.
    #[error("it has overlong UTF-8")]
    Overlong,
}

/// Brings the path of a request into its normal form; `normalise(normalise(p)) == normalise(p)`.
pub(crate) fn normalise(raw: &str) -> Result<Cow<'_, str>, PathFault> {
    let rest = match raw.strip_prefix('/') {
        Some(rest) => rest,
        None if raw.is_empty() => "",
        None => return Err(PathFault::NotAbsolute),
    };
    if is_normal(raw, rest) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut segments: Vec<String> = Vec::new();
    let mut ends_in_folder = true;
    for raw_segment in rest.split('/') {
        let segment = canonical_segment(raw_segment)?;
        ends_in_folder = true;
        match segment.as_str() {
            "" | "." => {}
            ".." => {
                segments.pop().ok_or(PathFault::AboveRoot)?;
            }
            _ => {
                refuse_dot_parameter(&segment)?;
                segments.push(segment);
                ends_in_folder = false;
            }
        }
    }
    let mut path = String::with_capacity(raw.len().saturating_add(1));
    for segment in &segments {
        path.push('/');
        path.push_str(segment);
    }
    if ends_in_folder {
        path.push('/');
    }
    Ok(Cow::Owned(path))
}

/// Whether a path is its own normal form at first sight: most are.
fn is_normal(raw: &str, rest: &str) -> bool {
    // A segment that starts with a dot is left to the one that knows all of them.
    let mut at_start = true;
    let is_plain = rest.bytes().all(|byte| {
        let is_fine = match byte {
            b'/' => !at_start,
            b'.' => !at_start,
            _ => is_unreserved(byte) || is_delimiter(byte),
        };
        at_start = byte == b'/';
        is_fine
    });
    is_plain && !raw.is_empty()
}

fn canonical_segment(raw: &str) -> Result<String, PathFault> {
    let mut segment = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let is_escape = byte == b'%';
        let byte = if is_escape { unescape(bytes.next(), bytes.next())? } else { byte };
        match byte {
            0..0x20 | 0x7f => return Err(PathFault::Control),
            b'/' | b'\\' => return Err(PathFault::Slash),
            0xc0 | 0xc1 => return Err(PathFault::Overlong),
            _ if is_unreserved(byte) || (!is_escape && is_delimiter(byte)) => {
                segment.push(char::from(byte));
            }
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(segment, "%{byte:02X}");
            }
        }
    }
    Ok(segment)
}

fn unescape(high: Option<u8>, low: Option<u8>) -> Result<u8, PathFault> {
    let digit = |byte: Option<u8>| {
        let digit = char::from(byte?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    match (digit(high), digit(low)) {
        (Some(high), Some(low)) => Ok((high << 4) | low),
        _ => Err(PathFault::Escape),
    }
}

fn refuse_dot_parameter(segment: &str) -> Result<(), PathFault> {
    let rest = segment.trim_start_matches('.');
    let dots = segment.len().saturating_sub(rest.len());
    let has_parameter = rest.starts_with(';') || rest.starts_with("%3B");
    if matches!(dots, 1 | 2) && has_parameter { Err(PathFault::DotParameter) } else { Ok(()) }
}

/// RFC 3986, section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What else may stand in a segment as it is: RFC 3986, `pchar` without `unreserved`.
const fn is_delimiter(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_have_one_spelling() {
        for (raw, normal) in [
            ("", "/"),
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("//a///b", "/a/b"),
            ("/a//", "/a/"),
            ("/./a/./b", "/a/b"),
            ("/a/b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/%61%2Db%7e", "/a-b~"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E/b", "/a/b"),
            ("/a%3ab%2bc", "/a%3Ab%2Bc"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/a%3bv", "/a%3Bv"),
            ("/...;x", "/...;x"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/\u{e9}", "/%C3%A9"),
            ("/{a}\"", "/%7Ba%7D%22"),
        ] {
            assert_eq!(normalise(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn paths_with_two_readings_are_refused() {
        for (raw, fault) in [
            ("a", PathFault::NotAbsolute),
            ("*", PathFault::NotAbsolute),
            ("/..", PathFault::AboveRoot),
            ("/a/../..", PathFault::AboveRoot),
            ("/%2e%2e/etc/passwd", PathFault::AboveRoot),
            ("/a%2fb", PathFault::Slash),
            ("/a%2F..%2Fb", PathFault::Slash),
            ("/a%5cb", PathFault::Slash),
            ("/a\\b", PathFault::Slash),
            ("/a%00", PathFault::Control),
            ("/a%0d%0aX: y", PathFault::Control),
            ("/a%7f", PathFault::Control),
            ("/a\tb", PathFault::Control),
            ("/%", PathFault::Escape),
            ("/%2", PathFault::Escape),
            ("/%zz", PathFault::Escape),
            ("/%+1", PathFault::Escape),
            ("/a/..;/b", PathFault::DotParameter),
            ("/a/.;x=1/b", PathFault::DotParameter),
            ("/a/%2e%2e;/b", PathFault::DotParameter),
            ("/a/..%3b/b", PathFault::DotParameter),
            ("/%c0%ae%c0%ae/", PathFault::Overlong),
        ] {
            assert_eq!(normalise(raw), Err(fault), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(raw in "(/|/[a-z.%;0-9A-F\\\\é]{0,6}){0,6}") {
            if let Ok(once) = normalise(&raw) {
                prop_assert_eq!(normalise(&once), Ok(once.clone()));
                prop_assert!(once.starts_with('/') && once.is_ascii());
                let has_dots = once.split('/').any(|segment| matches!(segment, "." | ".."));
                prop_assert!(!has_dots && !once.contains("//"));
            }
        }

        #[test]
        fn no_text_panics(raw in any::<String>()) {
            let _ = normalise(&raw);
        }
    }
}
