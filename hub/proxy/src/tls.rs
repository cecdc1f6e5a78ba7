//! TLS towards clients: which certificate a host name gets, and who is asked for one.
//!
//! [`TlsHandle`] holds everything that handshakes go by as one table that is swapped whole. What fills
//! it knows nothing of connections: files ([`CertificateFiles`]), the hub's own authority, ACME, and
//! the TLS profiles of services. A handshake takes the table as it is at its first message:
//!
//! ```text
//! ClientHello -> ALPN acme-tls/1 -> the certificate of a pending challenge, and nothing else
//!             -> host name of a service with a profile -> its certificate, its client authorities
//!             -> host name of another certificate -> that
//!             -> the first certificate
//! ```
//!
//! A raw forward with TLS knows its service by its port, and goes by the profile of that alone.
//!
//! What a handshake showed goes with every request as a `Channel`; the core judges it there.

mod files;
mod handle;
mod handshake;
mod material;
mod metrics;
mod neighbour;
mod shared;
mod table;

pub use files::{CertificateFiles, FileError};
pub use handle::TlsHandle;
pub use material::{Material, MaterialError, read_authorities};
pub use neighbour::Neighbour;
pub use table::{ClientAuthorities, ServiceHandshake, TlsError};

pub(crate) use handshake::{Accepted, accept, accept_for};
