//! What a blueprint captures for its registration: a file in its data folder, which goes to the hub.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use blueprint_common_types::ServiceKey;
use nix::fcntl::OFlag;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{info, warn};

use crate::HubPort;
use crate::folders::Folders;
use crate::users::USERS;

/// Name of the file, as the blueprint is told it.
const NAME: &str = "registration_inputs.bin";

/// Most bytes of it.
const MAX_BYTES: u64 = 1 << 20;

/// Pause before a hub that did not take it is told again; twice as long each time, up to the longest.
const TELL_AGAIN: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often a hub is told again whose answer says nothing of whether it passes.
const MAX_FAULTS: u32 = 10;

/// What an answer that is no success means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The hub is away or busy: the same succeeds later.
    Passes,
    /// A fault of the hub or on the way, which may pass.
    Fault,
    /// The same is refused again.
    Final,
}

const fn judge(code: Code) -> Refusal {
    match code {
        // Aborted: the assignment has changed, which stops this one soon.
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted => {
            Refusal::Passes
        }
        // Transports break with the last three.
        Code::Internal | Code::DataLoss | Code::Unknown | Code::Cancelled => Refusal::Fault,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => Refusal::Final,
    }
}

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
    let (mut pause, mut faults) = (TELL_AGAIN, 0u32);
    loop {
        let told = hub.registration(service, generation, inputs.clone());
        match stop.run_until_cancelled(told).await {
            None => return,
            Some(Ok(())) => {
                info!(%service, bytes = inputs.as_ref().map_or(0, Vec::len), "registration inputs handed over");
                return;
            }
            Some(Err(status)) => {
                let refusal = judge(status.code());
                faults = faults.saturating_add(u32::from(refusal == Refusal::Fault));
                if refusal == Refusal::Final || faults > MAX_FAULTS {
                    warn!(%service, %status, faults, "the hub does not take the registration inputs");
                    return;
                }
                info!(%service, %status, "registration inputs not taken yet");
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

fn path(folders: &Folders) -> PathBuf {
    folders.data.join(NAME)
}

/// Reads the file. Its folder is the workload's, so neither its kind nor its size is believed, nor that it is its own:
/// the agent reads what a workload may not, and a link would hand that to the hub.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let failed = |error: io::Error| format!("{NAME}: {error}");
    let file = opened.map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{NAME} is not a file"));
    }
    let folder = path.parent().map(fs::metadata).transpose().map_err(failed)?;
    // Where the workload has a user of its own, the folder is that user's.
    let user = folder.map(|folder| folder.uid()).filter(|user| USERS.contains(user));
    let is_anothers = user.is_some_and(|user| user != metadata.uid());
    if metadata.nlink() != 1 || is_anothers {
        return Err(format!("{NAME} is another's file, or has a second name; write a file of its own"));
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
    use blueprint_common_types::workload::{RpcKind, Sha256Digest};
    use blueprint_proto::v1::bridge_request::Call;
    use futures_util::future::{BoxFuture, FutureExt};
    use parking_lot::Mutex;
    use tonic::Status;

    use super::*;
    use crate::artefact::PushedError;
    use crate::{DescribeError, Described, Offer, PushedReader, RpcStream};

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
        fs::write(at("other"), b"another's").unwrap();
        fs::hard_link(at("other"), at("hard")).unwrap();
        for bad in ["missing", "link", "pipe", "folder", "large", "hard"] {
            assert!(read(&at(bad)).is_err(), "{bad}");
        }
        if nix::unistd::geteuid().is_root() {
            let user = Some(*USERS.start());
            std::os::unix::fs::chown(folder.path(), user, None).unwrap();
            assert!(read(&at("good")).unwrap_err().contains("another's"));
            std::os::unix::fs::chown(at("good"), user, None).unwrap();
            assert!(read(&at("good")).is_ok());
        }
    }

    /// A hub that gives these answers, one after the other, and then takes it.
    struct Hub(Mutex<(Vec<Code>, usize)>);

    impl HubPort for Hub {
        fn registration(
            &self,
            _: ServiceKey,
            _: u64,
            inputs: Result<Vec<u8>, String>,
        ) -> BoxFuture<'_, Result<(), Status>> {
            assert_eq!(inputs, Ok(b"inputs".to_vec()));
            let mut state = self.0.lock();
            state.1 += 1;
            let answer = state.0.pop().map_or(Ok(()), |code| Err(Status::new(code, "not now")));
            async { answer }.boxed()
        }

        fn describe(&self, _: ServiceKey, _: u64) -> BoxFuture<'_, Result<Described, DescribeError>> {
            unreachable!()
        }

        fn strangers(&self, _: ServiceKey, _: u32) -> BoxFuture<'_, Result<(), Status>> {
            unreachable!()
        }

        fn bridge(&self, _: ServiceKey, _: Call) -> BoxFuture<'_, Result<(), Status>> {
            unreachable!()
        }

        fn artefact(
            &self,
            _: ServiceKey,
            _: u64,
            _: Sha256Digest,
            _: u64,
        ) -> BoxFuture<'_, Result<PushedReader, PushedError>> {
            unreachable!()
        }

        fn rpc(&self, _: ServiceKey, _: u64, _: RpcKind) -> BoxFuture<'_, Result<RpcStream, String>> {
            unreachable!()
        }

        fn offer(&self, _: Offer) -> Result<(), String> {
            unreachable!()
        }

        fn withdraw(&self, _: blueprint_common_types::workload::Seat) {
            unreachable!()
        }
    }

    /// How often a hub is told that first answers so.
    async fn told(answers: &[Code]) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let service = ServiceKey { blueprint: 7, service: 42 };
        let folders = Folders::of(
            folder.path(),
            folder.path(),
            blueprint_common_types::workload::Seat::first(service),
            "",
        );
        fs::create_dir_all(&folders.data).unwrap();
        fs::write(path(&folders), b"inputs").unwrap();
        let hub = Hub(Mutex::new((answers.to_vec(), 0)));
        hand_over(&hub, service, 3, &folders, &CancellationToken::new()).await;
        hub.0.into_inner().1
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_until_it_has_and_a_fault_for_a_while() {
        let passing = [Code::Unavailable, Code::ResourceExhausted, Code::DeadlineExceeded, Code::Aborted];
        assert_eq!(told(&passing).await, 5);
        assert_eq!(told(&passing.repeat(30)).await, 121);
        assert_eq!(told(&[Code::Internal, Code::Unknown]).await, 3);
        assert_eq!(told(&[Code::Internal; 100]).await, 11);
        assert_eq!(told(&[Code::FailedPrecondition]).await, 1);
        assert_eq!(told(&[Code::PermissionDenied]).await, 1);
    }
}
