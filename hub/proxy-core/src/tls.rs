//! TLS as far as it decides anything: whose a host name is, what a certificate says, and whether the
//! certificate of a caller still counts.
//!
//! The driver shakes hands and verifies signatures. It notes in a [`Channel`] what the handshake
//! showed; every request on the connection is judged by that and by what is in force *now*, so that a
//! connection opened under an older profile or with a revoked certificate reaches nothing.

mod admin;
mod channel;
mod envelope;
mod facts;
mod names;
mod profile;
mod renewal;

pub use admin::{CertificateView, IssuedCertificate, TlsAdmin, TlsAdminError, TlsView};
pub use channel::{Bound, Channel, ClientCertificate, ServiceTls};
pub use envelope::open_envelope;
pub use facts::{CertificateFacts, Serial, SerialError};
pub use names::{NameTable, is_dns_name, service_name};
pub use profile::{CertificateRequest, NewProfile, ProfileError, TlsProfile};
pub use renewal::Renewal;
