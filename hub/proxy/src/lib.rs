//! Auth proxy: accepts clients, asks the proxy core, streams to services through the tunnel.
//!
//! Who may do what is decided in `hub/proxy-core`; this crate moves bytes:
//!
//! ```text
//! accept -> TLS -> sniff -> HTTP/1.1 or HTTP/2 -> parse, decide (core) -> choose target (core)
//!        -> pooled connection over Dial -> stream the body up, stream the answer down
//! ```
//!
//! Invariants, each with a test over real sockets:
//!
//! - A request that the core did not admit opens no connection to a service.
//! - No body is held whole: a slow reader on either side slows the other side down.
//! - A request is sent again only where no byte of it was sent before: its connection did not open.
//! - An answer that breaks off ends as an aborted answer, never as a complete one that is shorter.
//! - After `drain` no request is taken; open ones end in their own time.
//! - What is open is cut within about a second of the revocation of what let it in.
//! - Bytes of another protocol pass only after the service has agreed to it.

pub mod acme;
mod answer;
mod auth;
mod body;
mod connector;
mod dial;
mod executor;
mod forward;
mod guarded;
mod keys;
mod metrics;
mod open;
mod operator;
mod server;
mod sniff;
mod statements;
pub mod tls;
mod upgraded;
mod watch;

pub use dial::{Dial, DialError, Io};
pub use keys::{ApiKey, KeyStore, KeyStoreError};
pub use operator::OperatorDoor;
pub use server::{Proxy, ProxyConfig, ProxyParts};
