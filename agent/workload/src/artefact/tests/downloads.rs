//! What servers do, and what becomes of it.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::server::{Reply, rest, tls};
use super::*;

/// A file that takes more than one read.
fn large() -> Vec<u8> {
    let mut bytes = SCRIPT.to_vec();
    bytes.extend((0..3_000_000u32).map(|number| number.to_le_bytes()[1]));
    bytes
}

#[tokio::test]
async fn a_program_is_fetched_checked_and_run_and_then_in_the_cache() {
    let (config, root) = tls();
    let server = Server::start_with(Some(config), file(SCRIPT.to_vec()));
    let mut bed = Bed::new();
    bed.config.extra_roots = vec![root];
    let artefacts = bed.open();
    let (url, sha256) = (server.url("/program?token=secret"), sha256(SCRIPT));
    let blake3 = Blake3Digest::from_bytes(*blake3::hash(SCRIPT).as_bytes());
    let source = NativeArtefact { url: &url, sha256: &sha256, blake3: Some(&blake3), binary: "" };
    let told = Mutex::new(Vec::new());
    let artefact = artefacts.get(&source, |progress| told.lock().push(progress)).await.unwrap();
    assert_eq!(artefact.program, artefact.folder.join("program"));
    assert!(artefact.program.is_absolute());
    assert_eq!(bed.content(), [sha256.to_string()]);
    assert!(artefact.folder.starts_with(bed.config.cache.canonicalize().unwrap().join(sha256.to_string())));
    assert_eq!(
        (mode(&artefact.program), mode(&artefact.folder), mode(&bed.config.cache)),
        (0o555, 0o555, 0o711)
    );
    assert!(runs(&artefact.program));
    let whole = Progress { bytes: 17, total: Some(17) };
    assert_eq!(told.lock().last(), Some(&whole));
    assert_eq!(server.asked()[0].path, "/program?token=secret");
    assert_eq!(server.asked()[0].header("authorization"), None);

    drop(server);
    let again = artefacts.get(&source, |_| panic!("nothing is downloaded")).await.unwrap();
    assert_eq!(again.program, artefact.program);
    let wrong = Blake3Digest::from_bytes([7; 32]);
    let error = artefacts.get(&NativeArtefact { blake3: Some(&wrong), ..source }, |_| ()).await.unwrap_err();
    assert!(matches!(error, ArtefactError::Digest { function: "BLAKE3", .. }), "{error}");
}

#[tokio::test]
async fn a_wrong_digest_leaves_nothing() {
    let server = Server::start(file(SCRIPT.to_vec()));
    let bed = Bed::new();
    let artefacts = bed.open();
    let error = get(&artefacts, &server.url("/x?key=hidden"), b"another file", "").await.unwrap_err();
    assert!(matches!(error, ArtefactError::Digest { function: "SHA-256", bytes: 17, .. }), "{error}");
    assert!(error.to_string().contains(&sha256(SCRIPT).to_string()), "{error}");
    assert!(!error.to_string().contains("hidden") && !error.may_pass());
    let (url, right, wrong) = (server.url("/x"), sha256(SCRIPT), Blake3Digest::from_bytes([7; 32]));
    let source = NativeArtefact { url: &url, sha256: &right, blake3: Some(&wrong), binary: "" };
    let error = artefacts.get(&source, |_| ()).await.unwrap_err();
    assert!(matches!(error, ArtefactError::Digest { function: "BLAKE3", .. }), "{error}");
    assert_eq!(bed.content(), [""; 0]);
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_did() {
    let body = large();
    let parts = body.clone();
    let server = Server::start(move |asked, number| match number {
        0 => Reply::cut(&parts, 1_000_000, "etag: \"v1\"\r\n"),
        1 => Reply::new("503 Service Unavailable", "content-length: 0\r\n", b""),
        2 => {
            let mut reply = rest(asked, &parts, "").unwrap();
            reply.bytes.truncate(500_000);
            // This time it falls silent.
            reply.held()
        }
        _ => rest(asked, &parts, "").unwrap(),
    });
    let bed = Bed::new();
    get(&bed.open_hasty(), &server.url("/x"), &body, "").await.unwrap();
    let asked = server.asked();
    let ranges: Vec<Option<&str>> = asked.iter().map(|asked| asked.header("range")).collect();
    assert_eq!((ranges.len(), ranges[0], ranges[1]), (4, None, Some("bytes=1000000-")));
    let last: usize = ranges[3].unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
    assert!((1_400_000..1_500_000).contains(&last), "{last}");
    assert!(asked[1..].iter().all(|asked| asked.header("if-range") == Some("\"v1\"")));
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_fetched_from_its_beginning() {
    let (old, new) = (vec![b'x'; 100_000], large());
    let body = new.clone();
    let server = Server::start(move |_, number| match number {
        0 => Reply::cut(&old, 50_000, "etag: \"old\"\r\n"),
        _ => Reply::ok(&body),
    });
    let bed = Bed::new();
    get(&bed.open(), &server.url("/x"), &new, "").await.unwrap();
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_download_that_cannot_go_on_may_pass() {
    let body = large();
    for headers in ["", "etag: W/\"weak\"\r\n", "etag: \"1\"\r\naccept-ranges: none\r\n"] {
        let parts = body.clone();
        let server = Server::start(move |_, _| Reply::cut(&parts, 1000, headers));
        let bed = Bed::new();
        let error = get(&bed.open(), &server.url("/x"), &body, "").await.unwrap_err();
        assert!(matches!(error, ArtefactError::Broken { bytes: 1000, .. }), "{error}");
        assert!(error.may_pass());
        assert_eq!((server.asked().len(), bed.content().len()), (1, 0), "{headers}");
    }
    let parts = body.clone();
    let server = Server::start(move |_, number| match number {
        0 => Reply::cut(&parts, 1000, "etag: \"1\"\r\n"),
        _ => Reply::new("206 Partial Content", "content-range: bytes 7-8/9\r\ncontent-length: 2\r\n", b"xx"),
    });
    let bed = Bed::new();
    let error = get(&bed.open(), &server.url("/x"), &body, "").await.unwrap_err();
    assert!(error.to_string().contains("another part"), "{error}");
    // One that breaks off again and again without another byte is left.
    let parts = body.clone();
    let server = Server::start(move |asked, number| match number {
        0 => Reply::cut(&parts, 1000, "etag: \"1\"\r\n"),
        _ => {
            let mut reply = rest(asked, &parts, "").unwrap();
            reply.bytes.truncate(reply.bytes.len() - (parts.len() - 1000));
            reply
        }
    });
    let error = get(&bed.open(), &server.url("/x"), &body, "").await.unwrap_err();
    assert!(matches!(error, ArtefactError::Broken { bytes: 1000, .. }), "{error}");
    assert_eq!((server.asked().len(), bed.content().len()), (5, 0));
}

#[tokio::test]
async fn servers_that_are_silent_or_away_may_come_back() {
    let bed = Bed::new();
    let silent = Server::start(|_, _| Reply { bytes: Vec::new(), is_held: true, is_more: false });
    let error = get(&bed.open_hasty(), &silent.url("/x"), SCRIPT, "").await.unwrap_err();
    assert!(matches!(error, ArtefactError::TimedOut { what: "answer", .. }) && error.may_pass(), "{error}");
    let halting = Server::start(|_, _| Reply::cut(SCRIPT, 4, "").held());
    let error = get(&bed.open_hasty(), &halting.url("/x"), SCRIPT, "").await.unwrap_err();
    assert!(matches!(error, ArtefactError::TimedOut { what: "byte", .. }) && error.may_pass(), "{error}");
    let port = blueprint_tests_support::free_port().unwrap();
    let error = get(&bed.open(), &format!("http://127.0.0.1:{port}/x"), SCRIPT, "").await.unwrap_err();
    assert!(matches!(error, ArtefactError::Unreachable { .. }) && error.may_pass(), "{error}");
    // Nothing vouches for this one.
    let (config, _) = tls();
    let stranger = Server::start_with(Some(config), file(SCRIPT.to_vec()));
    let error = get(&bed.open(), &stranger.url("/x"), SCRIPT, "").await.unwrap_err();
    assert!(error.to_string().contains("TLS: invalid peer certificate"), "{error}");
    assert_eq!((stranger.asked().len(), bed.content().len()), (0, 0));
}

#[tokio::test]
async fn redirects_are_followed_to_an_end_and_never_to_less_safety() {
    let (config, root) = tls();
    let plain = Server::start(file(SCRIPT.to_vec()));
    let onward = plain.url("/file");
    let server = Server::start_with(Some(config), move |asked, _| match asked.path.as_str() {
        "/a/start" => Reply::to("../b?c=d"),
        "/b?c=d" => Reply::to("/end#fragment"),
        "/end" => Reply::ok(SCRIPT),
        "/plain" => Reply::to(&onward),
        "/password" => Reply::to("https://user:password@localhost/x"),
        "/ftp" => Reply::to("ftp://localhost/x"),
        "/nowhere" => Reply::new("301 Moved Permanently", "content-length: 0\r\n", b""),
        _ => Reply::to("/loop"),
    });
    let mut bed = Bed::new();
    bed.config.extra_roots = vec![root];
    for (path, why) in [
        ("/plain", "nobody goes from https to http"),
        ("/password", "it holds a user or password"),
        ("/ftp", "only https:// and http:// are fetched"),
        ("/nowhere", "that is no URL"),
        ("/loop", "it leads on and on"),
    ] {
        let error = get(&bed.open(), &server.url(path), SCRIPT, "").await.unwrap_err();
        assert!(matches!(error, ArtefactError::Redirect { .. }) && !error.may_pass(), "{error}");
        assert!(error.to_string().contains(why) && !error.to_string().contains("user:"), "{error}");
    }
    assert_eq!(server.asked().iter().filter(|asked| asked.path == "/loop").count(), 11);
    assert_eq!((plain.asked().len(), bed.content().len()), (0, 0));
    get(&bed.open(), &server.url("/a/start"), SCRIPT, "").await.unwrap();
}

#[tokio::test]
async fn a_status_says_what_to_do_and_whether_to_try_again() {
    let bed = Bed::new();
    for (status, may_pass) in
        [(404, false), (410, false), (403, false), (400, false), (204, false), (206, true)]
            .into_iter()
            .chain([(500, true), (503, true), (429, true), (408, true)])
    {
        let server =
            Server::start(move |_, _| Reply::new(&format!("{status} X"), "content-length: 0\r\n", b""));
        let error = get(&bed.open(), &server.url("/x"), SCRIPT, "").await.unwrap_err();
        assert_eq!(error.may_pass(), may_pass, "{error}");
        assert_eq!((server.asked().len(), bed.content().len()), (1, 0), "{error}");
    }
}

#[tokio::test]
async fn no_more_bytes_are_taken_than_allowed() {
    let mut bed = Bed::new();
    bed.config.max_download_bytes = 1000;
    // The length alone is enough: no byte of it ever comes.
    let server = Server::start(|_, _| Reply::new("200 OK", "content-length: 1001\r\n", b"").held());
    let error = get(&bed.open(), &server.url("/x"), SCRIPT, "").await.unwrap_err();
    assert!(matches!(error, ArtefactError::TooLarge { limit: 1000, .. }) && !error.may_pass(), "{error}");
    let chunks = format!("3e8\r\n{}\r\n1\r\nx\r\n", "x".repeat(1000));
    let server = Server::start(move |_, _| {
        Reply::new("200 OK", "transfer-encoding: chunked\r\n", chunks.as_bytes()).held()
    });
    let error = get(&bed.open(), &server.url("/x"), SCRIPT, "").await.unwrap_err();
    assert!(matches!(error, ArtefactError::TooLarge { limit: 1000, .. }), "{error}");
    assert_eq!(bed.content(), [""; 0]);
}

#[tokio::test]
async fn gateways_are_asked_in_turn() {
    let missing = Server::start(|_, _| Reply::new("504 Gateway Timeout", "content-length: 0\r\n", b""));
    let lying = Server::start(file(b"#!/bin/sh\nrm -rf /\n".to_vec()));
    let honest = Server::start(file(SCRIPT.to_vec()));
    let mut bed = Bed::new();
    bed.config.ipfs_gateways = vec![missing.url(""), lying.url("/"), honest.url("")];
    get(&bed.open(), "ipfs://QmX/bin/x", SCRIPT, "").await.unwrap();
    for server in [&missing, &lying, &honest] {
        assert_eq!(server.asked()[0].path, "/ipfs/QmX/bin/x");
    }
    let mut bed = Bed::new();
    bed.config.ipfs_gateways = vec![missing.url(""), lying.url("")];
    let error = get(&bed.open(), "ipfs://QmX", SCRIPT, "").await.unwrap_err();
    assert!(matches!(error, ArtefactError::Gateways { may_pass: true, .. }), "{error}");
    assert!(error.to_string().contains("504") && error.to_string().contains("is not what was asked for"));
    bed.config.ipfs_gateways = vec![lying.url("")];
    assert!(!get(&bed.open(), "ipfs://QmX", SCRIPT, "").await.unwrap_err().may_pass());
    bed.config.ipfs_gateways = vec!["ftp://x".to_owned()];
    assert!(matches!(Artefacts::new(bed.config.clone()), Err(OpenError::Gateway(_))));
}

/// What was pushed: one file, or a reason.
struct Hub(Result<Vec<u8>, PushedError>);

impl Pushed for Hub {
    fn open<'a>(
        &'a self,
        sha256: &'a Sha256Digest,
    ) -> BoxFuture<'a, Result<Box<dyn AsyncRead + Send + Unpin>, PushedError>> {
        assert_eq!(*sha256, super::sha256(SCRIPT));
        let file = self
            .0
            .clone()
            .map(|bytes| -> Box<dyn AsyncRead + Send + Unpin> { Box::new(std::io::Cursor::new(bytes)) });
        std::future::ready(file).boxed()
    }
}

#[tokio::test]
async fn what_was_pushed_comes_from_the_hub_and_is_checked_like_all() {
    let mut bed = Bed::new();
    let error = get(&bed.open(), "hub://", SCRIPT, "").await.unwrap_err();
    assert!(matches!(error, ArtefactError::Pushed { may_pass: false, .. }), "{error}");
    let away = PushedError { reason: "the hub is away".to_owned(), may_pass: true };
    bed.config.hub = Some(Arc::new(Hub(Err(away))));
    let error = get(&bed.open(), "hub://", SCRIPT, "").await.unwrap_err();
    assert!(error.may_pass() && error.to_string().ends_with("the hub is away"), "{error}");
    bed.config.hub = Some(Arc::new(Hub(Ok(b"something else".to_vec()))));
    let error = get(&bed.open(), "hub://", SCRIPT, "").await.unwrap_err();
    assert!(matches!(error, ArtefactError::Digest { .. }), "{error}");
    assert_eq!(bed.content(), [""; 0]);
    bed.config.hub = Some(Arc::new(Hub(Ok(SCRIPT.to_vec()))));
    get(&bed.open(), "hub://", SCRIPT, "").await.unwrap();
}

#[tokio::test]
async fn servers_are_reached_through_a_proxy() {
    // It plays both: the proxy, and behind it the server.
    let server = Server::start(|asked, _| match asked.method.as_str() {
        "CONNECT" => Reply { is_more: true, ..Reply::new("200 OK", "", b"") },
        _ => Reply::ok(SCRIPT),
    });
    let mut bed = Bed::new();
    bed.config.proxy = Some(format!("http://{}", server.address()).parse().unwrap());
    get(&bed.open(), "http://files.example/x", SCRIPT, "").await.unwrap();
    let asked = server.asked();
    assert_eq!((asked[0].path.as_str(), asked[1].path.as_str()), ("files.example:80", "/x"));
    assert_eq!(asked[1].header("host"), Some("files.example"));
}

#[tokio::test]
async fn what_cannot_be_asked_is_told_at_once() {
    let bed = Bed::new();
    for url in ["https://user:password@localhost/x", "ftp://localhost/x", "x", "github://a/b", "https://"] {
        let error = get(&bed.open(), url, SCRIPT, "").await.unwrap_err();
        assert!(matches!(error, ArtefactError::Url { .. }) && !error.may_pass(), "{error}");
        assert!(!error.to_string().contains("password@"), "{error}");
    }
}
