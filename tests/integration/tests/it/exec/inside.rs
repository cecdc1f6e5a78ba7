//! Commands in containers of a real engine: the same gates, the container's rights, and without a trace.

use std::time::Duration;

use anyhow::{Result, ensure};
use blueprint_tests_support::{
    Finished, Host, Lab, Launch, Need, Process, binary, eventually_ok, processes_naming, require,
};

use super::{CANARY, GRANT, set_policy, wait_gone};
use crate::containers::docker::Docker;
use crate::fixture::{Hub, SOON, text};
use crate::workloads::rig::Node;

/// What the container does, and what it can do.
const SCRIPT: &str = "echo here > /tmp/mark; while true; do sleep 1; done";
const PROGRAMS: [&str; 10] = ["cat", "grep", "head", "id", "setsid", "sleep", "stty", "true", "tty", "wc"];

/// Hub and node that allow it, and a container that waits.
struct Bench<'h> {
    hub: Hub<'h>,
    node: Node<'h>,
    docker: Docker,
}

impl<'h> Bench<'h> {
    fn start([at, spoke]: [&'h Host; 2]) -> Result<Option<Self>> {
        let Some(docker) = Docker::start_at(spoke)? else { return Ok(None) };
        let hub = Hub::start_on(at, &at.address().to_string(), &["exec.enabled=true"])?;
        let settings = ["exec.enabled=true"];
        let node = Node::start_all(&hub, Some(spoke), "one", &docker.socket(), &settings)?;
        set_policy(&hub, &node, GRANT)?;
        let bench = Self { hub, node, docker };
        bench.run_workload()?;
        eventually_ok(SOON, "the node", || {
            let done = bench.exec(&[], &["true"])?;
            ensure!(done.code == Some(0), "{done:?}");
            Ok(())
        })?;
        Ok(Some(bench))
    }

    fn run_workload(&self) -> Result<()> {
        let (image, digest) = self.docker.push_shell(SCRIPT, &PROGRAMS)?;
        let (digest, variable) = (digest.to_string(), format!("CANARY={CANARY}"));
        let run = ["workload", "run", "7/42", "--image", &image, "--digest", &digest, "--test-mode"];
        let options = ["--env", &variable, "--memory-bytes", "134217728", "--wait", "20s"];
        self.hub.json(&[&run[..], &options].concat()).map(drop)
    }

    fn launch(&self, options: &[&str], command: &[&str]) -> Result<Launch> {
        Ok(self.hub.command(&["exec", "7/42"])?.args(options).arg("--").args(command))
    }

    fn exec(&self, options: &[&str], command: &[&str]) -> Result<Finished> {
        self.launch(options, command)?.run(SOON)
    }

    /// Containers of the engine, by their ids.
    fn containers(&self) -> Result<Vec<String>> {
        let listed = self.docker.raw("GET", "/containers/json?all=1")?;
        listed.as_array().into_iter().flatten().map(|one| text(one, "/Id").map(str::to_owned)).collect()
    }
}

fn is_possible() -> bool {
    require(&[Need::Root, Need::Program("script")])
}

#[test]
fn a_command_in_a_container_has_its_rights_and_gives_output_input_and_exit_code() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let Some(bench) = Bench::start([&hosts[0], &hosts[1]])? else { return Ok(()) };
    let done = bench.exec(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"])?;
    ensure!(
        (done.code, done.stdout.as_str(), done.stderr.as_str()) == (Some(7), "out\n", "err\n"),
        "{done:?}"
    );

    let facts = "id -u; grep -E '^(NoNewPrivs|CapEff|CapPrm)' /proc/self/status; cat /proc/self/cgroup; \
                 echo \"folder $DATA_DIR\"; echo \"secret [$CANARY]\"; cat /tmp/mark; tty; \
                 echo x > /etc/plain || echo read-only; cat; echo end";
    let done = bench.exec(&[], &["sh", "-c", facts])?;
    ensure!(done.code == Some(0), "{done:?}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    ensure!(lines.first().is_some_and(|user| *user != "0"), "it is root: {done:?}");
    ensure!(lines.contains(&"NoNewPrivs:\t1") && lines.contains(&"CapEff:\t0000000000000000"), "{done:?}");
    let [id] = bench.containers()?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    ensure!(done.stdout.contains(&id) && lines.contains(&"folder /mnt/data"), "{done:?}");
    let kept = bench.hub.command(&["logs", "7/42"])?.run(SOON)?;
    ensure!(lines.contains(&"secret []") && lines.contains(&"here"), "{done:?}; {kept:?}");
    ensure!(lines.contains(&"not a tty") && lines.contains(&"read-only"), "{done:?}");
    ensure!(lines.last() == Some(&"end"), "its input is open: {done:?}");

    // Conventions of exit codes; and its own failures are told apart.
    // Which of the two stands for a program that is not there is the engine's to say: Docker 20.10 takes 126.
    let absent = bench.exec(&[], &["no-such-program"])?;
    ensure!(matches!(absent.code, Some(126 | 127)), "{absent:?}");
    ensure!(format!("{}{}", absent.stdout, absent.stderr).contains("not found"), "{absent:?}");
    ensure!(bench.exec(&[], &["/etc/plain"])?.code == Some(126));
    ensure!(bench.exec(&[], &["sh", "-c", "kill -TERM $$"])?.code == Some(143));
    let late = bench.exec(&["--timeout", "1s"], &["sleep", "98300"])?;
    ensure!(late.code == Some(125) && late.stderr.contains("its time is up"), "{late:?}");
    ensure!(processes_naming("sleep 98300").is_empty(), "it is left");

    // A lot both ways, and bytes that are no text.
    let line = "a line of text\n".repeat(200_000);
    let done = bench.launch(&["-i"], &["sh", "-c", "cat; echo done >&2"])?.stdin(&line).run(SOON)?;
    ensure!(
        done.code == Some(0) && done.stdout == line && done.stderr == "done\n",
        "{} bytes, {:?} {}",
        done.stdout.len(),
        done.code,
        done.stderr
    );
    let counted = bench.exec(&[], &["sh", "-c", "head -c 3000000 /dev/zero | wc -c"])?;
    ensure!(counted.stdout.trim() == "3000000", "{counted:?}");

    let audit = bench.hub.audit()?;
    let begin = audit.iter().find(|row| row.starts_with("exec.begin 7/42") && row.contains("exit 7"));
    let begin = begin.map(String::as_str).unwrap_or_default();
    let words = ["by operator (socket)", "grant \"repair\"", "on node one", "argv sha256 ", "\"sh\" \"-c\""];
    ensure!(words.iter().all(|word| begin.contains(word)), "{begin}\n{audit:?}");
    let is_end = |row: &String| {
        row.starts_with("exec.end 7/42") && row.contains("exit code 7; bytes in 0, out 4, err 4")
    };
    ensure!(audit.iter().any(is_end), "{audit:?}");
    let logs = [bench.hub.log(), bench.node.agent.log()];
    ensure!(logs.iter().all(|log| !log.contains(CANARY)), "a log shows the secret");

    // The gates are those of native workloads.
    set_policy(&bench.hub, &bench.node, &GRANT.replace("7/42", "7/43"))?;
    let denied = bench.exec(&[], &["true"])?;
    ensure!(denied.code == Some(125) && denied.stderr.contains("no [[session]]"), "{denied:?}");
    Ok(())
}

/// An `exec` whose processes sleep, one of them in a session of its own without the environment.
fn sleeper(bench: &Bench<'_>, seconds: &str) -> Result<Process> {
    let script = format!("trap 'exit 130' INT; sleep {seconds} & setsid sleep {seconds} & wait");
    let process = bench.launch(&[], &["sh", "-c", &script])?.start()?;
    eventually_ok(SOON, &format!("processes sleep {seconds}"), || {
        // The client, the shell, and two that sleep.
        let found = processes_naming(&format!("sleep {seconds}"));
        ensure!(found.len() >= 4, "{found:?} run");
        Ok(())
    })?;
    Ok(process)
}

#[test]
fn a_command_in_a_container_ends_with_its_client_its_grant_and_its_workload_and_leaves_nothing() -> Result<()>
{
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let Some(mut bench) = Bench::start([&hosts[0], &hosts[1]])? else { return Ok(()) };
    let before = bench.containers()?;

    let mut taken_back = sleeper(&bench, "98301")?;
    set_policy(&bench.hub, &bench.node, &GRANT.replace("7/42", "7/43"))?;
    wait_gone("sleep 98301", SOON)?;
    let said = taken_back.wait_for_line("does not allow it any more", SOON)?;
    ensure!(said.contains("the command is ended") && taken_back.wait(SOON)?.code() == Some(125), "{said}");
    set_policy(&bench.hub, &bench.node, GRANT)?;

    sleeper(&bench, "98302")?.kill()?;
    wait_gone("sleep 98302", SOON)?;
    // Ctrl-C goes to the command.
    let mut client = sleeper(&bench, "98303")?;
    client.signal(nix::sys::signal::Signal::SIGINT)?;
    let status = client.wait(SOON)?;
    ensure!(status.code() == Some(130), "{status:?}: {}", client.log());
    wait_gone("sleep 98303", SOON)?;
    // One that ends leaves nothing of what it started, and the workload runs on.
    let done = bench.exec(&[], &["sh", "-c", "setsid sleep 98304 & sleep 98304 & exit 3"])?;
    ensure!(done.code == Some(3), "{done:?}");
    wait_gone("sleep 98304", SOON)?;
    ensure!(bench.containers()? == before, "the workload was ended, too");

    let _client = sleeper(&bench, "98305")?;
    bench.hub.kill()?;
    wait_gone("sleep 98305", Duration::from_secs(40))?;
    bench.hub.start_again()?;
    eventually_ok(SOON, "the node", || {
        let done = bench.exec(&[], &["true"])?;
        ensure!(done.code == Some(0), "{done:?}");
        Ok(())
    })?;

    let mut client = sleeper(&bench, "98306")?;
    bench.hub.json(&["workload", "rm", "7/42"])?;
    wait_gone("sleep 98306", SOON)?;
    // Its engine may kill it before its agent says that the workload ended.
    let code = client.wait(SOON)?.code();
    ensure!(matches!(code, Some(125 | 137)), "{code:?} {}", client.log());
    bench.run_workload()?;
    eventually_ok(SOON, "a command in the next container", || {
        let done = bench.exec(&[], &["true"])?;
        ensure!(done.code == Some(0), "{done:?}");
        Ok(())
    })?;
    let _client = sleeper(&bench, "98307")?;
    bench.node.agent.process()?.kill()?;
    wait_gone("sleep 98307", SOON)
}

#[test]
fn a_command_in_a_container_gets_a_terminal_of_the_operators_size() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let Some(bench) = Bench::start([&hosts[0], &hosts[1]])? else { return Ok(()) };
    let done = bench.exec(&["-t"], &["sh", "-c", "tty; echo \"$TERM\"; exit 4"])?;
    ensure!(done.code == Some(4) && done.stdout.starts_with("/dev/pts/"), "{done:?}");

    // `script` gives the client a terminal of its own. An engine sets the size once the command runs.
    let folder = bench.node.folder("terminal")?;
    let inner = "until [ \"$(stty size)\" = \"33 101\" ]; do sleep 0.05; done; tty; stty size; read line; echo \"got $line\"; exit 9";
    let lines = [
        "#!/bin/sh".to_owned(),
        "stty rows 33 cols 101".to_owned(),
        format!(
            "{} exec 7/42 --state {} -it -- sh -c '{inner}'",
            binary("blueprint-hub")?.display(),
            bench.hub.state().display()
        ),
        "echo \"code $?\"".to_owned(),
    ];
    let program = folder.join("client");
    std::fs::write(&program, lines.join("\n"))?;
    let client = Launch::new("script").args(["-qec", &format!("sh {}", program.display()), "/dev/null"]);
    let done = client.stdin("hello\n").run(SOON)?;
    for words in ["/dev/pts/", "33 101", "got hello", "code 9"] {
        ensure!(done.stdout.contains(words), "{words}: {done:?}");
    }
    Ok(())
}
