//! What a hub may ask of an agent through the tunnel, beside what the services of the machine offer.
//!
//! The hub opens a connection to [`AGENT_DOOR_PORT`] and sends one line of JSON, a [`DoorAsk`]; the agent answers with one line,
//! a [`DoorAnswer`]. Behind a yes come the bytes.
//!
//! An overlay address says which machine sends, and not which program of it. So both sides prove who they are before that, by a
//! [`DoorTicket`] that the hub gave the agent over their control stream: the hub's first line is the ticket, the agent's its
//! proof, and the ask has to be the one that the ticket is for.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Secret, ServiceKey, fill_random};

/// TCP port of an agent's overlay addresses that takes its hub's connections for `exec` and `forward`, and nobody else's.
pub const AGENT_DOOR_PORT: u16 = 9465;

/// Longest line either side sends, in bytes.
pub const MAX_DOOR_LINE: usize = 256 << 10;

/// What hub and agent know of one connection before it comes, and nobody else does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorTicket {
    ticket: Secret<[u8; 32]>,
    proof: Secret<[u8; 32]>,
    ask: [u8; 32],
}

impl DoorTicket {
    /// A new one for an ask, given as its line without the line feed.
    ///
    /// # Errors
    ///
    /// Fails only where the system has no source of randomness.
    pub fn new(ask: &[u8]) -> Result<Self, std::io::Error> {
        let (mut ticket, mut proof) = ([0; 32], [0; 32]);
        fill_random(&mut ticket)?;
        fill_random(&mut proof)?;
        Ok(Self { ticket: Secret::new(ticket), proof: Secret::new(proof), ask: Sha256::digest(ask).into() })
    }

    /// Puts together what [`DoorTicket::parts`] gave; `None` where a part has another length.
    #[must_use]
    pub fn of_parts([ticket, proof, ask]: [&[u8]; 3]) -> Option<Self> {
        let [ticket, proof] = [ticket, proof].map(|part| part.try_into().ok().map(Secret::new));
        Some(Self { ticket: ticket?, proof: proof?, ask: ask.try_into().ok()? })
    }

    /// Ticket, proof and hash of the ask, for the control stream alone.
    #[must_use]
    pub const fn parts(&self) -> [&[u8; 32]; 3] {
        [self.ticket.expose(), self.proof.expose(), &self.ask]
    }

    /// The hub's first line, without its line feed.
    #[must_use]
    pub fn hello(&self) -> Secret<String> {
        line("ticket", &self.ticket)
    }

    /// The agent's first line, without its line feed.
    #[must_use]
    pub fn proof(&self) -> Secret<String> {
        line("proof", &self.proof)
    }

    /// Whether a first line of a hub names this ticket.
    #[must_use]
    pub fn is_hello(&self, line: &[u8]) -> bool {
        self.hello() == Secret::new(String::from_utf8_lossy(line).into_owned())
    }

    /// Whether a first line of an agent proves that it was given this ticket.
    #[must_use]
    pub fn is_proof(&self, line: &[u8]) -> bool {
        self.proof() == Secret::new(String::from_utf8_lossy(line).into_owned())
    }

    /// Whether the ticket is for this ask.
    #[must_use]
    pub fn is_for(&self, ask: &[u8]) -> bool {
        self.ask == <[u8; 32]>::from(Sha256::digest(ask))
    }
}

fn line(word: &str, secret: &Secret<[u8; 32]>) -> Secret<String> {
    Secret::new(format!("{word} {}", URL_SAFE_NO_PAD.encode(secret.expose())))
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DoorAsk {
    /// Runs a command beside a workload; frames follow.
    Exec(ExecAsk),
    /// Reaches a port of the machine's loopback; the bytes of the connection follow.
    Connect(PortAsk),
    /// Listens on a port of the machine's loopback; frames follow that say which connection came.
    Listen(PortAsk),
    /// Takes a connection that came; its bytes follow.
    Take {
        /// Which listener, as its answer said.
        listener: u64,
        /// Which connection, as its frame said.
        connection: u64,
    },
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecAsk {
    /// The workload that it runs beside.
    pub service: ServiceKey,
    /// The assignment that the hub means.
    pub generation: u64,
    /// The program and its arguments; not empty.
    pub argv: Vec<String>,
    /// Whether its standard input follows; without, it is at its end at once.
    pub stdin: bool,
    /// A terminal of this size; `None` for pipes.
    pub terminal: Option<TerminalSize>,
    /// Longest time that it may run, in seconds.
    pub timeout_secs: u64,
}

/// Columns and rows, and what kind of terminal it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines of text.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
    /// Name of the terminal for `TERM`.
    pub term: String,
}

/// A port of the machine's loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortAsk {
    /// The workload in whose name it is asked for; `None` where it is asked of the machine, whatever runs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceKey>,
    /// The port, from 1.
    pub port: u16,
    /// Datagrams, each behind its length as two bytes; else a TCP connection.
    pub udp: bool,
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum DoorAnswer {
    /// Yes.
    Open {
        /// Number of the listener; 0 where none was asked for.
        #[serde(default)]
        listener: u64,
    },
    /// No.
    Refused(DoorRefusal),
}

/// Why an agent says no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorRefusal {
    /// Stable word, such as `exec_off`.
    pub code: String,
    /// One line for the operator.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl DoorRefusal {
    /// Puts the three together.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), hint: hint.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_for_one_ask_and_shows_nothing() {
        let [one, other] = [b"one", b"two"].map(|ask| DoorTicket::new(ask).unwrap());
        assert!(one.is_for(b"one") && !one.is_for(b"two"));
        let (hello, proof) = (one.hello(), one.proof());
        assert!(one.is_hello(hello.expose().as_bytes()) && one.is_proof(proof.expose().as_bytes()));
        // The two are told apart, and nobody makes one of the other.
        assert!(!one.is_proof(hello.expose().as_bytes()) && !one.is_hello(proof.expose().as_bytes()));
        assert!(!other.is_hello(hello.expose().as_bytes()) && !other.is_proof(proof.expose().as_bytes()));
        assert_eq!(DoorTicket::of_parts(one.parts().map(<[u8; 32]>::as_slice)), Some(one.clone()));
        assert_eq!(DoorTicket::of_parts([&[1; 31], &[2; 32], &[3; 32]]), None);
        let word = hello.expose().split(' ').nth(1).unwrap().to_owned();
        assert!(!format!("{one:?}").contains(&word));
    }

    #[test]
    fn what_is_asked_and_answered_survives_its_line() {
        let service = ServiceKey { blueprint: 7, service: 42 };
        let terminal = Some(TerminalSize { rows: 24, columns: 80, term: "xterm".to_owned() });
        let argv = vec!["sh".to_owned(), "-c".to_owned(), "echo \"a\nb\"".to_owned()];
        let exec = ExecAsk { service, generation: 3, argv, stdin: true, terminal, timeout_secs: 600 };
        for ask in [
            DoorAsk::Exec(exec),
            DoorAsk::Connect(PortAsk { service: Some(service), port: 5432, udp: false }),
            DoorAsk::Listen(PortAsk { service: None, port: 53, udp: true }),
            DoorAsk::Take { listener: 7, connection: u64::MAX },
        ] {
            let line = serde_json::to_string(&ask).unwrap();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<DoorAsk>(&line).unwrap(), ask);
        }
        for answer in [
            DoorAnswer::Open { listener: 5 },
            DoorAnswer::Refused(DoorRefusal::new("exec_off", "exec is off", "set exec.enabled")),
        ] {
            let line = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<DoorAnswer>(&line).unwrap(), answer);
        }
    }
}
