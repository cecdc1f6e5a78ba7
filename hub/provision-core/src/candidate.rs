//! One machine that could be ordered.

use blueprint_common_types::Micros;

use crate::cost::egress::EgressPrice;
use crate::resource::Arch;

/// A machine that could be ordered, and its price at the time of the choice: the result of placement, and one
/// step of a failover plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the provider, as [`crate::Provider::name`] gives it.
    pub provider: String,
    /// The provider's name of the kind of machine.
    pub plan: String,
    /// The provider's name of the place.
    pub region: String,
    /// Whether the provider may take it back at any time.
    pub spot: bool,
    /// GB of disk that last, the system's included, and never fewer than were asked for: the plan's own where that is
    /// enough, else as large as the price was reckoned with. 0 in records from before it was kept: the plan's own.
    pub disk_gb: u32,
    /// Its kind of processor.
    pub arch: Arch,
    /// What an hour of it costs in US dollars, all that is known counted.
    pub hourly: Micros,
    /// What an hour of it costs while it is switched off and kept.
    pub stopped_hourly: Micros,
    /// What sending costs; `None` where that is not known, as in records from before it was kept.
    pub egress: Option<EgressPrice>,
}
