//! Whose a host is: a small file on the host itself, and a copy of it in the hub's state.
//!
//! The file on the host decides: two hubs, or two orders, that want one host find it there. The copy is written before the host
//! is asked for the first time and removed after it said that nothing is left, so what this hub may have on a host that cannot
//! be reached is known all the same.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use blueprint_common_types::{HubId, Timestamp};
use blueprint_hub_provision_core::{DeploymentId, Instance, InstanceKey, InstanceState, Tags};
use tokio::fs::{self, OpenOptions};
use tokio::io::AsyncWriteExt;

/// First line of a claim.
const HEAD: &str = "version=1";

/// Longest claim in bytes.
const MAX: usize = 1024;

/// Whose a host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) key: InstanceKey,
    pub(crate) tags: Tags,
    pub(crate) created_at: Timestamp,
}

impl Claim {
    /// As it is written.
    pub(crate) fn text(&self) -> String {
        let Self { key, tags, created_at } = self;
        let Tags { hub, deployment, attempt } = tags;
        let mut text = format!("{HEAD}\nhub={hub}\nkey={key}\ndeployment={deployment}\nattempt={attempt}\n");
        // A text takes everything.
        let _ = writeln!(text, "created_at_ms={}", created_at.as_millis());
        text
    }

    /// Reads the lines of one; `None` where they are no claim of this version.
    pub(crate) fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Self> {
        let fields: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once('=')).collect();
        let field = |name: &str| fields.get(name).copied();
        if field("version") != Some("1") {
            return None;
        }
        let hub: HubId = field("hub")?.parse().ok()?;
        let deployment: DeploymentId = field("deployment")?.parse().ok()?;
        Some(Self {
            key: field("key")?.parse().ok()?,
            tags: Tags { hub, deployment, attempt: field("attempt")?.parse().ok()? },
            created_at: Timestamp::from_millis(field("created_at_ms")?.parse().ok()?),
        })
    }

    /// Whether it is of the same order and call.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.key == other.key && self.tags == other.tags
    }

    /// The machine on the host of this name.
    pub(crate) fn instance(&self, host: &str, state: InstanceState) -> Instance {
        Instance {
            key: self.key.clone(),
            provider_id: Place::of(host, self).to_string(),
            tags: Some(self.tags.clone()),
            state,
            created_at: self.created_at,
        }
    }
}

/// What the hub calls a machine on a host: `HOST/KEY/ATTEMPT`. A later machine on the same host has another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) key: InstanceKey,
    pub(crate) attempt: u32,
}

impl Place {
    pub(crate) fn of(host: &str, claim: &Claim) -> Self {
        Self { host: host.to_owned(), key: claim.key.clone(), attempt: claim.tags.attempt }
    }

    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (host, key, attempt) = (parts.next()?, parts.next()?, parts.next()?);
        let place = Self { host: host.to_owned(), key: key.parse().ok()?, attempt: attempt.parse().ok()? };
        parts.next().is_none().then_some(place)
    }

    pub(crate) fn is_of(&self, claim: &Claim) -> bool {
        self.key == claim.key && self.attempt == claim.tags.attempt
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.host, self.key, self.attempt)
    }
}

/// The copies of claims in the hub's state, a file for each host.
#[derive(Debug)]
pub(crate) struct Copies(PathBuf);

impl Copies {
    pub(crate) const fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    fn file(&self, host: &str) -> PathBuf {
        self.0.join(host)
    }

    /// All of them, by host.
    pub(crate) async fn all(&self) -> io::Result<BTreeMap<String, Claim>> {
        let mut entries = match fs::read_dir(&self.0).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let mut found = BTreeMap::new();
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".part") {
                continue;
            }
            let text = fs::read_to_string(entry.path()).await?;
            let claim = Claim::read(text.get(..MAX).unwrap_or(&text).lines());
            let why = || io::Error::other(format!("{} is no claim of a host", entry.path().display()));
            found.insert(name, claim.ok_or_else(why)?);
        }
        Ok(found)
    }

    /// Writes one, so that it outlives a loss of power.
    pub(crate) async fn write(&self, host: &str, claim: &Claim) -> io::Result<()> {
        fs::create_dir_all(&self.0).await?;
        let (file, part) = (self.file(host), self.0.join(format!("{host}.part")));
        let mut open =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&part).await?;
        open.write_all(claim.text().as_bytes()).await?;
        open.sync_all().await?;
        fs::rename(&part, &file).await?;
        sync(&self.0).await
    }

    /// Removes one, where it is there.
    pub(crate) async fn remove(&self, host: &str) -> io::Result<()> {
        match fs::remove_file(self.file(host)).await {
            Ok(()) => sync(&self.0).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

async fn sync(folder: &Path) -> io::Result<()> {
    fs::File::open(folder).await?.sync_all().await
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn claim(attempt: u32) -> Claim {
        let deployment = DeploymentId::from_bytes([7; 10]);
        Claim {
            key: InstanceKey::of(&deployment, 1),
            tags: Tags { hub: HubId::from_bytes([3; 16]), deployment, attempt },
            created_at: Timestamp::from_millis(1_700_000_000_000),
        }
    }

    #[test]
    fn a_claim_survives_its_text_and_nothing_else_is_one() {
        let text = claim(2).text();
        assert_eq!(Claim::read(text.lines()), Some(claim(2)));
        for line in text.lines() {
            let short = text.lines().filter(|other| *other != line);
            assert_eq!(Claim::read(short), None, "{line}");
        }
        for (from, to) in [("version=1", "version=2"), ("attempt=2", "attempt=x"), ("key=bp", "key=../bp")] {
            assert_eq!(Claim::read(text.replace(from, to).lines()), None, "{to}");
        }
    }

    #[test]
    fn the_name_of_a_machine_is_good_for_that_machine_alone() {
        let place = Place::of("rack-1", &claim(2));
        assert_eq!(Place::read(&place.to_string()), Some(place.clone()));
        assert!(place.is_of(&claim(2)) && !place.is_of(&claim(1)));
        for wrong in ["", "rack-1", "rack-1/bp-x", "rack-1/bp-x/1/2", "rack-1/B/1", "rack-1/bp-x/one"] {
            assert_eq!(Place::read(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn copies_are_found_again_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let copies = Copies::new(folder.path().join("claims"));
        assert!(copies.all().await.unwrap().is_empty());
        copies.write("rack-1", &claim(1)).await.unwrap();
        copies.write("rack-1", &claim(2)).await.unwrap();
        std::fs::write(folder.path().join("claims/rack-2.part"), "half").unwrap();
        assert_eq!(copies.all().await.unwrap(), BTreeMap::from([("rack-1".to_owned(), claim(2))]));
        copies.remove("rack-1").await.unwrap();
        copies.remove("rack-1").await.unwrap();
        assert!(copies.all().await.unwrap().is_empty());
        std::fs::write(folder.path().join("claims/rack-2"), "nonsense").unwrap();
        assert!(copies.all().await.unwrap_err().to_string().contains("rack-2"));
    }
}
