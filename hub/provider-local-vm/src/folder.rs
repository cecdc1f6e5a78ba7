//! The files of one machine.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use blueprint_common_types::{HubId, Secret, Timestamp};
use blueprint_hub_provision_core::{InstanceSpec, Tags};
use serde::{Deserialize, Serialize};
use tokio::fs::{self, DirBuilder, OpenOptions};
use tokio::io::AsyncWriteExt;

/// What user data begin with of which the join line was taken; a document that asks for nothing.
const FORGOTTEN: &[u8; 41] = b"#cloud-config\n# This machine has joined.\n";

/// More than user data are ever long, in bytes.
const MAX_USER_DATA: usize = 1 << 20;

/// What a machine was ordered as.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Label {
    hub: Option<HubId>,
    deployment: Option<String>,
    #[serde(default)]
    attempt: u32,
    pub(crate) plan: String,
    /// Its number in the network.
    pub(crate) index: u32,
    created_at_ms: u64,
    /// GB of disk, where it has one of its own.
    pub(crate) disk_gb: u32,
}

impl Label {
    /// That of a machine to be made.
    pub(crate) fn of(spec: &InstanceSpec, index: u32, now: Timestamp) -> Self {
        let tags = spec.tags.as_ref();
        Self {
            hub: tags.map(|tags| tags.hub),
            deployment: tags.map(|tags| tags.deployment.to_string()),
            attempt: tags.map_or(0, |tags| tags.attempt),
            plan: spec.plan.clone(),
            index,
            created_at_ms: now.as_millis(),
            disk_gb: spec.disk_gb,
        }
    }

    /// Its tags; `None` where it belongs to nobody.
    pub(crate) fn tags(&self) -> Option<Tags> {
        let deployment = self.deployment.as_deref()?.parse().ok()?;
        Some(Tags { hub: self.hub?, deployment, attempt: self.attempt })
    }

    pub(crate) fn created_at(&self) -> Timestamp {
        Timestamp::from_millis(self.created_at_ms)
    }
}

/// The folder of one machine, there or not.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The one at `path`.
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A file or folder in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What the machine's process is written down in.
    pub(crate) fn process(&self) -> PathBuf {
        self.join("process")
    }

    /// There while the machine is switched off on purpose.
    pub(crate) fn stopped(&self) -> PathBuf {
        self.join("stopped")
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.join("console.log")
    }

    /// Where cloud-init finds what the machine is to do.
    pub(crate) fn seed(&self) -> PathBuf {
        self.join("seed")
    }

    /// Makes the folder with what the machine is created with.
    pub(crate) async fn make(&self, name: &str, label: &Label, user_data: &Secret<String>) -> io::Result<()> {
        // Only root and whoever runs the hub see into it; the machine's own root lies deeper.
        DirBuilder::new().recursive(true).mode(0o700).create(self.seed()).await?;
        write(&self.seed().join("user-data"), user_data.expose().as_bytes()).await?;
        let about = format!("instance-id: {name}\nlocal-hostname: {name}\n");
        write(&self.seed().join("meta-data"), about.as_bytes()).await?;
        write(&self.join("machine.json"), &serde_json::to_vec(label)?).await
    }

    /// Takes the join line out of what cloud-init is given, once and for good. The file keeps its length: a guest may have it open,
    /// as QEMU shows it a folder of the host.
    ///
    /// # Errors
    ///
    /// What the file system says; a file that is not there is none.
    pub(crate) fn forget_user_data(&self) -> io::Result<bool> {
        let path = self.seed().join("user-data");
        let length = match std::fs::metadata(&path) {
            Ok(about) => about.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(MAX_USER_DATA);
        let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&path)?;
        let mut content = vec![0; length];
        file.read_exact(&mut content)?;
        let forgotten = forgotten(length);
        if content == forgotten {
            return Ok(false);
        }
        overwrite(&mut file, &forgotten)?;
        Ok(true)
    }

    /// What the machine was ordered as; `None` where it does not exist.
    pub(crate) async fn label(&self) -> io::Result<Option<Label>> {
        match fs::read(self.join("machine.json")).await {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes all of it; the label goes first, so that what is left of an interrupted removal is no machine.
    pub(crate) async fn remove(&self) -> io::Result<()> {
        for result in [fs::remove_file(self.join("machine.json")).await, fs::remove_dir_all(&self.0).await] {
            match result {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// What stands in the place of user data of this length.
fn forgotten(length: usize) -> Vec<u8> {
    let mut text = FORGOTTEN.to_vec();
    text.resize(length, b'\n');
    text
}

/// A file that keeps what it was told before it answers [`Self::sync`].
trait Kept: Write + Seek {
    fn sync(&mut self) -> io::Result<()>;
}

impl Kept for std::fs::File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Writes the blanks first and what the text begins with only once they are kept: a crash leaves no beginning that says that all of
/// it is done over a tail that is not blank.
fn overwrite(file: &mut impl Kept, text: &[u8]) -> io::Result<()> {
    let (head, tail) = text.split_at(FORGOTTEN.len().min(text.len()));
    file.seek(SeekFrom::Start(u64::try_from(head.len()).unwrap_or(u64::MAX)))?;
    file.write_all(tail)?;
    file.sync()?;
    file.rewind()?;
    file.write_all(head)?;
    file.sync()
}

/// Writes a file of mode 0600 beside its place, then puts it there.
pub(crate) async fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside).await?;
    file.write_all(content).await?;
    file.sync_all().await?;
    fs::rename(&beside, path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn user_data_are_forgotten_once_and_keep_their_length() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().join("bp-x"));
        assert!(!folder.forget_user_data().unwrap());
        for content in [
            "#cloud-config\n".to_owned(),
            format!("#cloud-config\n{{\"canary\": \"{}\"}}\n", "x".repeat(9000)),
        ] {
            std::fs::create_dir_all(folder.seed()).unwrap();
            let file = folder.seed().join("user-data");
            std::fs::write(&file, &content).unwrap();
            assert_eq!(folder.forget_user_data().unwrap(), content.contains("canary"));
            let left = std::fs::read_to_string(&file).unwrap();
            assert!(left.len() == content.len() && !left.contains("canary"), "{left}");
        }
        assert!(!folder.forget_user_data().unwrap(), "it was done again");
        // A crash of an earlier version has left the beginning, and what was behind it.
        let file = folder.seed().join("user-data");
        let mut half = std::fs::read(&file).unwrap();
        half.truncate(9000);
        half.extend(b"{\"canary\": 1}");
        std::fs::write(&file, &half).unwrap();
        assert!(folder.forget_user_data().unwrap());
        assert_eq!(std::fs::read(&file).unwrap(), forgotten(half.len()));
    }

    /// A file of which only what was synced is sure to be there after a crash.
    struct Disk {
        content: Vec<u8>,
        at: usize,
        /// Writes since the last sync: a crash may keep any of them, alone.
        open: Vec<(usize, Vec<u8>)>,
        /// What a crash could have left so far.
        crashes: Vec<Vec<u8>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.open.push((self.at, bytes.to_vec()));
            self.at += bytes.len();
            for (at, bytes) in &self.open {
                let mut left = self.content.clone();
                left[*at..at + bytes.len()].copy_from_slice(bytes);
                self.crashes.push(left);
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Disk {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            let SeekFrom::Start(at) = to else { panic!("{to:?}") };
            self.at = usize::try_from(at).unwrap();
            Ok(at)
        }
    }

    impl Kept for Disk {
        fn sync(&mut self) -> io::Result<()> {
            for (at, bytes) in self.open.drain(..) {
                self.content[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            Ok(())
        }
    }

    #[test]
    fn whatever_a_crash_leaves_the_beginning_comes_last() {
        for length in [7, FORGOTTEN.len(), 9000] {
            let content = vec![b'x'; length];
            let mut disk = Disk { content, at: 0, open: Vec::new(), crashes: Vec::new() };
            overwrite(&mut disk, &forgotten(length)).unwrap();
            assert_eq!(disk.content, forgotten(length));
            for left in disk.crashes.iter().filter(|left| left.starts_with(FORGOTTEN)) {
                assert!(!left.contains(&b'x'), "the beginning came before the blanks");
            }
        }
    }
}
