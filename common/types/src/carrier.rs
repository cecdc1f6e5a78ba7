//! What carries WireGuard's datagrams between an agent and its hub.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A kind of carrier. Text form `udp`, `quic` or `tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// Plain UDP, as WireGuard is.
    Udp,
    /// Datagrams of a QUIC connection, over UDP.
    Quic,
    /// Frames in a TLS stream, over TCP.
    Tls,
}

impl Carrier {
    /// Every kind, the one with the least cost first.
    pub const ALL: [Self; 3] = [Self::Udp, Self::Quic, Self::Tls];

    /// Its name in configuration, metrics and status.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Quic => "quic",
            Self::Tls => "tls",
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// A text is not the name of a carrier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a carrier: udp, quic or tls was expected")]
pub struct ParseCarrierError(String);

impl FromStr for Carrier {
    type Err = ParseCarrierError;

    fn from_str(text: &str) -> Result<Self, ParseCarrierError> {
        let found = Self::ALL.into_iter().find(|carrier| carrier.label() == text);
        found.ok_or_else(|| ParseCarrierError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_carrier_survives_its_text() {
        for carrier in Carrier::ALL {
            assert_eq!(carrier.to_string().parse(), Ok(carrier));
        }
        assert!("UDP".parse::<Carrier>().is_err());
    }
}
