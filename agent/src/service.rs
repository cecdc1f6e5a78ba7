//! The services that this agent offers: from its configuration, and added by command.
//!
//! Invariants:
//! - an overlay port belongs to one service, and there are at most 64 of them;
//! - what a command added is on the disk before the command is told so.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use blueprint_common_runtime::state::{Mode, StateDir, StateError};
use blueprint_common_types::workload::Seat;
use blueprint_common_types::{CheckPace, HealthCheck, MetricsPlace, ServiceKey};
use serde::{Deserialize, Serialize};

/// Services of one agent at most; the hub takes no more targets either.
pub const MAX_SERVICES: usize = 64;

/// File that keeps what commands added.
const FILE: &str = "services.json";

/// Version of that file.
const VERSION: u32 = 1;

/// One service of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Which service it is.
    pub service: ServiceKey,
    /// TCP port on the agent's overlay address.
    pub port: u16,
    /// Where the service listens on this machine.
    pub local: SocketAddr,
    /// How its health is checked.
    #[serde(default)]
    pub check: HealthCheck,
    /// How often, and how many results count.
    #[serde(default, skip_serializing_if = "CheckPace::is_default")]
    pub pace: CheckPace,
    /// Where it shows its metrics.
    #[serde(default)]
    pub metrics: MetricsPlace,
    /// Whether datagrams to the same overlay port go to the same local port.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub udp: bool,
    /// The run of a workload that offers it; never stored, for it ends with the workload.
    #[serde(skip)]
    pub run: Option<WorkloadRun>,
}

/// One run of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkloadRun {
    /// Which instance of its service.
    pub slot: u8,
    /// The assignment that it runs by.
    pub generation: u64,
}

impl ServiceSpec {
    /// The instance of the service that offers it, where that is a workload.
    pub(crate) fn seat(&self) -> Option<Seat> {
        self.run.map(|run| Seat { service: self.service, slot: run.slot })
    }
}

/// A text is not an address on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not IP:PORT, localhost:PORT or PORT; a service is reached by address, not by name")]
pub struct ParseLocalAddressError;

/// Where a service listens: `IP:PORT`, `localhost:PORT` or `PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalAddress(pub SocketAddr);

impl FromStr for LocalAddress {
    type Err = ParseLocalAddressError;

    fn from_str(text: &str) -> Result<Self, ParseLocalAddressError> {
        let port = text.strip_prefix("localhost:").unwrap_or(text);
        let address = match port.parse::<u16>() {
            Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Err(_) => text.parse().map_err(|_| ParseLocalAddressError)?,
        };
        if address.port() == 0 { Err(ParseLocalAddressError) } else { Ok(Self(address)) }
    }
}

/// Where a service was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// In the configuration.
    Config,
    /// By `service add`.
    Command,
    /// By the workload that serves it, for as long as that runs.
    Workload,
}

/// A service and where it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The service.
    pub spec: ServiceSpec,
    /// Where it was named.
    pub origin: Origin,
}

/// Why the services are not changed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Another service has the overlay port.
    #[error("overlay port {port} is taken by service {service} at {local}")]
    Taken {
        /// The port.
        port: u16,
        /// Who has it.
        service: ServiceKey,
        /// Where that one listens.
        local: SocketAddr,
    },
    /// There are as many as can be.
    #[error("there are {MAX_SERVICES} services already")]
    Full,
    /// No such service.
    #[error("no service {service}{} is offered here", port.map(|port| format!(" on overlay port {port}")).unwrap_or_default())]
    NotFound {
        /// The service.
        service: ServiceKey,
        /// The port, where one was named.
        port: Option<u16>,
    },
    /// The configuration names it.
    #[error("service {service} is named in the configuration")]
    FromConfig {
        /// The service.
        service: ServiceKey,
    },
    /// A workload offers it.
    #[error("service {service} is offered by a workload that the hub assigned; take that back at the hub")]
    FromWorkload {
        /// The service.
        service: ServiceKey,
    },
    /// The file is not ours, or of a newer version.
    #[error("services.json is damaged or of a newer version")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk refuses.
    #[error(transparent)]
    State(#[from] StateError),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    services: Vec<ServiceSpec>,
}

/// All services of one agent, by overlay port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceTable {
    entries: BTreeMap<u16, Entry>,
}

impl ServiceTable {
    /// Reads what commands added and puts `fixed`, the configuration's, over it.
    ///
    /// # Errors
    ///
    /// Fails where the file cannot be read or understood.
    pub fn load(state: &StateDir, fixed: &[ServiceSpec]) -> Result<Self, ServiceError> {
        let damaged = |error: serde_json::Error| ServiceError::Damaged(error.into());
        let stored = match state.read(FILE)? {
            Some(bytes) => serde_json::from_slice::<Stored>(&bytes).map_err(damaged)?,
            None => Stored { version: VERSION, services: Vec::new() },
        };
        if stored.version != VERSION {
            return Err(ServiceError::Damaged(format!("version {} is not {VERSION}", stored.version).into()));
        }
        let entry = |spec: &ServiceSpec, origin| (spec.port, Entry { spec: spec.clone(), origin });
        let added = stored.services.iter().map(|spec| entry(spec, Origin::Command));
        let fixed = fixed.iter().map(|spec| entry(spec, Origin::Config));
        Ok(Self { entries: added.chain(fixed).collect() })
    }

    /// Every service, by overlay port.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Adds a service and stores it; the same one again changes nothing and gives `false`.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Taken`], [`ServiceError::Full`], or what the disk says; the table is then as it was.
    pub fn add(&mut self, spec: ServiceSpec, state: &StateDir) -> Result<bool, ServiceError> {
        match self.entries.get(&spec.port) {
            Some(entry) if entry.spec == spec => return Ok(false),
            Some(entry) if entry.spec.service != spec.service || entry.origin != Origin::Command => {
                let ServiceSpec { service, port, local, .. } = entry.spec;
                return Err(ServiceError::Taken { port, service, local });
            }
            None if self.entries.len() >= MAX_SERVICES => return Err(ServiceError::Full),
            Some(_) | None => {}
        }
        let mut changed = self.clone();
        changed.entries.insert(spec.port, Entry { spec, origin: Origin::Command });
        changed.store(state)?;
        *self = changed;
        Ok(true)
    }

    /// Removes a service, from one overlay port or from all of them; says what was removed.
    ///
    /// # Errors
    ///
    /// [`ServiceError::NotFound`], [`ServiceError::FromConfig`], or what the disk says; the table is then as it was.
    pub fn remove(
        &mut self,
        service: ServiceKey,
        port: Option<u16>,
        state: &StateDir,
    ) -> Result<Vec<ServiceSpec>, ServiceError> {
        let is_meant =
            |entry: &Entry| entry.spec.service == service && port.is_none_or(|port| port == entry.spec.port);
        let meant: Vec<Entry> = self.iter().filter(|entry| is_meant(entry)).cloned().collect();
        if meant.is_empty() {
            return Err(ServiceError::NotFound { service, port });
        }
        for entry in &meant {
            match entry.origin {
                Origin::Config => return Err(ServiceError::FromConfig { service }),
                Origin::Workload => return Err(ServiceError::FromWorkload { service }),
                Origin::Command => {}
            }
        }
        let mut changed = self.clone();
        changed.entries.retain(|_, entry| !is_meant(entry));
        changed.store(state)?;
        *self = changed;
        Ok(meant.into_iter().map(|entry| entry.spec).collect())
    }

    /// Offers the service of a workload, in place of what it offered before; nothing is stored, for it ends with the
    /// workload.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Taken`] or [`ServiceError::Full`]; the table is then as it was.
    pub fn offer(&mut self, spec: ServiceSpec) -> Result<(), ServiceError> {
        let seat = spec.seat();
        let is_own = |entry: &Entry| entry.origin == Origin::Workload && entry.spec.seat() == seat;
        match self.entries.get(&spec.port) {
            Some(entry) if !is_own(entry) => {
                let ServiceSpec { service, port, local, .. } = entry.spec;
                return Err(ServiceError::Taken { port, service, local });
            }
            Some(_) | None => {}
        }
        let kept = self.entries.values().filter(|entry| !is_own(entry)).count();
        if kept >= MAX_SERVICES {
            return Err(ServiceError::Full);
        }
        self.entries.retain(|_, entry| !is_own(entry));
        self.entries.insert(spec.port, Entry { spec, origin: Origin::Workload });
        Ok(())
    }

    /// Takes back what an instance of a service offered.
    pub fn withdraw(&mut self, seat: Seat) {
        self.entries.retain(|_, entry| entry.origin != Origin::Workload || entry.spec.seat() != Some(seat));
    }

    fn store(&self, state: &StateDir) -> Result<(), ServiceError> {
        let added = self.iter().filter(|entry| entry.origin == Origin::Command);
        let stored = Stored { version: VERSION, services: added.map(|entry| entry.spec.clone()).collect() };
        let bytes =
            serde_json::to_vec_pretty(&stored).map_err(|error| ServiceError::Damaged(error.into()))?;
        Ok(state.write(FILE, &bytes, Mode::Plain)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(service: &str, port: u16) -> ServiceSpec {
        ServiceSpec {
            service: service.parse().unwrap_or_else(|error| unreachable!("{error}")),
            port,
            local: SocketAddr::from(([127, 0, 0, 1], port)),
            check: HealthCheck::Tcp,
            pace: CheckPace::default(),
            metrics: MetricsPlace::default(),
            udp: false,
            run: None,
        }
    }

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap_or_else(|error| unreachable!("{error}"));
        let state = StateDir::open(dir.path().join("state")).unwrap_or_else(|error| unreachable!("{error}"));
        (dir, state)
    }

    #[test]
    fn what_was_added_is_there_after_a_restart() {
        let (_dir, state) = state();
        let mut table = ServiceTable::load(&state, &[spec("1/1", 90)]).unwrap();
        assert!(table.add(spec("7/42", 80), &state).unwrap());
        assert!(!table.add(spec("7/42", 80), &state).unwrap());
        let again = ServiceTable::load(&state, &[]).unwrap();
        assert_eq!(again.iter().map(|entry| entry.spec.clone()).collect::<Vec<_>>(), [spec("7/42", 80)]);
    }

    #[test]
    fn a_port_belongs_to_one_service() {
        let (_dir, state) = state();
        let mut table = ServiceTable::load(&state, &[spec("1/1", 90)]).unwrap();
        table.add(spec("7/42", 80), &state).unwrap();
        assert!(matches!(table.add(spec("7/43", 80), &state), Err(ServiceError::Taken { port: 80, .. })));
        assert!(matches!(table.add(spec("7/43", 90), &state), Err(ServiceError::Taken { port: 90, .. })));
        // The same service may move on this machine.
        let moved = ServiceSpec { local: SocketAddr::from(([127, 0, 0, 1], 81)), ..spec("7/42", 80) };
        assert!(table.add(moved, &state).unwrap());
        for port in 1000..1062 {
            table.add(spec("7/44", port), &state).unwrap();
        }
        assert!(matches!(table.add(spec("7/45", 2000), &state), Err(ServiceError::Full)));
    }

    #[test]
    fn removal_is_by_service_or_by_port() {
        let (_dir, state) = state();
        let mut table = ServiceTable::load(&state, &[spec("1/1", 90)]).unwrap();
        for port in [80, 81, 82] {
            table.add(spec("7/42", port), &state).unwrap();
        }
        let key = "7/42".parse().unwrap();
        assert_eq!(table.remove(key, Some(81), &state).unwrap(), [spec("7/42", 81)]);
        assert_eq!(table.remove(key, None, &state).unwrap().len(), 2);
        assert!(matches!(table.remove(key, None, &state), Err(ServiceError::NotFound { .. })));
        let fixed = "1/1".parse().unwrap();
        assert!(matches!(table.remove(fixed, None, &state), Err(ServiceError::FromConfig { .. })));
        assert_eq!(ServiceTable::load(&state, &[]).unwrap().iter().count(), 0);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let (_dir, state) = state();
        state.write(FILE, br#"{"version":2,"services":[]}"#, Mode::Plain).unwrap();
        assert!(matches!(ServiceTable::load(&state, &[]), Err(ServiceError::Damaged(_))));
    }

    #[test]
    fn a_local_address_is_on_this_machine() {
        let local = |text: &str| text.parse::<LocalAddress>().map(|local| local.0.to_string());
        assert_eq!(local("8080").unwrap(), "127.0.0.1:8080");
        assert_eq!(local("localhost:8080").unwrap(), "127.0.0.1:8080");
        assert_eq!(local("[::1]:8080").unwrap(), "[::1]:8080");
        for wrong in ["", "0", "app:80", "127.0.0.1", "127.0.0.1:0", "70000"] {
            assert!(local(wrong).is_err(), "{wrong}");
        }
    }
}
