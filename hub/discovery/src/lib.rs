//! DNS of the overlay.
//!
//! ```text
//! s42.b7.bp.internal                    A, AAAA, SRV of the healthy targets of service 7/42
//! _blueprint._tcp.s42.b7.bp.internal    SRV of the same, for programs that ask by protocol
//! web-1.node.bp.internal                A, AAAA of the machine of that name, or of that id
//! hub.bp.internal                       A, AAAA of the hub
//! 3.0.88.10.in-addr.arpa                PTR: the name of the machine that has the address
//! ```
//!
//! [`Zone`] is pure: a question, a registry snapshot and a policy in, an answer out. A machine is told what the policy
//! lets it reach, and not whether there is anything else. [`DnsServer`] reads datagrams and streams, and bounds what
//! each machine may ask.

mod domain;
mod message;
mod metrics;
mod names;
mod server;
mod zone;

pub use domain::{Domain, DomainError};
pub use server::{Directory, DnsServer};
pub use zone::{Asker, Reach, Zone};
