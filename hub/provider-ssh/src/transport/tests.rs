//! Programs that end, that do not, and that say too much.

use super::*;

async fn sh(script: &str, within: Duration) -> Result<Ending, HostError> {
    let mut command = Command::new("sh");
    command.arg("-s");
    run(command, "sh", &Secret::new(script.to_owned()), within).await
}

#[tokio::test]
async fn time_and_output_are_bounded() {
    let ending = sh("echo out; echo err >&2; exit 3", Duration::from_secs(20)).await.unwrap();
    assert_eq!((ending.code, ending.out.as_str(), ending.err.as_str()), (Some(3), "out\n", "err\n"));
    let late = sh("echo bp begin; exec sleep 60", Duration::from_millis(500)).await.unwrap();
    assert_eq!((late.code, late.out.as_str()), (None, "bp begin\n"));
    let much = sh("exec head -c 100000000 /dev/zero", Duration::from_secs(20)).await.unwrap();
    assert_eq!(u64::try_from(much.out.len()).unwrap(), MAX_OUTPUT);
    let none = run(Command::new("/nonexistent/ssh"), "ssh", &Secret::new(String::new()), PROBE_WITHIN).await;
    assert!(none.unwrap_err().to_string().contains("openssh-client"));
}

#[tokio::test]
async fn a_script_that_is_cut_off_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("done");
    let whole = format!("{PRELUDE}\nmain() {{\n: >'{}'\nsay done\n}}\nmain </dev/null\n", file.display());
    for length in (0..whole.len() - 20).step_by(37).chain([whole.len() - 18]) {
        let part = whole.get(..length).unwrap_or_default();
        sh(part, Duration::from_secs(20)).await.unwrap();
        assert!(!file.exists(), "{length}");
    }
    assert!(sh(&whole, Duration::from_secs(20)).await.unwrap().out.contains("bp done"));
    assert!(file.exists());
}

#[tokio::test]
async fn one_script_runs_at_a_time_and_its_lock_is_gone_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (lock, log) = (folder.path().join("lock"), folder.path().join("log"));
    let script = format!(
        "{PRELUDE}\nlock='{0}'\nmain() {{\nalone\n[ \"$(stat -c %a \"$lock\")\" = 600 ] || fail other mode\n\
         echo begin >>'{1}'\nsleep 0.1\necho end >>'{1}'\nsay done\n}}\nmain </dev/null\n",
        lock.display(),
        log.display()
    );
    // Whoever may read a folder that is there anyway can hold it for ever: that keeps nobody out.
    let mut holder =
        Command::new("flock").args(["--no-fork", "/etc", "sleep", "60"]).kill_on_drop(true).spawn().unwrap();
    let all = futures_util::future::join_all((0..5).map(|_| sh(&script, Duration::from_secs(20)))).await;
    assert!(holder.try_wait().unwrap().is_none());
    holder.kill().await.unwrap();
    for ending in all {
        let ending = ending.unwrap();
        assert_eq!((ending.code, ending.out.as_str()), (Some(0), "bp done\n"), "{}", ending.err);
    }
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "begin\nend\n".repeat(5));
    assert!(!lock.exists());
    // It is no way to another file.
    let other = folder.path().join("other");
    std::os::unix::fs::symlink(&other, &lock).unwrap();
    let ending = sh(&script, Duration::from_secs(20)).await.unwrap();
    assert!(ending.code == Some(9) && ending.out.contains("cannot be opened"), "{}", ending.out);
    assert!(!other.exists());
}

#[tokio::test]
async fn what_an_agent_leaves_in_place_of_its_identity_holds_no_removal_up() {
    let folder = tempfile::tempdir().unwrap();
    let (path, remove) = (folder.path().display(), include_str!("../scripts/remove.sh"));
    // The user of the agent is not here; who reads instead is who runs this.
    let own = format!(
        "{PRELUDE}\nstate='{path}'\nPATH='{path}':$PATH\n{}\n",
        remove.replace("main </dev/null", "")
    );
    let reader = folder.path().join("runuser");
    std::fs::write(&reader, "#!/bin/sh\nshift 3\nexec \"$@\"\n").unwrap();
    std::fs::set_permissions(&reader, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = folder.path().join("identity.json");
    let name = file.display();
    for (make, id) in [
        (format!("echo '{{\"agent_id\": \"0a-1b\"}}' >'{name}'"), "0a-1b"),
        (format!("rm '{name}'; mkfifo '{name}'"), ""),
        (format!("rm '{name}'; ln -s /dev/zero '{name}'"), ""),
        (format!("rm '{name}'; truncate -s 1T '{name}'"), ""),
    ] {
        let script = format!("{own}{make}\nsay id \"$(agent_id)\"\n");
        let ending = sh(&script, Duration::from_secs(10)).await.unwrap();
        assert_eq!((ending.code, ending.out), (Some(0), format!("bp id {id}\n")), "{make}: {}", ending.err);
    }
}
