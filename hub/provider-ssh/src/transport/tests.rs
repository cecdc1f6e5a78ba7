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
