//! Pushes into real folders: bounds, digests, and what is left of those that fail.

use blueprint_common_runtime::cli::eprint_line;
use bytes::Bytes;
use futures_util::stream;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::io::AsyncReadExt;

use super::*;

fn sha256(bytes: &[u8]) -> Sha256Digest {
    let found = digest::digest(&digest::SHA256, bytes);
    Sha256Digest::from_bytes(found.as_ref().try_into().unwrap())
}

fn body(bytes: &[u8]) -> ArtefactBody {
    let pieces: Vec<_> = bytes.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces).boxed()
}

fn shelf(folder: &Path) -> Artefacts {
    Artefacts::open(folder, ArtefactLimits { one: 10_000, all: 15_000 }).unwrap()
}

async fn push(shelf: &Artefacts, bytes: &[u8]) -> Result<(ArtefactView, bool), PushError> {
    shelf.push(sha256(bytes), None, &mut body(bytes)).await
}

/// Names in its folder.
fn names(shelf: &Artefacts) -> Vec<String> {
    let entries = std::fs::read_dir(&shelf.folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

async fn read(shelf: &Artefacts, sha256: Sha256Digest, offset: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    PushedFiles::open(shelf, sha256, offset).await.unwrap()?.read_to_end(&mut bytes).await.unwrap();
    Some(bytes)
}

#[tokio::test]
async fn what_was_pushed_is_there_also_after_a_restart_and_from_any_byte() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = b"program".repeat(1000);
    let (view, is_new) = push(&shelf(folder.path()), &bytes).await.unwrap();
    assert!(is_new && view.bytes == 7000);
    std::fs::write(folder.path().join("artefacts/9.part"), "cut off").unwrap();

    let again = shelf(folder.path());
    assert_eq!(again.list().len(), 1);
    assert_eq!(names(&again), [sha256(&bytes).to_string()]);
    let (_, is_new) = again.push(sha256(&bytes), None, &mut stream::pending().boxed()).await.unwrap();
    assert!(!is_new, "what is there is not read again");
    assert_eq!(read(&again, view.sha256, 0).await.unwrap(), bytes);
    assert_eq!(read(&again, view.sha256, 6999).await.unwrap(), b"m");
    assert_eq!(read(&again, view.sha256, 9000).await.unwrap(), b"");

    assert!(again.remove(view.sha256).await.unwrap());
    assert!(!again.remove(view.sha256).await.unwrap());
    assert!(read(&again, view.sha256, 0).await.is_none() && again.list().is_empty());
}

#[tokio::test]
async fn bounds_hold_whatever_the_client_says_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = shelf(folder.path());
    let large = vec![1; 10_001];
    assert!(matches!(push(&shelf, &large).await, Err(PushError::TooLarge { limit: 10_000 })));
    let mut unread = stream::pending().boxed();
    let said = shelf.push(sha256(&large), Some(10_001), &mut unread).await;
    assert!(matches!(said, Err(PushError::TooLarge { .. })), "told by its length alone");

    push(&shelf, &[2; 9000]).await.unwrap();
    for length in [None, Some(6001)] {
        let bytes = vec![3; 6001];
        let pushed = shelf.push(sha256(&bytes), length, &mut body(&bytes)).await;
        assert!(matches!(pushed, Err(PushError::Full { limit: 15_000, taken: 9000.. })), "{pushed:?}");
    }
    assert_eq!((names(&shelf).len(), shelf.held.lock().under_way), (1, 0));
    push(&shelf, &[4; 6000]).await.unwrap();
}

#[tokio::test]
async fn two_pushes_at_once_share_the_room() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = shelf(folder.path());
    let slow = vec![5; 9000];
    let (let_go, wait) = tokio::sync::oneshot::channel::<()>();
    let end = stream::once(async {
        let _ = wait.await;
        Err("never mind".to_owned())
    });
    let mut slow_body = body(&slow).chain(end).boxed();
    let first = shelf.push(sha256(&slow), Some(9000), &mut slow_body);
    let second = async {
        let pushed = push(&shelf, &[6; 7000]).await;
        let _ = let_go.send(());
        pushed
    };
    let (first, second) = tokio::join!(first, second);
    assert!(matches!(first, Err(PushError::Broken { bytes: 9000, .. })), "{first:?}");
    assert!(matches!(second, Err(PushError::Full { .. })), "{second:?}");
    assert_eq!((names(&shelf).len(), shelf.held.lock().taken()), (0, 0));
}

#[tokio::test]
async fn another_digest_is_refused_and_a_push_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = shelf(folder.path());
    let pushed = shelf.push(sha256(b"good"), None, &mut body(b"evil")).await;
    let Err(PushError::Digest { found, bytes: 4 }) = pushed else { panic!("{pushed:?}") };
    assert_eq!(found, sha256(b"evil"));
    let mut endless = body(b"begin").chain(stream::pending()).boxed();
    let push = shelf.push(sha256(b"x"), None, &mut endless);
    assert!(push.now_or_never().is_none());
    assert_eq!(shelf.held.lock().taken(), 0);
    // The file may be made after nobody wants it any more, on a thread of its own.
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while !names(&shelf).is_empty() {
        assert!(std::time::Instant::now() < until, "{:?}", names(&shelf));
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_falls_silent_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Artefacts { silence: Duration::from_millis(5), ..shelf(folder.path()) };
    let mut silent = stream::pending().boxed();
    let pushed = shelf.push(sha256(b"x"), None, &mut silent).await;
    assert!(matches!(pushed, Err(PushError::Broken { bytes: 0, .. })), "{pushed:?}");
    assert!(names(&shelf).is_empty());
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    // A thread with mounts of its own: those that it starts for the files share them.
    let test = std::thread::Builder::new().spawn(move || {
        const NONE: Option<&str> = None;
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            eprint_line(&format!("SKIPPED: a disk that is full takes root ({error})"));
            return;
        }
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
        let shelf = Artefacts::open(&path, ArtefactLimits { one: 1 << 30, all: 1 << 30 }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let pushed = push(&shelf, &vec![7; 512 << 10]).await;
            assert!(matches!(pushed, Err(PushError::DiskFull)), "{pushed:?}");
            assert!(names(&shelf).is_empty());
            push(&shelf, &vec![7; 64 << 10]).await.unwrap();
        });
    });
    test.unwrap().join().unwrap();
}
