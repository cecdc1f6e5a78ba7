//! Versions of the interface.

use std::fmt;

/// A version of the Docker Engine API. Text form `1.41`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// 1 so far.
    pub major: u32,
    /// Grows with what is added.
    pub minor: u32,
}

impl ApiVersion {
    /// Oldest version of the interface that has all we need (Docker 20.10: `one-shot` statistics).
    pub const OLDEST: Self = Self { major: 1, minor: 41 };

    /// Reads `1.41`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// The oldest version that both sides speak, of an engine that speaks `oldest` to `newest`: it means the same to every
    /// engine that speaks it. `None` where there is none.
    #[must_use]
    pub fn common(oldest: &str, newest: &str) -> Option<Self> {
        let spoken = Self::parse(oldest).unwrap_or(Self::OLDEST).max(Self::OLDEST);
        let newest = Self::parse(newest)?;
        (spoken <= newest && spoken.major == Self::OLDEST.major).then_some(spoken)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_common_version_is_spoken() {
        let common = |oldest, newest| ApiVersion::common(oldest, newest).map(|version| version.to_string());
        assert_eq!(common("1.12", "1.41").as_deref(), Some("1.41"));
        assert_eq!(common("1.44", "1.52").as_deref(), Some("1.44"));
        assert_eq!(common("", "1.43").as_deref(), Some("1.41"));
        for (oldest, newest) in [("1.12", "1.40"), ("2.0", "2.3"), ("", ""), ("1.41", "x")] {
            assert_eq!(common(oldest, newest), None, "{oldest} to {newest}");
        }
    }
}
