//! Values with units, and lists, as they are written in a configuration.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not such a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseValueError {
    /// Not a duration.
    #[error("not a duration such as 500ms, 30s, 15m, 24h ({0})")]
    Span(String),
    /// Not a size.
    #[error("not a size such as 512B, 64KiB, 64MiB, 2GiB")]
    ByteSize,
    /// More than fits into 64 bits.
    #[error("more bytes than can be counted")]
    TooManyBytes,
    /// Not a list.
    #[error("not a list such as [\"a\", \"b\"] or a,b ({0})")]
    List(String),
}

/// A duration with its unit: `500ms`, `30s`, `15m`, `1h 30m`. A bare number is refused, except 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = ParseValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text.trim())
            .map(Self)
            .map_err(|error| ParseValueError::Span(error.to_string()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A size in bytes with its unit, binary (`64KiB`) or decimal (`64kB`). A bare number is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Unit names in lower case with their bytes.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

impl FromStr for ByteSize {
    type Err = ParseValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_end);
        if digits.is_empty() {
            return Err(ParseValueError::ByteSize);
        }
        let unit = unit.trim().to_ascii_lowercase();
        let unit_bytes = UNITS
            .iter()
            .find_map(|(name, bytes)| (*name == unit).then_some(*bytes))
            .ok_or(ParseValueError::ByteSize)?;
        let count: u64 = digits.parse().map_err(|_| ParseValueError::TooManyBytes)?;
        count.checked_mul(unit_bytes).map(Self).ok_or(ParseValueError::TooManyBytes)
    }
}

impl fmt::Display for ByteSize {
    /// Writes the largest binary unit that divides it, so that parsing gives the same number back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, shift) in [("TiB", 40_u32), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{name}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// Texts in their order: a TOML array in the file, `a,b` in a variable or a flag, where an array is read as well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct List(pub Vec<String>);

impl FromStr for List {
    type Err = ParseValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if !text.starts_with('[') {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            return Ok(Self(parts.map(str::to_owned).collect()));
        }
        let parsed: toml::Value = toml::from_str::<toml::Table>(&format!("list = {text}"))
            .map_err(|error| ParseValueError::List(error.message().to_owned()))?
            .remove("list")
            .unwrap_or(toml::Value::Boolean(false));
        let toml::Value::Array(items) = parsed else {
            return Err(ParseValueError::List("no array".to_owned()));
        };
        items.iter().map(item_text).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        toml::Value::from(self.0.clone()).fmt(f)
    }
}

/// Text of one item of an array.
fn item_text(item: &toml::Value) -> Result<String, ParseValueError> {
    match item {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_) => Ok(item.to_string()),
        toml::Value::Array(_) | toml::Value::Table(_) => {
            Err(ParseValueError::List("an item is itself a list or a table".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!("15m".parse(), Ok(Span(Duration::from_secs(900))));
        assert_eq!("1h 30m".parse(), Ok(Span(Duration::from_secs(5400))));
        for text in ["15", "", "m", "-1s"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_binary_or_decimal() {
        assert_eq!("64MiB".parse(), Ok(ByteSize(67_108_864)));
        assert_eq!("64 mb".parse(), Ok(ByteSize(64_000_000)));
        assert_eq!("17".parse(), Ok(ByteSize(17)));
        assert_eq!("MiB".parse::<ByteSize>(), Err(ParseValueError::ByteSize));
        assert_eq!("1.5MiB".parse::<ByteSize>(), Err(ParseValueError::ByteSize));
        assert_eq!("99999999TiB".parse::<ByteSize>(), Err(ParseValueError::TooManyBytes));
    }

    #[test]
    fn lists_are_arrays_or_comma_separated() {
        let list = |parts: &[&str]| List(parts.iter().map(|part| (*part).to_owned()).collect());
        assert_eq!(r#"["a, b", "c"]"#.parse(), Ok(list(&["a, b", "c"])));
        assert_eq!("a, b ,".parse(), Ok(list(&["a", "b"])));
        assert_eq!("[1, 2]".parse(), Ok(list(&["1", "2"])));
        assert_eq!("[]".parse(), Ok(list(&[])));
        assert_eq!("".parse(), Ok(list(&[])));
        assert!("[1".parse::<List>().is_err());
        assert!("[[1]]".parse::<List>().is_err());
        assert!("[]\nx = 1".parse::<List>().is_ok(), "what follows the array is not part of the list");
    }

    proptest! {
        #[test]
        fn a_size_survives_its_text(count: u64) {
            prop_assert_eq!(ByteSize(count).to_string().parse(), Ok(ByteSize(count)));
        }

        #[test]
        fn a_list_survives_its_text(parts: Vec<String>) {
            prop_assert_eq!(List(parts.clone()).to_string().parse(), Ok(List(parts)));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = (text.parse::<Span>(), text.parse::<ByteSize>(), text.parse::<List>());
        }
    }
}
