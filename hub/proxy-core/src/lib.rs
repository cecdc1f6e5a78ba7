//! Canonical requests, trust decisions, header building and balancing of the auth proxy.
//!
//! Everything the proxy believes is decided here, on values, without I/O and without a clock; the
//! driver (`hub/proxy`) only moves bytes. A request goes through three steps:
//!
//! 1. [`CanonicalRequest::parse`] gives it one meaning or refuses it: framing, authority, path,
//!    service and credential each have exactly one reading afterwards.
//! 2. [`decide()`] compares that meaning with everything the hub knows, one [`Trust`]. Only its
//!    [`Admission`] lets anything reach a service; whatever is not admitted is a [`Refusal`].
//! 3. [`upstream_headers`] builds the headers of a *new* request.
//!
//! Invariants, each with a test:
//!
//! - Without an [`Admission`] no upstream headers can be built: the proxy fails closed.
//! - No header whose name folds to a reserved one (any case, `_` and `.` for `-`) passes from a client.
//! - The path that is authorised is the path that is forwarded, and normalising it again changes nothing.
//! - No input panics; what is held of a request is bounded by [`MAX_HEADERS`], [`MAX_HEADER_BYTES`]
//!   and [`MAX_TARGET_BYTES`].

mod access;
pub mod answer;
mod canonical;
mod credential;
mod decide;
mod forwards;
pub mod frames;
mod framing;
pub mod guard;
mod headers;
pub mod identity;
pub mod limits;
pub mod pace;
mod path;
pub mod rate;
mod refusal;
pub mod refused;
mod request_id;
mod routes;
mod rules;
mod selector;
mod settings;
pub mod tls;
mod trust;
pub mod upstream;
pub mod usage;
mod watermark;
mod websocket;

pub use access::{AccessGrant, AccessTable, Scope};
pub use canonical::{
    CanonicalRequest, Downstream, MAX_HEADER_BYTES, MAX_HEADERS, MAX_TARGET_BYTES, are_bounded,
};
pub use decide::{Admission, caller, decide};
pub use forwards::{
    Forward, ForwardError, ForwardPorts, ParsePortsError, Transport, check_forward, plan_forwards,
};
pub use headers::{
    Field, is_field_text, is_grpc, is_websocket_answer, request_trailers, response_headers,
    response_trailers, upstream_fields, upstream_headers,
};
pub use identity::source_network;
pub use path::PathFault;
pub use refusal::Refusal;
pub use request_id::RequestId;
pub use routes::{RouteTable, Target};
pub use rules::{Rule, RuleError, Verdict};
pub use selector::Selector;
pub use settings::{ServiceSettings, SettingsError};
pub use trust::{NotInForce, Service, Trust};
pub use watermark::Watermark;
pub use websocket::{ExtendedConnect, WebSocketKey};
