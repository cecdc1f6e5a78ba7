//! Identities of hubs, agents, services and targets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text is not the identity it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Not 32 hexadecimal digits with or without hyphens.
    #[error("{0:?} is not an id of 32 hexadecimal digits")]
    Uuid(String),
    /// Not `BLUEPRINT/SERVICE`.
    #[error("{0:?} is not BLUEPRINT/SERVICE, such as 7/42")]
    ServiceKey(String),
}

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Takes the 128 bits as they are.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Makes a random one (UUID version 4).
            ///
            /// # Errors
            ///
            /// Fails only where the system has no source of randomness.
            pub fn random() -> Result<Self, std::io::Error> {
                let mut bytes = [0u8; 16];
                crate::fill_random(&mut bytes)?;
                let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
                *version = (*version & 0x0f) | 0x40;
                *variant = (*variant & 0x3f) | 0x80;
                Ok(Self(bytes))
            }

            /// The 128 bits.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt_uuid(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt_uuid(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_uuid(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_type! {
    /// A joined machine: made by the hub at join, carried in the agent's certificate, never in a request field.
    AgentId
}
uuid_type! {
    /// One hub and everything it ever made: the trust domain of its certificates.
    HubId
}

fn fmt_uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (position, byte) in bytes.iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

fn parse_uuid(text: &str) -> Result<[u8; 16], ParseIdError> {
    let error = || ParseIdError::Uuid(text.chars().take(64).collect());
    let mut bytes = [0u8; 16];
    let mut digits =
        text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()));
    for byte in &mut bytes {
        let high = digits.next().flatten().ok_or_else(error)?;
        let low = digits.next().flatten().ok_or_else(error)?;
        *byte = (high << 4) | low;
    }
    if digits.next().is_some() { Err(error()) } else { Ok(bytes) }
}

/// A named thing offered: one service of one blueprint. Text form `BLUEPRINT/SERVICE`, such as `7/42`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Identity of the blueprint on chain.
    pub blueprint: u64,
    /// Identity of the service on chain.
    pub service: u64,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.blueprint, self.service)
    }
}

impl FromStr for ServiceKey {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let error = || ParseIdError::ServiceKey(text.chars().take(64).collect());
        let (blueprint, service) = text.split_once('/').ok_or_else(error)?;
        Ok(Self {
            blueprint: blueprint.parse().map_err(|_| error())?,
            service: service.parse().map_err(|_| error())?,
        })
    }
}

impl Serialize for ServiceKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One reachable place of a service: an agent and the overlay port it answers on.
///
/// The pair of agent and port is the service's *instance*; a target is never a free URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetKey {
    /// The service offered there.
    pub service: ServiceKey,
    /// The agent that offers it.
    pub agent: AgentId,
    /// TCP port on the agent's overlay address.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_form() {
        let id = AgentId::random().unwrap();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 36);
        assert!("".parse::<AgentId>().is_err());
        assert!(format!("{id}0").parse::<AgentId>().is_err());
    }

    #[test]
    fn a_service_key_is_two_numbers() {
        assert_eq!("7/42".parse(), Ok(ServiceKey { blueprint: 7, service: 42 }));
        for wrong in ["", "7", "7/", "/42", "a/b", "7/42/1", "-1/2"] {
            assert!(wrong.parse::<ServiceKey>().is_err(), "{wrong}");
        }
    }
}
