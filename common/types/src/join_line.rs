//! The one line that an operator pastes on a machine to make it a spoke.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::{JoinToken, ParseTokenError, Secret};

/// SHA-256 of the public key of the hub's certificate authority (its DER `SubjectPublicKeyInfo`).
///
/// Same idea as kubeadm's `--discovery-token-ca-cert-hash`: it authenticates the hub before anything is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CaPin([u8; 32]);

impl CaPin {
    /// Computes the pin of a DER `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn of_spki(spki_der: &[u8]) -> Self {
        Self(Sha256::digest(spki_der).into())
    }
}

impl fmt::Display for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for CaPin {
    type Err = ParseJoinLineError;

    fn from_str(text: &str) -> Result<Self, ParseJoinLineError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| ParseJoinLineError::Pin)?;
        Ok(Self(bytes.try_into().map_err(|_| ParseJoinLineError::Pin)?))
    }
}

/// A text is not a join line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseJoinLineError {
    /// Not of the form `HOST:PORT/PIN/TOKEN`.
    #[error("not a join line: HOST:PORT/PIN/TOKEN, as `blueprint-hub token create` prints it, was expected")]
    Form,
    /// The host or the port is not one.
    #[error("the join line does not start with HOST:PORT")]
    Address,
    /// The pin is not 32 bytes in base64url.
    #[error("the pin in the join line is damaged; copy the line again as a whole")]
    Pin,
    /// The token is damaged.
    #[error(transparent)]
    Token(#[from] ParseTokenError),
}

/// Where the hub is, how to know it, and the right to join it once. Text form `HOST:PORT/PIN/TOKEN`,
/// with no character that a shell would take for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinLine {
    /// Host name or address of the hub's control plane; an IPv6 address without brackets.
    pub host: String,
    /// TCP port of the control plane.
    pub port: u16,
    /// Pin of the hub's authority.
    pub pin: CaPin,
    /// The right to join.
    pub token: JoinToken,
}

impl JoinLine {
    /// The whole line, to be shown once.
    #[must_use]
    pub fn expose_text(&self) -> Secret<String> {
        let token = self.token.expose_text();
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        Secret::new(format!("{host}:{}/{}/{}", self.port, self.pin, token.expose()))
    }
}

impl FromStr for JoinLine {
    type Err = ParseJoinLineError;

    fn from_str(text: &str) -> Result<Self, ParseJoinLineError> {
        let mut parts = text.trim().splitn(3, '/');
        let (Some(address), Some(pin), Some(token)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ParseJoinLineError::Form);
        };
        let HubLine { host, port, pin } = HubLine::read(address, pin)?;
        Ok(Self { host, port, pin, token: token.parse()? })
    }
}

/// Where the hub is and how to know it, for a machine that has another right to join it than a token. Text form
/// `HOST:PORT/PIN`; it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubLine {
    /// Host name or address of the hub's control plane; an IPv6 address without brackets.
    pub host: String,
    /// TCP port of the control plane.
    pub port: u16,
    /// Pin of the hub's authority.
    pub pin: CaPin,
}

impl HubLine {
    fn read(address: &str, pin: &str) -> Result<Self, ParseJoinLineError> {
        let (host, port) = address.rsplit_once(':').ok_or(ParseJoinLineError::Address)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().map_err(|_| ParseJoinLineError::Address)?;
        if host.is_empty() || host.len() > 253 || port == 0 {
            return Err(ParseJoinLineError::Address);
        }
        Ok(Self { host: host.to_owned(), port, pin: pin.parse()? })
    }
}

impl fmt::Display for HubLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{host}:{}/{}", self.port, self.pin)
    }
}

impl FromStr for HubLine {
    type Err = ParseJoinLineError;

    fn from_str(text: &str) -> Result<Self, ParseJoinLineError> {
        let (address, pin) = text.trim().split_once('/').ok_or(ParseJoinLineError::Form)?;
        Self::read(address, pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_line_survives_its_text_form() {
        for host in ["hub.example.org", "192.0.2.1", "2001:db8::1"] {
            let line = JoinLine {
                host: host.to_owned(),
                port: 7443,
                pin: CaPin::of_spki(b"key"),
                token: JoinToken::random().unwrap(),
            };
            let text = line.expose_text();
            assert_eq!(text.expose().parse(), Ok(line));
            assert!(!text.expose().contains([' ', '&', '?', '#', '$', '\'', '"', '*', ';']));
        }
    }

    #[test]
    fn a_line_without_a_token_survives_its_text_form_and_is_no_join_line() {
        for host in ["hub.example.org", "2001:db8::1"] {
            let line = HubLine { host: host.to_owned(), port: 7443, pin: CaPin::of_spki(b"key") };
            assert_eq!(line.to_string().parse(), Ok(line.clone()));
            assert_eq!(line.to_string().parse::<JoinLine>(), Err(ParseJoinLineError::Form));
            let token = JoinToken::random().unwrap().expose_text();
            assert!(
                format!("{line}/{}", token.expose()).parse::<HubLine>().is_err(),
                "a token is never dropped"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_named() {
        assert_eq!("".parse::<JoinLine>(), Err(ParseJoinLineError::Form));
        assert_eq!("hub/x/y".parse::<JoinLine>(), Err(ParseJoinLineError::Address));
        assert_eq!("hub:1/x/y".parse::<JoinLine>(), Err(ParseJoinLineError::Pin));
        let pin = CaPin::of_spki(b"key");
        let wrong = format!("hub:1/{pin}/bpj_00");
        assert_eq!(wrong.parse::<JoinLine>(), Err(ParseJoinLineError::Token(ParseTokenError::Damaged)));
    }
}
