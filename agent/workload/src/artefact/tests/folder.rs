//! The folder of the cache: who gets what at the same time, what goes, and what a crash or a full disk leaves.

use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use blueprint_tests_support::{Need, require};
use tokio::sync::Notify;

use super::builders::{Tar, gzip, tar};
use super::server::Reply;
use super::*;

/// Scripts that differ.
fn script(number: usize) -> Vec<u8> {
    format!("#!/bin/sh\n# {number} {}\nexit 0\n", "x".repeat(100_000)).into_bytes()
}

#[tokio::test]
async fn one_file_is_downloaded_once_for_all_who_want_it() {
    let server = Server::start(file(script(1)));
    let bed = Bed::new();
    let artefacts = bed.open();
    let (url, sha256) = (server.url("/x"), sha256(&script(1)));
    let told = Mutex::new(0);
    let wanted = (0..20).map(|_| async {
        let source = NativeArtefact { url: &url, sha256: &sha256, blake3: None, binary: "" };
        artefacts.get(&source, |_| *told.lock() += 1).await.unwrap().program
    });
    let programs = futures_util::future::join_all(wanted).await;
    assert_eq!(server.asked().len(), 1);
    assert!(programs.iter().all(|program| *program == programs[0]));
    assert!(*told.lock() > 1, "who waits is told, too");
    assert!(artefacts.shared.flights.lock().values().all(|flight| flight.strong_count() == 0));
}

#[tokio::test]
async fn who_goes_leaves_nothing_and_another_takes_over() {
    let arrived = Arc::new(Notify::new());
    let (body, arriving) = (script(1), Arc::clone(&arrived));
    let server = Server::start(move |_, number| {
        arriving.notify_one();
        if number == 0 { Reply::cut(&body, 50_000, "").held() } else { Reply::ok(&body) }
    });
    let bed = Bed::new();
    let config = ArtefactConfig { ..bed.config.clone() };
    let artefacts = Artefacts::new(config).unwrap();
    let (url, body) = (server.url("/x"), script(1));
    let mut first = Box::pin(get(&artefacts, &url, &body, ""));
    tokio::select! {
        biased;
        _ = &mut first => panic!("its server is silent"),
        () = arrived.notified() => {}
    }
    let mut second = Box::pin(get(&artefacts, &url, &body, ""));
    // Who waits for a turn listens to the progress of who has it.
    let waits = async {
        let flight = artefacts.flight(sha256(&body));
        while flight.progress.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = &mut first => panic!("its server is silent"),
        _ = &mut second => panic!("it waits for the first"),
        () = waits => {}
    }
    drop(first);
    let artefact = second.await.unwrap();
    assert_eq!(server.asked().len(), 2);
    let left = || (bed.content() == [sha256(&body).to_string()]).then_some(());
    eventually(Duration::from_secs(10), "the half file is gone", left).unwrap();
    drop(artefact);
}

#[tokio::test]
async fn an_unpacking_that_nobody_wants_any_more_ends_and_leaves_nothing() {
    let bed = Bed::new();
    let artefacts = bed.open();
    let cache = &artefacts.shared.cache;
    let mut sink = sink::Sink::new(cache, "x".to_owned(), u64::MAX).unwrap();
    sink.push(tar(&[Tar::program("one", SCRIPT)]).into()).await.unwrap();
    let part = sink.finish().await.unwrap();
    let install = Install {
        cache: Arc::clone(cache),
        limits: artefacts.shared.limits,
        url: "x".to_owned(),
        stop: CancellationToken::new(),
    };
    install.stop.cancel();
    let error = install.run(part, "").unwrap_err();
    assert!(matches!(error, ArtefactError::Stopped { .. }) && error.may_pass(), "{error}");
    assert_eq!(bed.content(), [""; 0]);
}

#[tokio::test]
async fn an_archive_of_many_files_is_kept_like_one_of_few() {
    let names: Vec<String> = (0..300).map(|number| format!("share/{}/{number}", number / 10)).collect();
    let files = names.iter().map(|name| Tar { mode: 0o644, ..Tar::program(name, b"text") });
    let files: Vec<Tar<'_>> = files.chain([Tar::program("one", SCRIPT)]).collect();
    let bed = Bed::new();
    let artefact = bed.take(&tar(&files), "").await.unwrap();
    assert_eq!(std::fs::read(artefact.folder.join("share/29/299")).unwrap(), b"text");
    assert!(runs(&artefact.program));
}

#[tokio::test]
async fn a_failure_of_one_is_not_the_failure_of_another() {
    let body = script(1);
    let server = Server::start(move |_, number| {
        if number == 0 { Reply::new("500 X", "content-length: 0\r\n", b"") } else { Reply::ok(&body) }
    });
    let bed = Bed::new();
    let (artefacts, url, body) = (bed.open(), server.url("/x"), script(1));
    let both = futures_util::future::join(get(&artefacts, &url, &body, ""), get(&artefacts, &url, &body, ""));
    let (first, second) = both.await;
    assert_ne!(first.is_ok(), second.is_ok());
}

#[tokio::test]
async fn what_a_crash_left_is_removed_and_all_else_is_kept() {
    let bed = Bed::new();
    let kept = bed.take(SCRIPT, "").await.unwrap().program;
    let cache = &bed.config.cache;
    std::fs::write(cache.join(".part-0"), b"half").unwrap();
    std::fs::write(cache.join(".part-x"), b"somebody else's").unwrap();
    std::fs::write(cache.join("notes"), b"somebody else's").unwrap();
    let made = cache.join(".new-3/files/bin");
    std::fs::create_dir_all(&made).unwrap();
    std::fs::write(made.join("x"), b"half").unwrap();
    for folder in [&made, made.parent().unwrap()] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o555)).unwrap();
    }
    std::fs::create_dir_all(cache.join(".gone-1/files")).unwrap();
    std::fs::set_permissions(cache, std::fs::Permissions::from_mode(0o755)).unwrap();
    let artefacts = bed.open();
    assert_eq!(bed.content(), [".part-x".to_owned(), sha256(SCRIPT).to_string(), "notes".to_owned()]);
    assert_eq!(mode(cache), 0o711);
    // No server is needed for what was there.
    assert_eq!(get(&artefacts, "http://127.0.0.1:1/x", SCRIPT, "").await.unwrap().program, kept);
    let second = Artefacts::new(bed.config.clone()).unwrap_err();
    assert!(matches!(second, OpenError::InUse(_)), "{second}");
    drop(artefacts);
    Artefacts::new(bed.config.clone()).unwrap();
}

#[tokio::test]
async fn what_is_damaged_is_fetched_again() {
    let bed = Bed::new();
    drop(bed.take(SCRIPT, "").await.unwrap());
    let about = bed.config.cache.join(sha256(SCRIPT).to_string()).join("about.json");
    std::fs::set_permissions(&about, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&about, b"{}").unwrap();
    bed.take(SCRIPT, "").await.unwrap();
    assert_eq!(bed.content(), [sha256(SCRIPT).to_string()]);
}

#[tokio::test]
async fn what_was_not_used_for_long_goes_first_and_never_what_is_in_use() {
    let mut bed = Bed::new();
    // Each takes some 100 KB and a block.
    bed.config.max_cache_bytes = 250_000;
    let artefacts = bed.open();
    let server = Server::start(|asked, _| Reply::ok(&script(asked.path[1..].parse().unwrap())));
    let fetch = async |number: usize| {
        get(&artefacts, &server.url(&format!("/{number}")), &script(number), "").await.unwrap()
    };
    let names = |numbers: &[usize]| {
        let mut names: Vec<String> = numbers.iter().map(|n| sha256(&script(*n)).to_string()).collect();
        names.sort();
        names
    };
    // The times of use are set, so that no clock has to tick.
    let used = |number: usize, seconds: u64| {
        let place = bed.config.cache.join(sha256(&script(number)).to_string());
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        std::fs::File::open(place).unwrap().set_modified(time).unwrap();
    };
    let first = fetch(1).await;
    drop(fetch(2).await);
    assert_eq!(bed.content(), names(&[1, 2]));
    used(1, 10);
    used(2, 20);
    drop(fetch(3).await);
    assert_eq!(bed.content(), names(&[1, 3]), "the first is older, but in use");
    assert!(runs(&first.program));
    drop(first);
    used(1, 10);
    used(3, 20);
    // Being asked for is being used.
    drop(fetch(1).await);
    drop(fetch(4).await);
    assert_eq!(bed.content(), names(&[1, 4]));
    assert_eq!(server.asked().len(), 4);
    let all: Vec<Artefact> = vec![fetch(1).await, fetch(4).await, fetch(5).await];
    assert_eq!(bed.content(), names(&[1, 4, 5]), "more than it should hold, since all are in use");
    drop(all);
}

/// A file system of 12 MiB, which goes with the test.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"]).arg(at).status().unwrap();
        assert!(mount.success());
        Self(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_left() {
    if !require(&[Need::Root, Need::Program("mount")]) {
        return;
    }
    let mut bed = Bed::new();
    bed.config.cache = bed.folder.path().join("cache");
    let _disk = Small::mount(&bed.config.cache);
    let large = vec![b'x'; 20 << 20];
    // The length is known: not a byte is written.
    let announced = Server::start(|_, _| Reply::new("200 OK", "content-length: 20971520\r\n", b"").held());
    let error = get(&bed.open(), &announced.url("/x"), SCRIPT, "").await.unwrap_err();
    assert!(error.to_string().contains("20971520 bytes are needed and"), "{error}");
    assert!(matches!(error, ArtefactError::DiskFull { .. }) && error.may_pass());
    // It is not known: it is written until it does not fit.
    let body = large.clone();
    let endless = Server::start(move |_, _| Reply::new("200 OK", "", &body));
    let error = get(&bed.open(), &endless.url("/x"), SCRIPT, "").await.unwrap_err();
    assert!(matches!(error, ArtefactError::DiskFull { .. }) && error.may_pass(), "{error}");
    assert!(error.to_string().contains(bed.config.cache.to_str().unwrap()), "{error}");
    // The archive fits, what is in it does not.
    let noise: Vec<u8> =
        (0..7_000_000u32).flat_map(|n| [n.wrapping_mul(2_654_435_761).to_le_bytes()[3], b'x']).collect();
    let packed = gzip(&tar(&[Tar::program("one", SCRIPT), Tar::program("two", &noise)]));
    assert!(packed.len() < 8 << 20, "{}", packed.len());
    let error = bed.take(&packed, "one").await.unwrap_err();
    assert!(matches!(error, ArtefactError::DiskFull { .. }) && error.may_pass(), "{error}");
    assert_eq!(bed.content(), [""; 0]);
    // What nobody uses makes room for what is wanted.
    let first = [script(1), vec![b'#'; 5 << 20]].concat();
    drop(bed.take(&first, "").await.unwrap());
    let second = [script(2), vec![b'#'; 5 << 20]].concat();
    bed.take(&second, "").await.unwrap();
    assert_eq!(bed.content(), [sha256(&second).to_string()]);
}
