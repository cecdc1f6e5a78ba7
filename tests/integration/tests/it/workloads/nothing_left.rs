//! What cannot be run, or ends badly, says why where the operator looks, and leaves nothing on its node.

mod traces;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Launch, eventually_ok, scratch};
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use self::traces::Traces;
use super::is_possible;
use super::rig::Node;
use crate::fixture::{CALL, Hub, SOON, rows, text};

/// Longest pause between two tries, and the try.
const ROOM: Duration = Duration::from_secs(75);

/// Artefacts that no node may take, offered on loopback until the test process ends.
struct Hostile {
    address: SocketAddr,
    folder: TempDir,
    /// A name that nothing but they and the tests' workloads would give to a file.
    mark: String,
}

impl Hostile {
    fn serve() -> Result<Self> {
        let (folder, mark) = (scratch("hostile")?, format!("blueprint-mark-{}", std::process::id()));
        let made = Launch::new("python3").args(["-I", "-c", include_str!("hostile.py")]);
        let made = made.arg(folder.path()).arg(&mark).run(CALL)?;
        ensure!(made.code == Some(0), "{}", made.stderr);
        let (listener, path) = (TcpListener::bind("127.0.0.1:0")?, folder.path().to_owned());
        let address = listener.local_addr()?;
        std::thread::Builder::new().name("hostile".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &path);
            }
        })?;
        Ok(Self { address, folder, mark })
    }

    /// The options that have one of them run by its real digest.
    fn options(&self, name: &str) -> Result<Vec<String>> {
        let path = self.folder.path().join(name);
        let content = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let digest: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(["--url", &self.url(name), "--sha256", &digest].map(str::to_owned).into())
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }
}

/// Answers one request with a file.
fn answer(mut stream: std::net::TcpStream, folder: &Path) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().context("no request")??;
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let name = first.split([' ', '/']).find(|part| !part.is_empty() && *part != "GET").unwrap_or_default();
    let (status, body) = match std::fs::read(folder.join(name)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    Ok(stream.write_all(&body)?)
}

/// One that does not get to run, or not for long.
struct Case {
    options: Vec<String>,
    state: &'static str,
    why: String,
}

fn case(options: &[&str], state: &'static str, why: &str) -> Case {
    let options = options.iter().map(|&option| option.to_owned()).collect();
    Case { options, state, why: why.to_owned() }
}

/// Has all of them run, and waits until each says what is wrong with it, in `show` and in `ls`.
fn all_say_why(hub: &Hub<'_>, blueprint: u64, cases: &[Case]) -> Result<Vec<String>> {
    let mut services = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let service = format!("{blueprint}/{number}");
        let mut arguments = vec!["workload", "run", &service];
        arguments.extend(case.options.iter().map(String::as_str));
        hub.json(&arguments)?;
        services.push(service);
    }
    for (service, case) in services.iter().zip(cases) {
        eventually_ok(SOON, &format!("the reason of {:?}", case.options), || {
            let shown = hub.json(&["workload", "show", service])?;
            ensure!(text(&shown, "/state")? == case.state, "not {}: {shown}", case.state);
            ensure!(text(&shown, "/reason")?.contains(&case.why), "not {:?}: {shown}", case.why);
            let listed = hub.json(&["workload", "ls"])?;
            let mut listed = rows(&listed, "/workloads")?.iter();
            let row = listed.find(|row| row.get("service") == Some(&json!(service))).context("not listed")?;
            let is_same = |field: &str| row.get(field) == shown.get(field);
            ensure!(is_same("state") && is_same("reason"), "{row}");
            Ok(())
        })?;
    }
    Ok(services)
}

/// Takes all of them back, and waits until nothing of them is left at the hub.
fn take_back(hub: &Hub<'_>, services: &[String]) -> Result<()> {
    for service in services {
        hub.json(&["workload", "rm", service])?;
    }
    let listed = hub.json(&["workload", "ls"])?;
    ensure!(rows(&listed, "/workloads")?.is_empty(), "{listed}");
    let offered = hub.json(&["service", "ls"])?;
    ensure!(services.iter().all(|service| !offered.to_string().contains(service.as_str())), "{offered}");
    Ok(())
}

#[test]
fn what_no_node_may_take_fails_with_its_reason_and_leaves_nothing() -> Result<()> {
    const BLUEPRINT: u64 = 9137;
    if !is_possible() {
        return Ok(());
    }
    let (hub, hostile) = (Hub::start(&[])?, Hostile::serve()?);
    let mut node = Node::start(&hub, None, "one")?;
    let before = Traces::of(&mut node, BLUEPRINT, &hostile.mark)?;

    let mut cases = Vec::new();
    for (name, why) in [
        ("parent.tar", "has '..' in its path"),
        ("parent.zip", "has '..' in its path"),
        ("absolute.tar.gz", "is an absolute path"),
        ("symlink.tar.xz", "is a link"),
        ("symlink.zip", "is a link"),
        ("hardlink.tar", "is a link"),
        ("bomb.tar.gz", "zip bomb"),
        ("bomb.zip", "zip bomb"),
        ("cut.tar.gz", "cannot be unpacked"),
        ("text", "is not a program"),
        ("text.tar", "no program"),
        ("two.tar", "more than one program"),
        ("script", "/nonexistent/interpreter"),
        ("arch", "is a program for aarch64"),
    ] {
        cases.push(Case { options: hostile.options(name)?, state: "failed", why: why.to_owned() });
    }
    // Found only when it is executed: the program is whole, and what loads it is not there.
    let options = hostile.options("loader")?;
    let loader = options.last().cloned().context("no digest")?;
    cases.push(Case { options, state: "backing-off", why: "cannot execute".to_owned() });

    let (wrong, good, absent) = ("00".repeat(32), hostile.url("good"), hostile.url("absent"));
    let right = hostile.options("good")?.pop().context("no digest")?;
    let nowhere = format!("http://127.0.0.1:{}/x", blueprint_tests_support::free_port()?);
    let plain = node.folder("bin")?.join("plain");
    std::fs::write(&plain, "#!/bin/sh\n")?;
    let (plain, bin) = (plain.display().to_string(), node.folder("bin")?.display().to_string());
    let gpus = node.folder("bin")?.join("gpus.json");
    std::fs::write(&gpus, json!({ "limits": { "gpu_count": 200, "gpu_policy": "required" } }).to_string())?;
    let gpus = gpus.display().to_string();
    let good_by = ["--url", &good, "--sha256", &right];
    let by = |more: &[&'static str]| [&good_by[..], more].concat();
    cases.extend([
        case(&["--url", &good, "--sha256", &wrong], "failed", "SHA-256"),
        case(&[&good_by[..], &["--blake3", &wrong]].concat(), "failed", "BLAKE3"),
        case(&["--url", &absent, "--sha256", &wrong], "failed", "answered 404"),
        case(&["--url", &nowhere, "--sha256", &wrong], "backing-off", "cannot reach"),
        case(&["--url", "hub://", "--sha256", &wrong], "backing-off", "blueprint-hub artefact push"),
        case(&["--path", "/nonexistent/program"], "failed", "No such file"),
        case(&["--path", &plain], "failed", "is not an executable file"),
        case(&["--path", &bin], "failed", "is not an executable file"),
        case(&by(&["--memory-bytes", "1000000000000000"]), "unplaced", "MiB of memory"),
        case(&by(&["--cpu-millis", "1024000"]), "unplaced", "thousandths of a processor"),
        case(&[&good_by[..], &["--file", &gpus]].concat(), "unplaced", "it asks for 200 GPUs"),
        case(&["--image", "example/none", "--digest", &wrong], "backing-off", "workload.engine_socket"),
    ]);
    let services = all_say_why(&hub, BLUEPRINT, &cases)?;
    // What does not run holds nothing meanwhile, either: no process, no group, no port, no artefact.
    let now = Traces::of(&mut node, BLUEPRINT, &hostile.mark)?;
    let held = now.beyond(&before);
    // But for the one that is tried again, and its program, which whole artefacts' place is for.
    let held: Vec<_> =
        held.iter().filter(|trace| !trace.contains("svc-9137-14") && !trace.contains(&loader)).collect();
    ensure!(held.is_empty(), "held while nothing runs: {held:#?}");
    take_back(&hub, &services)?;
    eventually_ok(SOON, "the end of every trace", || {
        let left = Traces::of(&mut node, BLUEPRINT, &hostile.mark)?.beyond(&before);
        // But for a whole program in the cache, and the line of why it was not executed.
        let is_kept = |trace: &String| trace.contains(&loader) || trace.contains("/data/logs/svc-9137-14");
        let left: Vec<_> = left.iter().filter(|trace| !is_kept(trace)).collect();
        ensure!(left.is_empty(), "left: {left:#?}");
        Ok(())
    })?;

    // Limits in which no process can live are no workload at all.
    for limit in [["--memory-bytes", "1"], ["--cpu-millis", "1"], ["--storage-bytes", "1"]] {
        let run = [&["workload", "run", "9137/99"], &good_by[..], &limit[..]].concat();
        let refused = hub.command(&run)?.run(CALL)?;
        ensure!(refused.code == Some(2) && refused.stderr.contains("has to be"), "{}", refused.stderr);
    }
    ensure!(rows(&hub.json(&["workload", "ls"])?, "/workloads")?.is_empty(), "stored");
    Ok(())
}

/// One that leaves all it can, and is then no more: a file in each folder that all write to, processes in sessions of their
/// own, and a port.
const LITTERS: [&str; 7] = [
    "echo x >/tmp/$MARK; mkdir -p /dev/shm/$MARK/deep; echo x >/dev/shm/$MARK/deep/file; echo x >$DATA_DIR/kept",
    "mkfifo /dev/shm/$MARK.fifo; ln -s /etc /dev/shm/$MARK.link",
    "setsid sleep 601 & (setsid setsid sleep 601 &)",
    "python3 -I -c 'import socket, time; s = socket.create_server((\"127.0.0.1\", 0)); time.sleep(601)' &",
    "echo here I am; sleep 0.5",
    "[ \"$HOW\" = memory ] && exec python3 -I -c 'held = bytearray(256 << 20); [held.__setitem__(at, 1) for at in range(0, 256 << 20, 4096)]'",
    "exit 3",
];

#[test]
fn what_ends_badly_says_how_and_leaves_its_data_and_its_lines_alone() -> Result<()> {
    const BLUEPRINT: u64 = 9138;
    if !is_possible() {
        return Ok(());
    }
    let (hub, hostile) = (Hub::start(&[])?, Hostile::serve()?);
    let mut node = Node::start(&hub, None, "one")?;
    let before = Traces::of(&mut node, BLUEPRINT, &hostile.mark)?;
    let mark = format!("MARK={}", hostile.mark);
    let litters = node.script("litters", &LITTERS)?;
    let run = ["--path", &litters, "--test-mode", "--restart", "never", "--env", &mark];
    let memory = ["--env", "HOW=memory", "--memory-bytes", "67108864"];
    let cases = [
        case(&run, "failed", "exited with code 3"),
        case(&[&run[..], &memory[..]].concat(), "failed", "more memory than its limit"),
    ];
    let services = all_say_why(&hub, BLUEPRINT, &cases)?;
    take_back(&hub, &services)?;
    eventually_ok(SOON, "the end of every trace but data and lines", || {
        let left = Traces::of(&mut node, BLUEPRINT, &hostile.mark)?.beyond(&before);
        let left: Vec<_> = left
            .iter()
            .filter(|trace| !trace.contains("/data/data/") && !trace.contains("/data/logs/"))
            .collect();
        ensure!(left.is_empty(), "left: {left:#?}");
        Ok(())
    })?;
    ensure!(node.path("data/data/svc-9138-0/blueprint-9138-service/kept").is_file(), "its data is gone");
    let lines = hub.command(&["logs", "9138/0", "--node", "one"])?.run(CALL)?;
    ensure!(lines.stdout.contains("here I am"), "{lines:?}");
    Ok(())
}

#[test]
fn a_node_whose_disk_is_full_says_so_leaves_nothing_and_goes_on_once_there_is_room() -> Result<()> {
    const BLUEPRINT: u64 = 9139;
    if !is_possible() {
        return Ok(());
    }
    let (hub, hostile) = (Hub::start(&[])?, Hostile::serve()?);
    let mut node = Node::start_on_small_disk(&hub, "one", 20)?;
    let before = Traces::of(&mut node, BLUEPRINT, &hostile.mark)?;
    let mut cases = Vec::new();
    for name in ["large", "noise.tar", "grows.tar.gz"] {
        cases.push(Case { options: hostile.options(name)?, state: "backing-off", why: "is full".to_owned() });
    }
    let mut services = Vec::new();
    for (number, case) in cases.into_iter().enumerate() {
        // One after the other: what one of them takes meanwhile is no reason of another.
        services = all_say_why(&hub, BLUEPRINT + u64::try_from(number)?, &[case])?;
        take_back(&hub, &services)?;
        eventually_ok(SOON, "the end of every trace", || {
            let left = Traces::of(&mut node, BLUEPRINT, &hostile.mark)?.beyond(&before);
            ensure!(left.is_empty(), "left: {left:#?}");
            Ok(())
        })?;
    }
    drop(services);

    // Full to its last byte, by somebody else: the agent goes on, and so does the workload once there is room.
    let filler = node.agent.own_folder()?.join("filler");
    let mut file = std::fs::File::create(&filler)?;
    while file.write_all(&[7; 4096]).is_ok() {}
    let cases = [Case { options: hostile.options("good")?, state: "backing-off", why: "is full".to_owned() }];
    let services = all_say_why(&hub, BLUEPRINT, &cases)?;
    ensure!(node.agent.process()?.is_running(), "{}", node.agent.log());
    // What is open still takes its room.
    drop(file);
    std::fs::remove_file(&filler)?;
    eventually_ok(ROOM, "the workload once there is room", || {
        let shown = hub.json(&["workload", "show", &services[0]])?;
        ensure!(text(&shown, "/state")? == "starting" && shown["pid"].is_u64(), "{shown}");
        Ok(())
    })?;
    take_back(&hub, &services)?;
    eventually_ok(SOON, "the end of every trace but its program", || {
        let left = Traces::of(&mut node, BLUEPRINT, &hostile.mark)?.beyond(&before);
        let left: Vec<_> = left
            .iter()
            .filter(|trace| !trace.contains("-workloads/artefacts/") && !trace.contains("-workloads/logs/"))
            .collect();
        ensure!(left.is_empty(), "left: {left:#?}");
        Ok(())
    })
}
