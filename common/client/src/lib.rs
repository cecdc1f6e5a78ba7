//! What a program links to reach services through a hub without a daemon.
//!
//! ```text
//!   tonic, hyper -- Connector -- TransportType -- UnixSocket(path)
//!                                      |--------- Vsock(context, port)
//!                                      `--------- Tunnel(TunnelHandle) -- spoke in this process -- hub -- machine
//! ```
//!
//! - [`TunnelHandle`] is a spoke in this process (`common/spoke`, the one that the agent is): it joins with a token, needs
//!   no right and no network device, and opens streams to services and machines.
//! - [`Connector`] is a `tower_service::Service<Uri>` for `tonic` and `hyper-util`, the same over each transport.
//! - [`RemoteInfrastructureProvider`] has workloads run; [`HubProvider`] is that over a hub's JSON API.
//!
//! # Invariants
//!
//! - What a stream may reach is decided by the hub's policy: without a grant, nothing.
//! - Nothing here takes a signal, a global or a runtime of its own; the last handle that goes ends its spoke.
//! - `docs/client.md` compiles as a test of this crate.

mod connector;
mod destination;
mod duties;
mod provider;
mod statistics;
mod stream;
mod transport;
mod tunnel;
mod vsock;

pub use connector::Connector;
pub use destination::{Destination, ParseDestinationError};
pub use provider::{
    Cost, DeploymentSpec, HubProvider, HubProviderError, InstanceState, InstanceStatus, NodeResources,
    RemoteInfrastructureProvider, RemoteInstance, Resources, TunnelHub,
};
pub use statistics::Statistics;
pub use stream::Stream;
pub use transport::TransportType;
pub use tunnel::{
    EstablishError, OpenError, TargetEvent, TargetWatch, TunnelHandle, TunnelOptions, WatchedTarget,
};

#[cfg(doctest)]
#[doc = include_str!("../../../docs/client.md")]
struct Documentation;
