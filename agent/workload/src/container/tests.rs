//! The client against an engine that says what it is told to, byte for byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use blueprint_agent_workload_core::Exit;
use blueprint_common_types::Secret;
use blueprint_common_types::workload::{ResourceLimits, Sha256Digest};
use futures_util::StreamExt;
use tempfile::TempDir;

use super::*;

const DIGEST: Sha256Digest = Sha256Digest::from_bytes([7; 32]);

/// An engine that gives one answer to each connection, in order, and keeps what it was asked.
struct Fake {
    folder: TempDir,
    thread: JoinHandle<Vec<String>>,
}

impl Fake {
    fn start(answers: Vec<Vec<u8>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("e.sock")).unwrap();
        let serve = move || answers.iter().map(|answer| serve(&listener, answer)).collect();
        let thread = std::thread::Builder::new().spawn(serve).unwrap();
        Self { folder, thread }
    }

    fn engine(&self) -> Engine {
        Engine::new(self.folder.path().join("e.sock"))
    }

    /// What was asked: the first line, the credentials, and the body of each request.
    fn asked(self) -> Vec<String> {
        self.thread.join().unwrap()
    }
}

fn serve(listener: &UnixListener, answer: &[u8]) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length, mut auth) = (String::new(), 0, String::new());
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name {
            "content-length" => length = value.parse().unwrap(),
            "x-registry-auth" => auth = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    finish(&mut stream, answer);
    let body = String::from_utf8(body).unwrap();
    [first.trim().trim_end_matches(" HTTP/1.1"), &auth, &body].join(" ").trim().to_owned()
}

/// A client that has seen enough may be gone.
fn finish(stream: &mut UnixStream, answer: &[u8]) {
    let _ = stream.write_all(answer);
}

fn answer(status: u16, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn json_answer(status: u16, body: serde_json::Value) -> Vec<u8> {
    answer(status, body.to_string().as_bytes())
}

fn version() -> Vec<u8> {
    json_answer(200, json!({ "Version": "1", "ApiVersion": "1.43", "MinAPIVersion": "1.12" }))
}

fn missing() -> Vec<u8> {
    json_answer(404, json!({ "message": "No such thing" }))
}

fn image(digest: &Sha256Digest) -> Vec<u8> {
    json_answer(
        200,
        json!({ "RepoDigests": [format!("a/b@sha256:{digest}")], "Config": { "Volumes": null } }),
    )
}

fn network(apart: &str) -> Vec<u8> {
    let options = json!({ "com.docker.network.bridge.enable_icc": apart });
    json_answer(200, json!({ "Options": options, "IPAM": { "Config": [{ "Gateway": "172.18.0.1" }] } }))
}

fn container() -> ContainerSpec {
    ContainerSpec {
        name: "svc-7-42".to_owned(),
        node: "n1".to_owned(),
        image: "a/b".to_owned(),
        digest: DIGEST,
        args: Vec::new(),
        env: BTreeMap::new(),
        limits: ResourceLimits::default(),
        gpu_ids: Vec::new(),
        devices: Vec::new(),
        disk: None,
        mounts: Vec::new(),
        ports: Vec::new(),
        user: None,
        extra_hosts: Vec::new(),
    }
}

#[tokio::test]
async fn a_missing_or_forbidden_socket_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("no.sock");
    let error = Engine::new(socket.clone()).check().await.unwrap_err();
    assert_eq!(error, EngineError::NoEngine { socket: socket.clone() });
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(Engine::new(socket).check().await.unwrap_err().reason(), "no_engine", "nobody listens");

    let file = folder.path().join("locked");
    std::fs::create_dir(&file).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o0)).unwrap();
    let error = Engine::new(file.join("e.sock")).check().await.unwrap_err();
    let expected = if nix::unistd::geteuid().is_root() { "no_engine" } else { "no_access" };
    assert_eq!(error.reason(), expected);
}

#[tokio::test]
async fn a_pull_that_brings_another_digest_is_refused() {
    let report =
        "{\"status\":\"Pulling fs layer\",\"id\":\"x\"}\n{\"status\":\"Pull complete\",\"id\":\"x\"}\n";
    let other = Sha256Digest::from_bytes([8; 32]);
    let fake = Fake::start(vec![version(), missing(), answer(200, report.as_bytes()), image(&other)]);
    let seen = std::cell::Cell::new(Progress::default());
    let auth = RegistryAuth {
        registry: "r.example".to_owned(),
        user: "u".to_owned(),
        password: Secret::new("p?>".to_owned()),
    };
    let error =
        fake.engine().pull("r.example/a/b", &DIGEST, Some(&auth), |at| seen.set(at)).await.unwrap_err();
    assert_eq!(error.reason(), "digest");
    assert!(error.to_string().contains(&format!("it has a/b@sha256:{other}")), "{error}");
    assert_eq!((seen.get().layers_done, seen.get().layers), (1, 1));
    let asked = fake.asked();
    assert_eq!(asked[1], format!("GET /v1.41/images/r.example/a/b@sha256:{DIGEST}/json"));
    let (line, auth) = asked[2].rsplit_once(' ').unwrap();
    assert_eq!(line, format!("POST /v1.41/images/create?fromImage=r.example/a/b&tag=sha256:{DIGEST}"));
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::URL_SAFE.decode(auth).unwrap();
    let auth: serde_json::Value = serde_json::from_slice(&auth).unwrap();
    assert_eq!(auth, json!({ "username": "u", "password": "p?>", "serveraddress": "r.example" }));
}

#[tokio::test]
async fn a_login_of_another_registry_stays_with_the_agent() {
    let fake = Fake::start(vec![version(), missing(), answer(404, b"{\"message\":\"no such image\"}")]);
    let auth = RegistryAuth {
        registry: "r.example".to_owned(),
        user: "u".to_owned(),
        password: Secret::new("p".to_owned()),
    };
    fake.engine().pull("evil.example/a/b", &DIGEST, Some(&auth), drop).await.unwrap_err();
    let line = format!("POST /v1.41/images/create?fromImage=evil.example/a/b&tag=sha256:{DIGEST}");
    assert_eq!(fake.asked()[2], line, "no credentials behind it");
}

#[tokio::test]
async fn an_image_that_is_there_is_not_pulled() {
    let fake = Fake::start(vec![version(), image(&DIGEST)]);
    let never = |_| panic!("nothing comes");
    fake.engine().pull("a/b", &DIGEST, None, never).await.unwrap();
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn a_full_disk_in_the_middle_of_a_pull_is_told_as_such() {
    let report =
        b"{\"status\":\"Extracting\",\"id\":\"x\"}\n{\"error\":\"write /x: no space left on device\"}\n";
    let fake = Fake::start(vec![version(), missing(), answer(200, report)]);
    let error = fake.engine().pull("a/b", &DIGEST, None, drop).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no space left for the container engine to pull a/b: write /x: no space left on device; free some on its disk"
    );
    assert!(error.may_pass());
}

#[tokio::test]
async fn answers_are_read_up_to_a_bound() {
    let fake = Fake::start(vec![answer(200, &vec![b' '; 2 << 20])]);
    let error = fake.engine().check().await.unwrap_err();
    assert!(error.to_string().contains("it has more than 1048576 bytes"), "{error}");
    let fake = Fake::start(vec![answer(200, b"<html>")]);
    assert_eq!(fake.engine().check().await.unwrap_err().reason(), "answer");
    let fake = Fake::start(vec![b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n{".to_vec()]);
    assert_eq!(fake.engine().check().await.unwrap_err().reason(), "broken");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_answer_is_left_in_time() {
    // Accepted by the kernel; nobody reads it.
    let folder = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(folder.path().join("e.sock")).unwrap();
    let error = Engine::new(folder.path().join("e.sock")).check().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the container engine did not say its version within 10 s; it may be overloaded or stuck: look at its log"
    );
}

#[tokio::test]
async fn a_limit_that_the_engine_would_leave_out_keeps_a_container_from_starting() {
    let fake = Fake::start(vec![version(), json_answer(200, json!({ "MemoryLimit": false }))]);
    let error = fake.engine().run(&container()).await.unwrap_err();
    assert_eq!(error, EngineError::Unbounded { limit: "memory" });
    assert_eq!(fake.asked().len(), 2, "nothing was made");
}

#[tokio::test]
async fn preferred_gpus_are_left_out_where_there_are_none() {
    let no_gpu = json!({ "message": "could not select device driver \"\" with capabilities: [[gpu]]" });
    let created = || json_answer(201, json!({ "Id": "c1", "Warnings": [] }));
    let done = || answer(204, b"");
    let running = json!({ "Id": "c1", "State": { "Running": true, "Pid": 9 } });
    let fake = Fake::start(vec![
        version(),
        json_answer(200, json!({})),
        missing(),
        image(&DIGEST),
        network("false"),
        created(),
        json_answer(500, no_gpu),
        done(),
        created(),
        done(),
        json_answer(200, running),
    ]);
    let mut wanted = container();
    (wanted.limits.gpu_policy, wanted.limits.gpu_count) = (GpuPolicy::Preferred, 1);
    let running = fake.engine().run(&wanted).await.unwrap();
    assert_eq!((running.gpus, running.pid), (0, Some(9)));
    let asked = fake.asked();
    assert!(asked[5].contains("DeviceRequests") && !asked[8].contains("DeviceRequests"));
    assert_eq!(asked[7], "DELETE /v1.41/containers/c1?force=1&v=1", "the first attempt is not left");
}

#[tokio::test]
async fn a_name_that_is_somebody_elses_is_left_alone() {
    let theirs = json!({ "Id": "c1", "Config": { "Labels": { "blueprint.node": "n2" } } });
    let fake = Fake::start(vec![version(), json_answer(200, json!({})), json_answer(200, theirs)]);
    let error = fake.engine().run(&container()).await.unwrap_err();
    assert_eq!(error, EngineError::Foreign { name: "svc-7-42".to_owned() });
    assert_eq!(fake.asked().len(), 3, "nothing was removed");
}

#[tokio::test]
async fn the_network_is_made_once_and_has_to_keep_containers_apart() {
    let system = || json_answer(200, json!({}));
    let fake =
        Fake::start(vec![version(), system(), missing(), json_answer(201, json!({})), network("false")]);
    assert_eq!(fake.engine().gateway().await.unwrap(), Some([172, 18, 0, 1].into()));
    let asked = fake.asked();
    assert!(asked[3].starts_with("POST /v1.41/networks/create"), "{asked:?}");
    assert!(asked[3].contains("\"com.docker.network.bridge.enable_icc\":\"false\""), "{asked:?}");

    let fake = Fake::start(vec![version(), system(), network("true")]);
    let error = fake.engine().gateway().await.unwrap_err();
    assert_eq!(error, EngineError::Network { name: "blueprint" });

    let podman = json!({ "ApiVersion": "1.41", "Components": [{ "Name": "Podman Engine" }] });
    let fake = Fake::start(vec![json_answer(200, podman), system()]);
    assert_eq!(fake.engine().gateway().await.unwrap(), None);
}

#[tokio::test]
async fn a_removal_that_is_on_its_way_is_waited_for() {
    let conflict =
        || json_answer(409, json!({ "message": "removal of container c1 is already in progress" }));
    let fake = Fake::start(vec![version(), conflict(), conflict(), missing()]);
    fake.engine().remove("c1").await.unwrap();
    assert_eq!(fake.asked().len(), 4);
    let error = Engine::new("/x".into()).remove("../images/x").await.unwrap_err();
    assert_eq!(error.reason(), "spec");
}

fn running(fake: &Fake) -> Running {
    let started = serde_json::from_value(json!({ "Id": "c1" })).unwrap();
    Running::new(fake.engine().socket, "/v1.41".to_owned(), "svc-7-42", &started)
}

#[tokio::test]
async fn an_engine_that_is_away_for_a_moment_is_asked_again_for_the_end() {
    let ended = json!({ "Id": "c1", "State": { "ExitCode": 137, "OOMKilled": true } });
    let cut = b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n".to_vec();
    let fake = Fake::start(vec![cut, answer(200, b"{}"), json_answer(200, ended)]);
    assert_eq!(running(&fake).wait().await, Exit::OutOfMemory);
    assert_eq!(fake.asked()[0], "POST /v1.41/containers/c1/wait?condition=not-running");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_stays_away_leaves_the_end_unknown() {
    let fake = Fake::start(Vec::new());
    let container = running(&fake);
    fake.asked();
    assert_eq!(container.wait().await, Exit::Unknown);
    let fake = Fake::start(vec![missing()]);
    assert_eq!(running(&fake).wait().await, Exit::Unknown, "it is gone");
}

#[tokio::test]
async fn output_is_read_from_a_moment_on_and_a_break_is_told() {
    let frames = b"\x01\0\0\0\0\0\0\x04one\n\x02\0\0\0\0\0\0\x09half a li";
    let mut cut = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n1d\r\n".to_vec();
    cut.extend_from_slice(frames);
    let fake = Fake::start(vec![cut]);
    let since = std::time::UNIX_EPOCH + Duration::new(5, 7);
    let found: Vec<_> = running(&fake).logs(Some(since)).await.unwrap().collect().await;
    assert_eq!(
        fake.asked()[0],
        "GET /v1.41/containers/c1/logs?stdout=1&stderr=1&timestamps=1&follow=1&since=5.000000007"
    );
    let kinds: Vec<_> = found
        .iter()
        .map(|line| line.as_ref().map(|line| (line.stream, line.text())).map_err(EngineError::reason))
        .collect();
    let said = |stream, text: &str| Ok((stream, text.to_owned()));
    let expected = [said(LogStream::Stdout, "one"), said(LogStream::Stderr, "half a li"), Err("broken")];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn last_words_that_a_followed_stream_left_out_are_fetched() {
    let frame = |kind: u8, text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        [&[kind, 0, 0, 0, 0, 0, 0, length], text.as_bytes()].concat()
    };
    let one = frame(1, "1970-01-01T00:00:01.000000005Z one\n");
    let last = frame(2, "1970-01-01T00:00:02.000000000Z panicked");
    let fake = Fake::start(vec![answer(200, &one), answer(200, &[one.clone(), last].concat())]);
    let found: Vec<_> = running(&fake).logs(None).await.unwrap().collect().await;
    let text: Vec<_> = found.into_iter().map(|line| line.unwrap().text()).collect();
    assert_eq!(text, ["one", "panicked"]);
    let asked = fake.asked();
    assert!(asked[0].ends_with("&follow=1"), "{asked:?}");
    assert!(asked[1].ends_with("&follow=0&since=1.000000005"), "{asked:?}");
    // A container that was removed meanwhile has said all it will say.
    let fake = Fake::start(vec![answer(200, &one), missing()]);
    let found: Vec<_> = running(&fake).logs(None).await.unwrap().collect().await;
    assert!(found.len() == 1 && found.iter().all(Result::is_ok), "{found:?}");
}

#[tokio::test]
async fn a_removal_that_fails_is_tried_again_before_the_end_is_told() {
    let away = || json_answer(500, json!({ "message": "the disk is busy" }));
    let fake = Fake::start(vec![
        version(),
        json_answer(200, json!({})),
        missing(),
        image(&DIGEST),
        network("false"),
        json_answer(201, json!({ "Id": "c1", "Warnings": [] })),
        answer(204, b""),
        json_answer(200, json!({ "Id": "c1", "State": { "Running": true, "Pid": 9 } })),
        away(),
        away(),
        answer(204, b""),
        away(),
    ]);
    let running = fake.engine().run(&container()).await.unwrap();
    let mut instance = crate::instance::Instance::of_test(running);
    let told = std::cell::Cell::new(0);
    let minute = Duration::from_secs(60);
    instance.remove_within(minute, Duration::ZERO, |_| told.set(told.get() + 1)).await.unwrap();
    assert_eq!(told.get(), 2);
    let given_up = instance.remove_within(Duration::ZERO, minute, |_| told.set(9)).await;
    assert_eq!((given_up.unwrap_err().reason(), told.get()), ("refused", 2));
    assert_eq!(fake.asked().len(), 12);
}

#[tokio::test]
async fn a_container_that_runs_and_is_not_seen_is_told_from_one_that_ended() {
    // No process has such a number.
    let hidden = u32::try_from(i32::MAX).unwrap();
    let with = |running: bool, pid: u32| {
        json_answer(200, json!({ "Id": "c1", "State": { "Running": running, "Pid": pid } }))
    };
    for (pid, answers, is_hidden) in [
        (hidden, vec![version(), with(true, hidden)], true),
        (hidden, vec![version(), with(false, 0)], false),
        (hidden, vec![version(), missing()], false),
        (std::process::id(), vec![], false),
    ] {
        let fake = Fake::start(answers);
        let asked = Running { pid: Some(pid), ..running(&fake) };
        let instance = crate::instance::Instance::of_test(asked);
        assert_eq!(instance.is_hidden(&fake.engine()).await, is_hidden);
        fake.asked();
    }
}
