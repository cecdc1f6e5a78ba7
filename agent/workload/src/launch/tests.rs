use std::process::{Command, Stdio};

use super::*;

/// Nothing runs beside a process that may have made the files it sees.
#[test]
fn a_process_with_a_user_namespace_of_its_own_is_not_joined() {
    let own = i32::try_from(std::process::id()).unwrap();
    assert!(has_own_users(own));
    assert!(!has_own_users(i32::MAX));
    let mut apart = Command::new("unshare")
        .args(["--user", "--mount", "sh", "-c", "echo; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It has said something: it is where it wanted to be.
    let said = apart.stdout.as_mut().unwrap().read(&mut [0]).unwrap();
    assert_eq!(said, 1);
    let pid = i32::try_from(apart.id()).unwrap();
    let beside = Beside { pid, started: tree::look(pid).unwrap().started, terminal: false };
    let joined = join(&beside);
    apart.kill().unwrap();
    apart.wait().unwrap();
    assert!(matches!(joined, Err(LaunchError::Apart)), "{joined:?}");
}
