//! Commands beside workloads: through all three gates, with a workload's rights, and without a trace.

mod inside;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{
    Finished, Launch, Need, Process, binary, eventually_ok, processes_naming, require,
};
use tempfile::TempDir;

use crate::fixture::{CALL, Hub, SOON};
use crate::workloads::rig::Node;

/// A secret of the workload.
const CANARY: &str = "canary-exec-51/swordfish";

/// What the workload leaves in its own `/tmp`.
const MARK: &str = "/tmp/mark-of-exec";

/// What the policy has to say.
const GRANT: &str = "[[session]]\nname = \"repair\"\nservices = [\"7/42\"]\nallow = [\"exec\"]\n";

/// Hub and node that allow it, and a workload that waits.
struct Bench {
    hub: Hub<'static>,
    node: Node<'static>,
    /// Not below `/tmp`, so that the workload has one of its own.
    _folder: TempDir,
}

impl Bench {
    fn start() -> Result<Self> {
        let hub = Hub::start(&["exec.enabled=true"])?;
        let folder = tempfile::Builder::new().prefix("blueprint-test-exec-").tempdir_in("/var/tmp")?;
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        let data = format!("workload.data_dir={}", folder.path().join("data").display());
        let node = Node::start_set(&hub, None, "one", &["exec.enabled=true", &data])?;
        set_policy(&hub, &node, GRANT)?;
        run_workload(&hub, folder.path(), MARK)?;
        let bench = Self { hub, node, _folder: folder };
        bench.wait_open()?;
        Ok(bench)
    }

    /// Waits until its agent takes commands: it may have been started just now.
    fn wait_open(&self) -> Result<()> {
        eventually_ok(SOON, "the node", || {
            let done = self.exec(&[], &["true"])?;
            ensure!(done.code == Some(0), "{done:?}");
            Ok(())
        })
    }

    fn launch(&self, options: &[&str], command: &[&str]) -> Result<Launch> {
        Ok(self.hub.command(&["exec", "7/42"])?.args(options).arg("--").args(command))
    }

    fn exec(&self, options: &[&str], command: &[&str]) -> Result<Finished> {
        self.launch(options, command)?.run(SOON)
    }
}

fn set_policy(hub: &Hub<'_>, node: &Node<'_>, text: &str) -> Result<()> {
    let path = node.folder("policy")?.join("policy.toml");
    std::fs::write(&path, text)?;
    hub.json(&["policy", "set", &path.display().to_string()]).map(drop)
}

/// Runs one that waits, and writes to `mark` before.
fn run_workload(hub: &Hub<'_>, folder: &Path, mark: &str) -> Result<()> {
    let program = folder.join("waits");
    std::fs::write(&program, format!("#!/bin/sh\necho here > {mark}\nwhile true; do sleep 1; done\n"))?;
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    let program = program.display().to_string();
    let variable = format!("CANARY={CANARY}");
    let run = ["workload", "run", "7/42", "--path", &program, "--test-mode", "--env", &variable];
    hub.json(&[&run[..], &["--wait", "20s"]].concat()).map(drop)
}

/// Waits until no process names this any more.
fn wait_gone(mark: &str, within: Duration) -> Result<()> {
    eventually_ok(within, &format!("the end of {mark}"), || {
        let left = processes_naming(mark);
        ensure!(left.is_empty(), "{left:?} are left");
        Ok(())
    })
}

#[test]
fn nothing_runs_beside_a_workload_until_hub_policy_and_node_allow_it() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let mut hub = Hub::start(&[])?;
    let mut node = Node::start(&hub, None, "one")?;
    run_workload(&hub, &node.folder("bin")?, "/dev/null")?;
    let refused = |hub: &Hub<'_>, words: &[&str]| -> Result<()> {
        let done = hub.command(&["exec", "7/42"])?.args(["--", "true"]).run(SOON)?;
        ensure!(done.code == Some(125), "{:?} {}", done.code, done.stderr);
        ensure!(words.iter().all(|word| done.stderr.contains(word)), "{words:?}: {}", done.stderr);
        Ok(())
    };
    refused(&hub, &["exec.enabled is false", "hub.toml"])?;
    hub.process.terminate(SOON)?;
    hub = hub.set("exec.enabled=true");
    hub.start_again()?;
    eventually_ok(SOON, "the node", || {
        refused(&hub, &["no [[session]] of the policy allows exec with 7/42"])
    })?;
    set_policy(&hub, &node, &GRANT.replace("7/42", "7/43"))?;
    refused(&hub, &["no [[session]] of the policy"])?;
    set_policy(&hub, &node, GRANT)?;
    eventually_ok(SOON, "the node", || refused(&hub, &["takes no exec", "agent.toml"]))?;
    node.agent.process()?.terminate(SOON)?;
    // One that takes forwards has the port open, and still no exec.
    node.agent = node.agent.set("forward.connect_ports=1");
    node.agent.run()?;
    eventually_ok(SOON, "the node", || {
        refused(&hub, &["the node does not allow exec", "exec.enabled = true"])
    })?;
    let audit = hub.audit()?.join("\n");
    for row in [
        "exec.refuse 7/42 off_hub: exec by operator (socket)",
        "exec.refuse 7/42 not_granted:",
        "exec.refuse 7/42 unavailable:",
        "exec.refuse 7/42 exec_off_node:",
    ] {
        ensure!(audit.contains(row), "{row} is not in\n{audit}");
    }
    Ok(())
}

#[test]
fn a_command_has_the_workloads_rights_and_gives_output_input_and_exit_code() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let bench = Bench::start()?;
    let done = bench.exec(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"])?;
    ensure!(
        (done.code, done.stdout.as_str(), done.stderr.as_str()) == (Some(7), "out\n", "err\n"),
        "{done:?}"
    );

    // Whose it is: the workload's, and nobody's else.
    let facts = "id -u; id -G; grep -E '^(NoNewPrivs|CapEff|CapPrm)' /proc/self/status; cat /proc/self/cgroup; \
                 echo \"folder $PWD $DATA_DIR\"; echo \"secret [$CANARY]\"; cat /tmp/mark-of-exec; tty; cat; echo end";
    let done = bench.exec(&[], &["sh", "-c", facts])?;
    ensure!(done.code == Some(0), "{done:?}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    let pid = bench.hub.json(&["workload", "show", "7/42"])?["pid"].as_u64().unwrap_or(0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let user = lines.first().copied().unwrap_or_default();
    ensure!(
        user != "0" && status.contains(&format!("Uid:\t{user}\t{user}\t{user}\t{user}")),
        "{user}: {status}"
    );
    ensure!(lines.contains(&"NoNewPrivs:\t1") && lines.contains(&"CapEff:\t0000000000000000"), "{done:?}");
    ensure!(done.stdout.contains("/svc-7-42") && done.stdout.contains("secret []"), "{done:?}");
    ensure!(lines.contains(&"not a tty") && lines.last() == Some(&"end"), "{done:?}");
    ensure!(lines.contains(&"here"), "it sees another /tmp than the workload: {done:?}");
    ensure!(!Path::new(MARK).exists(), "the workload has no /tmp of its own");
    let folder = lines.iter().find_map(|line| line.strip_prefix("folder ")).unwrap_or_default();
    ensure!(folder.split_once(' ').is_some_and(|(a, b)| a == b && !a.is_empty()), "{folder}");
    let root = bench.exec(&[], &["cat", "/etc/shadow"])?;
    ensure!(root.code == Some(1), "{root:?}");
    let signals = bench.exec(&[], &["kill", "-9", &pid.to_string()])?;
    ensure!(signals.code == Some(1), "it may end the workload: {signals:?}");

    // Conventions of exit codes; and its own failures are told apart.
    ensure!(bench.exec(&[], &["no-such-program"])?.code == Some(127));
    ensure!(bench.exec(&[], &["/etc/passwd"])?.code == Some(126));
    ensure!(bench.exec(&[], &["sh", "-c", "kill -TERM $$"])?.code == Some(143));
    let late = bench.exec(&["--timeout", "1s"], &["sleep", "300"])?;
    ensure!(late.code == Some(125) && late.stderr.contains("its time is up"), "{late:?}");
    let other = bench.exec(&["--node", "two"], &["true"])?;
    ensure!(other.code == Some(125) && other.stderr.contains("runs on node one"), "{other:?}");

    // Standard input and a lot of output.
    let text = "a line of text\n".repeat(200_000);
    let done = bench.launch(&["-i"], &["sh", "-c", "cat; echo done >&2"])?.stdin(&text).run(SOON)?;
    ensure!(
        done.code == Some(0) && done.stdout == text && done.stderr == "done\n",
        "{} bytes",
        done.stdout.len()
    );

    let audit = bench.hub.audit()?;
    let begin = audit.iter().find(|row| row.starts_with("exec.begin 7/42") && row.contains("exit 7"));
    let begin = begin.map(String::as_str).unwrap_or_default();
    let words = ["by operator (socket)", "grant \"repair\"", "on node one", "argv sha256 ", "\"sh\" \"-c\""];
    ensure!(words.iter().all(|word| begin.contains(word)), "{begin}\n{audit:?}");
    ensure!(
        audit
            .iter()
            .any(|row| row.starts_with("exec.end 7/42")
                && row.contains("exit code 7; bytes in 0, out 4, err 4")),
        "{audit:?}"
    );
    let logs = [bench.hub.log(), bench.node.agent.log()];
    ensure!(logs.iter().all(|log| !log.contains(CANARY)), "a log shows the secret");
    Ok(())
}

/// An `exec` that sleeps, and is known by the number of seconds.
fn sleeper(bench: &Bench, seconds: &str) -> Result<Process> {
    let script = format!("trap 'exit 130' INT; sleep {seconds} & setsid sleep {seconds} & wait");
    let mut process = bench.launch(&[], &["sh", "-c", &script])?.start()?;
    let found = eventually_ok(SOON, &format!("a process sleep {seconds}"), || {
        // The client, the shell, and two that sleep.
        let found = processes_naming(&format!("sleep {seconds}"));
        ensure!(found.len() >= 4, "{found:?} run");
        Ok(())
    });
    found.with_context(|| format!("runs {}: {}", process.is_running(), process.log()))?;
    Ok(process)
}

#[test]
fn a_command_ends_with_its_client_its_workload_and_its_hub_and_leaves_nothing() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let mut bench = Bench::start()?;
    let mut taken_back = sleeper(&bench, "98100")?;
    set_policy(&bench.hub, &bench.node, &GRANT.replace("7/42", "7/43"))?;
    wait_gone("sleep 98100", SOON)?;
    let said = taken_back.wait_for_line("does not allow it any more", SOON)?;
    ensure!(said.contains("the command is ended") && taken_back.wait(SOON)?.code() == Some(125), "{said}");
    set_policy(&bench.hub, &bench.node, GRANT)?;

    sleeper(&bench, "98101")?.kill()?;
    wait_gone("sleep 98101", SOON)?;
    // Ctrl-C goes to the command.
    let mut client = sleeper(&bench, "98102")?;
    client.signal(nix::sys::signal::Signal::SIGINT)?;
    let status = client.wait(SOON)?;
    ensure!(status.code() == Some(130), "{status:?}");
    wait_gone("sleep 98102", SOON)?;

    let _client = sleeper(&bench, "98103")?;
    bench.hub.kill()?;
    wait_gone("sleep 98103", Duration::from_secs(40))?;
    bench.hub.start_again()?;
    bench.wait_open()?;

    let _client = sleeper(&bench, "98104")?;
    bench.node.agent.process()?.kill()?;
    wait_gone("sleep 98104", SOON)?;
    bench.node.agent.run()?;
    bench.wait_open()?;

    let _client = sleeper(&bench, "98105")?;
    bench.hub.json(&["workload", "rm", "7/42"])?;
    wait_gone("sleep 98105", SOON)?;
    let gone = bench.exec(&[], &["true"])?;
    ensure!(gone.code == Some(125) && gone.stderr.contains("no workload"), "{gone:?}");
    Ok(())
}

#[test]
fn a_command_gets_a_terminal_and_the_operators_own_is_as_it_was() -> Result<()> {
    if !require(&[Need::Root, Need::Program("script")]) {
        return Ok(());
    }
    let bench = Bench::start()?;
    let done = bench.exec(&["-t"], &["sh", "-c", "tty; stty size; echo \"$TERM\""])?;
    ensure!(done.code == Some(0) && done.stdout.starts_with("/dev/pts/"), "{done:?}");
    let mixed = bench.launch(&["-it"], &["true"])?.stdin("").run(CALL)?;
    ensure!(mixed.code == Some(125) && mixed.stderr.contains("no terminal"), "{mixed:?}");

    // `script` gives the client a terminal of its own.
    let folder = bench.node.folder("terminal")?;
    let lines = [
        "#!/bin/sh".to_owned(),
        "stty rows 33 cols 101".to_owned(),
        format!("stty -a > {}/before", folder.display()),
        format!(
            "{} exec 7/42 --state {} -it -- sh -c 'tty; stty size; read line; echo \"got $line\"; exit 9'",
            binary("blueprint-hub")?.display(),
            bench.hub.state().display()
        ),
        "echo \"code $?\"".to_owned(),
        format!("stty -a > {}/after", folder.display()),
    ];
    let program = folder.join("client");
    std::fs::write(&program, lines.join("\n"))?;
    let client = Launch::new("script").args(["-qec", &format!("sh {}", program.display()), "/dev/null"]);
    let done = client.stdin("hello\n").run(SOON)?;
    for words in ["/dev/pts/", "33 101", "got hello", "code 9"] {
        ensure!(done.stdout.contains(words), "{words}: {done:?}");
    }
    let read = |name: &str| std::fs::read_to_string(folder.join(name));
    ensure!(read("before")? == read("after")?, "the terminal is not as it was");
    Ok(())
}
