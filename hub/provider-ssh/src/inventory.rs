//! The operator's machines, as a file says them: TOML with one `[[host]]` each, or CSV with one line each.

mod check;
mod csv;
mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use blueprint_common_types::Micros;
use blueprint_hub_provision_core::catalogue::{Gpu, Offer};
use blueprint_hub_provision_core::resource::Arch;

pub(crate) use self::check::check_address;
use crate::NAME;
use crate::key::Pin;

/// Hosts of one file at most: all of them are looked at within one call.
pub const MAX_HOSTS: usize = 128;

/// Longest file in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// How a machine is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// What the operator calls it.
    pub name: String,
    /// Host name or address.
    pub address: String,
    /// Port of its SSH server.
    pub port: u16,
    /// Who logs in: root, or somebody who may use `sudo -n`.
    pub user: String,
    /// By what it is known.
    pub pin: Pin,
    /// The private key to log in with.
    pub identity: PathBuf,
}

impl Door {
    /// A door that stands in no inventory yet.
    ///
    /// # Errors
    ///
    /// Which of the values is none, and what was expected.
    pub fn new(address: &str, port: u16, user: &str, pin: Pin, identity: &Path) -> Result<Self, String> {
        check_address(address)?;
        check::check_user(user)?;
        check::check_identity(&identity.display().to_string())?;
        let name = "scan".to_owned();
        let door = Self {
            name,
            address: address.to_owned(),
            port,
            user: user.to_owned(),
            pin,
            identity: identity.to_owned(),
        };
        identity_problem(&door).map_or(Ok(door), Err)
    }
}

/// One machine of the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnHost {
    /// How it is reached.
    pub door: Door,
    /// The machine on the way to it, where it is not reached directly.
    pub jump: Option<Door>,
    /// Processors.
    pub cpu: u32,
    /// MiB of memory.
    pub memory_mib: u64,
    /// GB of disk.
    pub disk_gb: u32,
    /// Its GPUs.
    pub gpu: Option<Gpu>,
    /// Kind of processor.
    pub arch: Arch,
    /// Where it stands, in the operator's word.
    pub region: String,
    /// What an hour of it is reckoned with; zero is right for what nobody bills.
    pub price: Micros,
    /// Ports of TCP that stay open beside that of SSH.
    pub open_ports: Vec<u16>,
}

impl OwnHost {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.door.name
    }

    /// The host as a plan of which there is one.
    #[must_use]
    pub fn offer(&self) -> Offer {
        Offer {
            arch: self.arch,
            disk_gb: self.disk_gb,
            gpu: self.gpu.clone(),
            ..Offer::live(NAME, self.name(), &self.region, (self.cpu, self.memory_mib), self.price)
        }
    }
}

/// How the file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `[[host]]` and `[[jump]]`.
    Toml,
    /// A line of names, and one line for each host; it knows no jump hosts.
    Csv,
}

/// The file of hosts cannot be used; every problem of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InventoryError {
    path: PathBuf,
    problems: Vec<String>,
}

impl fmt::Display for InventoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problems.join("; "))
    }
}

impl std::error::Error for InventoryError {}

/// Every host, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    hosts: BTreeMap<String, OwnHost>,
}

impl Inventory {
    /// Reads the file, and sees that the keys that it names are there and nobody else's to read.
    ///
    /// # Errors
    ///
    /// [`InventoryError`] with every problem, where it stands and what is expected.
    pub fn read(path: &Path) -> Result<Self, InventoryError> {
        let fail = |problems| InventoryError { path: path.to_owned(), problems };
        let length = std::fs::metadata(path).map(|found| found.len());
        let text = match length {
            Ok(length) if length > MAX_FILE => Err(format!("is longer than {MAX_FILE} bytes")),
            Ok(_) => std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}")),
            Err(error) => Err(format!(
                "cannot be read: {error}; `blueprint-hub host scan ADDRESS` prints what belongs into it"
            )),
        };
        let is_csv = path.extension().is_some_and(|name| name.eq_ignore_ascii_case("csv"));
        let format = if is_csv { Format::Csv } else { Format::Toml };
        let own = text.map_err(|why| vec![why]).and_then(|text| Self::parse(&text, format));
        let own = own.map_err(fail)?;
        let doors = own.hosts().flat_map(|host| std::iter::once(&host.door).chain(&host.jump));
        let mut problems: Vec<_> = doors.filter_map(identity_problem).collect();
        problems.dedup();
        if problems.is_empty() { Ok(own) } else { Err(fail(problems)) }
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    ///
    /// Every problem, with its line.
    pub fn parse(text: &str, format: Format) -> Result<Self, Vec<String>> {
        let written = match format {
            Format::Toml => file::read(text)?,
            Format::Csv => csv::read(text)?,
        };
        let hosts = check::check(written)?;
        Ok(Self { hosts })
    }

    /// All of them, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &OwnHost> {
        self.hosts.values()
    }

    /// The host of this name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&OwnHost> {
        self.hosts.get(name)
    }
}

/// What is wrong with the private key that a door is opened with.
fn identity_problem(door: &Door) -> Option<String> {
    let (name, path) = (&door.name, door.identity.display());
    let found = match std::fs::metadata(&door.identity) {
        Ok(found) => found,
        Err(error) => return Some(format!("host {name}: identity {path} cannot be read: {error}")),
    };
    if !found.is_file() {
        return Some(format!("host {name}: identity {path} is no file"));
    }
    let mode = found.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| {
        format!(
            "host {name}: identity {path} can be read by others (mode {mode:04o}); run `chmod 600 {path}`"
        )
    })
}

#[cfg(test)]
mod tests;
