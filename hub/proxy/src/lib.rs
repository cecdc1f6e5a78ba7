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
//! - A request is sent again only where no byte of it was sent before: its connection did not open.
//! - An answer that breaks off ends as an aborted answer, never as a complete one that is shorter.
//! - After `drain` no request is taken; open ones end in their own time.
//! - What is open is cut within about a second of the revocation of what let it in.
//! - Keys of an issuer are asked for only where a policy and the hub's configuration both name it, and at a public
//!   address.
//! - Ports of raw forwards are open only where configuration and settings both name them, and only to the networks named.
//! - Bytes of another protocol pass only after the service has agreed to it.

mod answer;
mod auth;
mod body;
mod connector;
mod dial;
mod executor;
mod forward;
mod forwards;
mod guarded;
mod http3;
mod jwks;
mod keys;
mod metrics;
mod open;
mod server;
mod sniff;
mod statements;
mod upgraded;
mod watch;

pub use dial::{Datagrams, Dial, DialError, Io};
pub use forwards::{ForwardConfig, ForwardStatus, Forwards};
pub use jwks::{Jwks, JwksConfig, JwksStatus};
pub use keys::{ApiKey, KeyStore, KeyStoreError};
pub use server::{Proxy, ProxyConfig, ProxyParts};
