//! Secrets found in bytes, also as programs write them: in hexadecimal, in base64, escaped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use blueprint_common_types::Secret;

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Shortest secret that is looked for, in bytes: shorter ones are words.
const LEAST: usize = 6;

/// Shortest piece of base64 that is looked for, in characters.
const LEAST_ENCODED: usize = 8;

/// A longer secret is looked for in pieces of so many bytes, each for itself.
const PIECE: usize = 512;

/// Finds secrets.
pub struct Redactor {
    /// By their first two bytes, the longest first.
    patterns: BTreeMap<[u8; 2], Vec<Secret<Vec<u8>>>>,
    longest: usize,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: usize = self.patterns.values().map(Vec::len).sum();
        f.debug_struct("Redactor").field("patterns", &count).finish_non_exhaustive()
    }
}

impl Redactor {
    /// Looks for these; those of fewer than six bytes are left out.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut all = BTreeSet::new();
        for secret in secrets {
            for piece in pieces(secret) {
                forms(piece, &mut all);
            }
        }
        let longest = all.iter().map(Vec::len).max().unwrap_or(0);
        let mut patterns: BTreeMap<[u8; 2], Vec<Secret<Vec<u8>>>> = BTreeMap::new();
        for pattern in all {
            if let Some(first) = pattern.first_chunk().copied() {
                patterns.entry(first).or_default().push(Secret::new(pattern));
            }
        }
        for same in patterns.values_mut() {
            same.sort_by_key(|pattern| std::cmp::Reverse(pattern.expose().len()));
        }
        Self { patterns, longest }
    }

    /// Bytes of the longest pattern: so many have to be known behind a place to say what begins before it.
    pub(super) const fn longest(&self) -> usize {
        self.longest
    }

    /// Where secrets are, as places from and to, ordered and apart. All bytes before `covered` are of one.
    pub(super) fn find(&self, bytes: &[u8], covered: usize) -> Vec<(usize, usize)> {
        let mut found: Vec<(usize, usize)> = (covered > 0).then_some((0, covered)).into_iter().collect();
        for (at, window) in bytes.windows(2).enumerate() {
            let Some(same) = window.first_chunk().and_then(|first| self.patterns.get(first)) else {
                continue;
            };
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(pattern) = same.iter().find(|pattern| rest.starts_with(pattern.expose())) else {
                continue;
            };
            let end = at.saturating_add(pattern.expose().len());
            match found.last_mut() {
                Some((_, last)) if *last >= at => *last = end.max(*last),
                Some(_) | None => found.push((at, end)),
            }
        }
        found
    }
}

/// The lines of a secret, since that is how output comes; one that is no text as a whole, too, since it is written in other ways.
/// What is too long is cut, each piece is looked for by itself.
fn pieces(secret: &[u8]) -> Vec<&[u8]> {
    let whole = std::str::from_utf8(secret).is_err().then_some(secret);
    let lines = secret.split(|byte| *byte == b'\n' || *byte == b'\r');
    let mut pieces = Vec::new();
    for line in whole.into_iter().chain(lines.map(<[u8]>::trim_ascii)) {
        // The first and last line of PEM is no secret, and is the same in all of them.
        if line.len() < LEAST || line.starts_with(b"-----") {
            continue;
        }
        let mut rest = line;
        while let Some((piece, behind)) = rest.split_at_checked(PIECE).filter(|(_, rest)| rest.len() >= LEAST)
        {
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(rest);
    }
    pieces
}

/// A secret as it is, and as programs write it.
fn forms(secret: &[u8], all: &mut BTreeSet<Vec<u8>>) {
    all.insert(secret.to_vec());
    let hex = |upper: bool| -> Vec<u8> {
        let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        if upper { digits.to_uppercase().into_bytes() } else { digits.into_bytes() }
    };
    all.extend([hex(false), hex(true)]);
    for before in 0..3 {
        // The characters that hold bits of what stands before or behind the secret are left out.
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(secret);
        let (from, to) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        for encoded in [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
            let inner = encoded.as_bytes().get(from..to).unwrap_or_default();
            if inner.len() >= LEAST_ENCODED {
                all.insert(inner.to_vec());
            }
        }
    }
    for between in [",", ", "] {
        let numbers: Vec<String> = secret.iter().map(u8::to_string).collect();
        all.insert(numbers.join(between).into_bytes());
    }
    let Ok(text) = std::str::from_utf8(secret) else {
        // As programs show bytes that are no text.
        all.insert(secret.escape_ascii().to_string().into_bytes());
        let replaced = String::from_utf8_lossy(secret).into_owned();
        if replaced.chars().filter(|c| *c != char::REPLACEMENT_CHARACTER).count() >= LEAST {
            all.insert(replaced.into_bytes());
        }
        return;
    };
    all.insert(text.escape_debug().to_string().into_bytes());
    all.extend([true, false].map(|upper| escaped_in_urls(secret, upper)));
    all.insert(escaped_in_json(text).into_bytes());
    let bare = text.strip_prefix("0x").unwrap_or(text);
    let is_hex = bare.len() >= LEAST && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex {
        all.extend([bare.to_lowercase().into_bytes(), bare.to_uppercase().into_bytes()]);
    }
    // The bytes that the digits stand for, as a program prints a list of them.
    if is_hex && let Some(bytes) = bytes_of(bare).filter(|bytes| bytes.len() >= LEAST) {
        for between in [",", ", "] {
            let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
            all.insert(numbers.join(between).into_bytes());
        }
        for encoded in [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
            all.insert(encoded.into_bytes());
        }
    }
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn escaped_in_urls(secret: &[u8], upper: bool) -> Vec<u8> {
    let escaped = secret.iter().map(|byte| match byte {
        byte if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) => char::from(*byte).to_string(),
        byte if upper => format!("%{byte:02X}"),
        byte => format!("%{byte:02x}"),
    });
    escaped.collect::<String>().into_bytes()
}

fn escaped_in_json(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            '\t' => "\\t".to_owned(),
            c if c.is_ascii_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(secrets: &[&str], text: &str) -> String {
        let redactor = Redactor::new(secrets.iter().map(|secret| secret.as_bytes()));
        let (mut shown, mut from) = (String::new(), 0);
        for (begin, end) in redactor.find(text.as_bytes(), 0) {
            shown.push_str(&text[from..begin]);
            shown.push_str(REDACTED);
            from = end;
        }
        shown + &text[from..]
    }

    #[test]
    fn a_secret_is_found_in_every_form() {
        let secret = "hunter2/\"swordfish\"";
        let json = r#"{"p":"hunter2/\"swordfish\""}"#;
        let hex = "68756e746572322f2273776f72646669736822";
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("u:{secret}:x"));
        let numbers = format!("{:?}", secret.as_bytes());
        for text in [
            format!("a {secret} b"),
            json.to_owned(),
            hex.to_owned(),
            hex.to_uppercase(),
            basic.clone(),
            numbers,
            "hunter2%2F%22swordfish%22".to_owned(),
            "hunter2%2f%22swordfish%22".to_owned(),
        ] {
            let shown = redacted(&[secret], &text);
            assert!(shown.contains(REDACTED) && !shown.contains("swordfish"), "{text} -> {shown}");
        }
        // Of the base64 at most the characters remain that hold bits of its neighbours, too.
        assert!(redacted(&[secret], &basic).len() <= REDACTED.len() + 8);
    }

    #[test]
    fn a_secret_that_is_no_text_is_found_line_by_line_and_as_programs_show_it() {
        let secret = b"\xff\xfefirst-half\r\n\x80second-half\x00";
        let redactor = Redactor::new([secret.as_slice()]);
        let covers = |bytes: &[u8]| redactor.find(bytes, 0);
        for line in [&secret[..12], &secret[14..]] {
            assert_eq!(covers(&[b"a ", line].concat()), [(2, 2 + line.len())]);
        }
        for shown in [secret.escape_ascii().to_string(), String::from_utf8_lossy(secret).into_owned()] {
            assert_eq!(covers(shown.as_bytes()), [(0, shown.len())], "{shown}");
        }
        assert_eq!(covers(b"a line of text"), []);
    }

    #[test]
    fn overlapping_secrets_and_lines_of_pem_are_covered_and_short_ones_are_not() {
        assert_eq!(redacted(&["abcdefgh", "efghijkl"], "xabcdefghijklx"), format!("x{REDACTED}x"));
        let pem = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----\n";
        assert_eq!(redacted(&[pem], "-----BEGIN KEY-----"), "-----BEGIN KEY-----");
        assert_eq!(redacted(&[pem], "kqhkiG9w0BAQEF"), REDACTED);
        assert_eq!(redacted(&["info", "true"], "info true"), "info true");
        assert_eq!(redacted(&["0xDEADbeef01"], "deadbeef01 DEADBEEF01"), format!("{REDACTED} {REDACTED}"));
        let long: String = (0..3000).map(|n| char::from(b'a' + u8::try_from(n % 23).unwrap())).collect();
        assert_eq!(redacted(&[&long], &long), REDACTED);
    }
}
