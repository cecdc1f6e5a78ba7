//! Ranges of ports, such as `5432,8000-8080`.

use std::fmt;
use std::str::FromStr;

/// A text does not name ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no list of ports: write PORT or FIRST-LAST with commas between them, from 1 to 65535")]
pub struct ParsePortsError(String);

/// Ports, as ranges. Text form `5432,8000-8080`; the default has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortRanges(Vec<(u16, u16)>);

impl PortRanges {
    /// True where the port is among them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// Its ranges, each with its first and last port.
    pub fn parts(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.0.iter().copied()
    }

    /// True where it has no port.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for PortRanges {
    type Err = ParsePortsError;

    fn from_str(text: &str) -> Result<Self, ParsePortsError> {
        let refused = || ParsePortsError(text.chars().take(64).collect());
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (1..=last).contains(&first).then_some((first, last))
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(|part| range(part).ok_or_else(refused)).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_that_were_written_and_no_others() {
        let ports: PortRanges = "5432, 8000-8080".parse().unwrap();
        assert!([5432, 8000, 8080].iter().all(|port| ports.contains(*port)));
        assert!([0, 5431, 5433, 8081].iter().all(|port| !ports.contains(*port)));
        assert_eq!(ports.to_string().parse(), Ok(ports));
        assert!("".parse::<PortRanges>().unwrap().is_empty());
        for bad in ["0", "9-8", "0-9", "65536", "a", "1,", "1-2-3"] {
            assert!(bad.parse::<PortRanges>().is_err(), "{bad}");
        }
    }
}
