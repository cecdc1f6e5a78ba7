//! Programs of the host.

use std::ffi::OsStr;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// A program that takes longer hangs.
const WITHIN: Duration = Duration::from_secs(60);

/// Runs a program to its end; what it says where it fails becomes the error.
pub(crate) async fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> io::Result<()> {
    run_with(program, args, "").await
}

/// The same, with `input` at its standard input.
pub(crate) async fn run_with<S: AsRef<OsStr>>(program: &str, args: &[S], input: &str) -> io::Result<()> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("cannot run {program}: {error}"));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(told)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing has closed it.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = timeout(WITHIN, child.wait_with_output())
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{program} did not end")))??;
    if output.status.success() {
        return Ok(());
    }
    let words: String = String::from_utf8_lossy(&output.stderr)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect();
    Err(io::Error::other(format!("{program} failed ({}): {}", output.status, words.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_says_what_the_program_said() {
        run::<&str>("true", &[]).await.unwrap();
        let error = run("sh", &["-c", "echo no such link >&2; exit 3"]).await.unwrap_err();
        assert!(error.to_string().contains("no such link"), "{error}");
        assert!(run("no-such-program-here", &["x"]).await.unwrap_err().to_string().contains("cannot run"));
        run_with("grep", &["-q", "yes"], "yes\n").await.unwrap();
    }
}
