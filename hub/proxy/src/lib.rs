//! Auth proxy: accepts clients, asks the proxy core, streams to services through the tunnel.
//!
//! Who may do what is decided in `hub/proxy-core`; this crate moves bytes:
//!
//! ```text
//! accept -> TLS -> sniff -> HTTP/1.1 or HTTP/2, or QUIC -> HTTP/3 -> parse, decide (core) -> choose target (core)
//!        -> pooled connection over Dial -> stream the body up, stream the answer down
//! ```
//!
//! Invariants, each with a test over real sockets:
//!
//! - A request that the core did not admit opens no connection to a service.
//! - No body is held whole: a slow reader on either side slows the other side down.
//! - A request is sent again only where no byte of it was sent before, or where it is idempotent, has no
//!   body and its connection broke before the answer; and only within the budget of its service.
//! - An answer that breaks off ends as an aborted answer, never as a complete one that is shorter.
//! - After `drain` no request is taken; open ones end in their own time.
//! - What is open is cut within about a second of the revocation of what let it in.
//! - Nobody holds anything by being slow: heads, bodies and unread answers have their time, floods of
//!   frames their budget; silence that belongs to the protocol (long polls, events, gRPC) is not cut.
//! - Keys of an issuer are asked for only where a policy and the hub's configuration both name it, and at a public
//!   address.
//! - Ports of raw forwards are open only where configuration and settings both name them, and only to the networks named.
//! - Bytes of another protocol pass only after the service has agreed to it.

mod access_log;
pub mod acme;
mod answer;
mod assertions;
mod auth;
mod body;
mod connector;
mod delegate;
mod dial;
mod executor;
mod fault;
mod forward;
mod forwards;
mod guarded;
mod hedge;
mod http3;
mod ids;
mod jwks;
mod keys;
mod ledger;
mod limits;
mod metered;
mod metrics;
mod open;
mod operator;
mod patience;
mod pressure;
mod progress;
mod rarely;
mod send;
mod server;
mod sniff;
mod statements;
mod steady;
mod streams;
pub mod tls;
mod upgraded;
mod upstreams;
mod watch;
mod wire;

pub use access_log::AccessLog;
pub use assertions::{AssertionStore, UsedAssertions};
pub use dial::{Datagrams, Dial, DialError, Io};
pub use forwards::{FILES_OF_FORWARD, FORWARD_PLACES, ForwardConfig, ForwardStatus, Forwards};
pub use http3::Http3Socket;
pub use jwks::{Jwks, JwksConfig, JwksStatus};
pub use keys::{ApiKey, KeyStore, KeyStoreError};
pub use ledger::Ledger;
pub use operator::OperatorDoor;
pub use pressure::Pressure;
pub use server::{Proxy, ProxyConfig, ProxyParts};
