//! The files of one machine.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use blueprint_common_types::{Secret, ServiceKey, Timestamp};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::fs::{self, DirBuilder, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::label::Label;

/// A log longer than this starts anew at the next boot.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// How far from its end a log is searched for its last line.
const TAIL_BYTES: u64 = 4096;

/// How often a folder that is written to is removed again, 5 ms apart.
const LAST_WRITES: usize = 50;

/// Characters of a last line that are shown.
const LINE_CHARS: usize = 200;

/// Folders beside that of the machines: those that are not yet, and those that are not any more.
pub(crate) const MAKING: &str = "making";
pub(crate) const REMOVED: &str = "removed";

/// The agent's state folder in that of its machine.
pub(crate) const AGENT_STATE: &str = "state";

/// The folder of one machine, there or not.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The one at `path`.
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the join line lies.
    pub(crate) fn join_line(&self) -> PathBuf {
        self.0.join("join-line")
    }

    /// The agent's configuration.
    pub(crate) fn agent_config(&self) -> PathBuf {
        self.0.join("agent.toml")
    }

    /// The agent's state folder.
    pub(crate) fn agent_state(&self) -> PathBuf {
        self.0.join(AGENT_STATE)
    }

    /// What the agent prints.
    pub(crate) fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// What a service prints.
    pub(crate) fn service_log(&self, key: ServiceKey) -> PathBuf {
        self.0.join(format!("service-{}-{}.log", key.blueprint, key.service))
    }

    /// Where a service says its port.
    pub(crate) fn port_file(&self, key: ServiceKey) -> PathBuf {
        self.0.join(format!("service-{}-{}.port", key.blueprint, key.service))
    }

    /// Makes the folder with what the machine is created with; what an unfinished creation left goes first.
    ///
    /// It is made whole beside its place: a hub that is killed meanwhile would leave a machine without its tags, which is
    /// nobody's.
    pub(crate) async fn make(
        &self,
        user_data: &Secret<String>,
        join_line: &Secret<String>,
        label: &Label,
    ) -> io::Result<()> {
        self.remove().await?;
        let (Some(machines), Some(name)) = (self.0.parent(), self.0.file_name()) else { return Ok(()) };
        let beside = Self::new(machines.with_file_name(MAKING).join(name));
        remove_all(&beside.0).await?;
        for folder in [machines, beside.path()] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).await?;
        }
        beside.write("machine.json", &serde_json::to_vec(label)?).await?;
        beside.write("user-data.json", user_data.expose().as_bytes()).await?;
        beside.write("join-line", join_line.expose().as_bytes()).await?;
        fs::rename(&beside.0, &self.0).await
    }

    /// Writes a file of mode 0600 beside its place, then puts it there.
    pub(crate) async fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let beside = self.0.join(format!("{name}.new"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside).await?;
        file.write_all(content).await?;
        file.sync_all().await?;
        fs::rename(&beside, self.0.join(name)).await
    }

    /// What the machine was created with.
    pub(crate) async fn user_data(&self) -> io::Result<Secret<String>> {
        fs::read_to_string(self.0.join("user-data.json")).await.map(Secret::new)
    }

    /// When the machine was created; `None` where it does not exist.
    pub(crate) async fn created_at(&self) -> io::Result<Option<Timestamp>> {
        for path in [self.0.join("user-data.json"), self.0.clone()] {
            match fs::metadata(&path).await.and_then(|metadata| metadata.modified()) {
                Ok(time) => return Ok(Some(time.into())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// What the machine was ordered as; empty where it does not say.
    pub(crate) async fn label(&self) -> io::Result<Label> {
        match fs::read(self.0.join("machine.json")).await {
            Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Label::default()),
            Err(error) => Err(error),
        }
    }

    /// True once the agent of the machine has an identity, so that it needs no join line.
    pub(crate) async fn has_joined(&self) -> io::Result<bool> {
        fs::try_exists(self.agent_state().join("identity.json")).await
    }

    /// True once the agent of the machine was started, in this process of the hub or an earlier one.
    pub(crate) async fn is_booted(&self) -> io::Result<bool> {
        fs::try_exists(self.0.join("booted")).await
    }

    /// True while an agent holds the machine's state: one that an earlier hub started ends its workloads first, and so
    /// after that hub.
    pub(crate) async fn is_in_use(&self) -> io::Result<bool> {
        let file = match File::open(self.agent_state().join("lock")).await {
            Ok(file) => file.into_std().await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(_) => Ok(false),
            Err((_, Errno::EWOULDBLOCK)) => Ok(true),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// Notes that the agent was started.
    pub(crate) async fn mark_booted(&self) -> io::Result<()> {
        self.write("booted", b"").await
    }

    /// Removes everything; a folder that does not exist is no error.
    ///
    /// It is moved away first: a hub that is killed meanwhile would leave a machine without its tags, which is nobody's. What a
    /// program started may end a moment after it, and write a last file meanwhile: that is waited for.
    pub(crate) async fn remove(&self) -> io::Result<()> {
        let (Some(machines), Some(name)) = (self.0.parent(), self.0.file_name()) else { return Ok(()) };
        let removed = machines.with_file_name(REMOVED);
        DirBuilder::new().recursive(true).mode(0o700).create(&removed).await?;
        let aside = removed.join(name);
        // What an earlier hub did not get to.
        remove_all(&aside).await?;
        none_if_absent(fs::rename(&self.0, &aside).await)?;
        remove_all(&aside).await
    }
}

/// Removes a file that may not be there.
pub(crate) async fn remove_file(path: &Path) -> io::Result<()> {
    none_if_absent(fs::remove_file(path).await)
}

/// Opens a log at its end, mode 0600; one longer than 1 MiB starts anew.
pub(crate) async fn open_log(path: &Path) -> io::Result<std::fs::File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).await?;
    if file.metadata().await?.len() > MAX_LOG_BYTES {
        file.set_len(0).await?;
    }
    Ok(file.into_std().await)
}

/// The last line of a log that says anything, at most 200 characters, without control characters.
pub(crate) async fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).await.ok()?;
    let length = file.metadata().await.ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).await.ok()?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail).await.ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let line = tail.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().filter(|c| !c.is_control()).take(LINE_CHARS).collect())
}

/// Removes a folder to which something may still be written, for a moment.
async fn remove_all(folder: &Path) -> io::Result<()> {
    for _ in 0..LAST_WRITES {
        match fs::remove_dir_all(folder).await {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            removed => return none_if_absent(removed),
        }
    }
    none_if_absent(fs::remove_dir_all(folder).await)
}

fn none_if_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_line_is_short_and_printable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!(last_line(&path).await, None);
        for (log, line) in [
            ("", None),
            ("one\ntwo\n\n  \n", Some("two".to_owned())),
            ("\u{1b}[31mred\u{1b}[0m\n", Some("[31mred[0m".to_owned())),
            (&"é".repeat(10_000), Some("é".repeat(200))),
        ] {
            std::fs::write(&path, log).unwrap();
            assert_eq!(last_line(&path).await, line);
        }
    }

    #[tokio::test]
    async fn a_long_log_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
        assert_eq!(open_log(&path).await.unwrap().metadata().unwrap().len(), 1 << 20);
        std::fs::write(&path, vec![b'x'; (1 << 20) + 1]).unwrap();
        assert_eq!(open_log(&path).await.unwrap().metadata().unwrap().len(), 0);
    }

    #[tokio::test]
    async fn a_folder_that_is_written_to_for_a_moment_more_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().join("machines/sim-1"));
        let own = folder.0.clone();
        std::fs::create_dir_all(&own).unwrap();
        // So many that new ones come while these are removed.
        for number in 0..500 {
            std::fs::write(own.join(number.to_string()), b"").unwrap();
        }
        let (started, is_started) = std::sync::mpsc::channel();
        let writer = std::thread::Builder::new().spawn(move || {
            let began = std::time::Instant::now();
            let mut number = 1000;
            // Once the folder is gone there is nowhere to write.
            while began.elapsed() < Duration::from_millis(60)
                && std::fs::write(own.join(number.to_string()), b"").is_ok()
            {
                number += 1;
                let _ = started.send(());
            }
        });
        is_started.recv().unwrap();
        folder.remove().await.unwrap();
        writer.unwrap().join().unwrap();
        assert!(!folder.0.exists());
    }
}
