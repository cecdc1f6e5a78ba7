//! What a blueprint captures for its registration: a file in its data folder, which goes to the hub.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blueprint_common_types::ServiceKey;
use nix::fcntl::OFlag;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{info, warn};

use crate::HubPort;
use crate::folders::Folders;

/// Name of the file, as the blueprint is told it.
const NAME: &str = "registration_inputs.bin";

/// Most bytes of it.
const MAX_BYTES: u64 = 1 << 20;

/// Pause before a hub that could not be reached is told again.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// Removes what an earlier run captured.
///
/// # Errors
///
/// Those of the file system; a file that is not there is none.
pub(crate) fn clear(folders: &Folders) -> io::Result<()> {
    match fs::remove_file(path(folders)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Hands it to the hub, and tries until that has it or `stop`.
pub(crate) async fn hand_over(
    hub: &dyn HubPort,
    service: ServiceKey,
    generation: u64,
    folders: &Folders,
    stop: &CancellationToken,
) {
    let inputs = read(&path(folders));
    loop {
        let told = hub.registration(service, generation, inputs.clone());
        match stop.run_until_cancelled(told).await {
            None => return,
            Some(Ok(())) => {
                info!(%service, bytes = inputs.as_ref().map_or(0, Vec::len), "registration inputs handed over");
                return;
            }
            Some(Err(status)) if status.code() == Code::Unavailable => {}
            Some(Err(status)) => {
                warn!(%service, %status, "the hub does not take the registration inputs");
                return;
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(TELL_AGAIN)).await.is_none() {
            return;
        }
    }
}

fn path(folders: &Folders) -> PathBuf {
    folders.data.join(NAME)
}

/// Reads the file. Its folder is the workload's, so neither its kind nor its size is believed.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let failed = |error: io::Error| format!("{NAME}: {error}");
    let file = opened.map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("{NAME} is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(format!("{NAME} has more than {MAX_BYTES} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_nothing_that_only_looks_like_one() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("good"), b"inputs").unwrap();
        assert_eq!(read(&at("good")), Ok(b"inputs".to_vec()));
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("large"), vec![0; usize::try_from(MAX_BYTES).unwrap() + 1]).unwrap();
        for bad in ["missing", "link", "pipe", "folder", "large"] {
            assert!(read(&at(bad)).is_err(), "{bad}");
        }
    }
}
