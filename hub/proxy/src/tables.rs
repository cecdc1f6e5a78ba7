//! What the proxy reads at every request, swapped whole by those who know better.

use blueprint_hub_proxy_core::{AccessTable, RouteTable};

/// One consistent view of who may call and where services are.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Access tokens.
    pub access: AccessTable,
    /// Services and their targets.
    pub routes: RouteTable,
}
