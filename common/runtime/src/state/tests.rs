//! The state folder on a real file system.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// An empty folder that is 0700.
fn private_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    folder
}

/// Permission bits of what is at `path`.
fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// Names of all files in the folder, ordered.
fn names(dir: &StateDir) -> Vec<String> {
    let entries = fs::read_dir(dir.folder()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_new_folder_and_its_files_are_private() {
    let base = private_folder();
    let dir = StateDir::open(base.path().join("a/b")).unwrap();
    dir.write("key", b"secret", Mode::Secret).unwrap();
    dir.write("note", b"plain", Mode::Plain).unwrap();
    assert_eq!(mode_of(dir.folder()), 0o700);
    for name in ["key", "note", "lock"] {
        assert_eq!(mode_of(&dir.path(name)), 0o600, "{name}");
    }
}

#[test]
fn a_folder_open_to_others_is_refused_with_the_cure() {
    let base = private_folder();
    for mode in [0o750, 0o701, 0o770] {
        fs::set_permissions(base.path(), Permissions::from_mode(mode)).unwrap();
        for error in
            [StateDir::open(base.path()).unwrap_err(), StateDir::open_shared(base.path()).unwrap_err()]
        {
            assert!(matches!(error, StateError::TooOpen { mode: found, .. } if found == mode), "{error}");
            assert!(error.to_string().ends_with(&format!("chmod 700 {}", base.path().display())), "{error}");
        }
    }
}

#[test]
fn a_second_owner_is_refused_and_told_the_first() {
    let base = private_folder();
    let first = StateDir::open(base.path()).unwrap();
    let error = StateDir::open(base.path()).unwrap_err();
    let expected =
        format!("{} is in use by another process (pid {})", base.path().display(), std::process::id());
    assert_eq!(error.to_string(), expected);

    let clone = first.clone();
    drop(first);
    assert!(StateDir::open(base.path()).is_err(), "a clone holds the lock");
    drop(clone);
    StateDir::open(base.path()).unwrap();
}

#[test]
fn a_command_opens_it_beside_its_owner_but_does_not_make_it() {
    let base = private_folder();
    let owner = StateDir::open(base.path()).unwrap();
    owner.write("note", b"x", Mode::Plain).unwrap();
    let shared = StateDir::open_shared(base.path()).unwrap();
    assert_eq!(shared.read("note").unwrap().unwrap(), b"x");
    let missing = StateDir::open_shared(base.path().join("none"));
    assert!(matches!(missing, Err(StateError::Missing { .. })));
    let file = StateDir::open_shared(base.path().join("note"));
    assert!(matches!(file, Err(StateError::NotAFolder { .. })));
}

#[test]
fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
    let base = private_folder();
    let dir = StateDir::open(base.path()).unwrap();
    assert_eq!(dir.read("note").unwrap(), None);
    dir.write("note", b"a longer first content", Mode::Plain).unwrap();
    let reader = File::open(dir.path("note")).unwrap();
    dir.write("note", b"second", Mode::Plain).unwrap();
    assert_eq!(dir.read("note").unwrap().unwrap(), b"second");
    // Who had it open still sees the old content, whole.
    assert_eq!(io::read_to_string(reader).unwrap(), "a longer first content");
    assert_eq!(names(&dir), ["lock", "note"]);
    assert!(dir.remove("note").unwrap());
    assert!(!dir.remove("note").unwrap());
}

#[test]
fn a_failed_write_keeps_the_old_file_and_leaves_nothing() {
    let base = private_folder();
    let dir = StateDir::open(base.path()).unwrap();
    // A rename onto a folder that is not empty fails after the new content was written beside it.
    fs::create_dir_all(dir.path("note/inner")).unwrap();
    let error = dir.write("note", b"new", Mode::Plain).unwrap_err();
    assert!(matches!(error, StateError::Io { action: "write", .. }), "{error}");
    assert_eq!(names(&dir), ["lock", "note"]);
}

#[test]
fn what_a_crash_left_is_removed_at_open() {
    let base = private_folder();
    let dir = StateDir::open(base.path()).unwrap();
    fs::write(dir.path(".note.77.0.unfinished"), b"half").unwrap();
    fs::write(dir.path(".hidden"), b"not ours").unwrap();
    drop(dir);
    let dir = StateDir::open(base.path()).unwrap();
    assert_eq!(names(&dir), [".hidden", "lock"]);
}

#[test]
fn only_plain_names_are_files_of_it() {
    let base = private_folder();
    let dir = StateDir::open(base.path()).unwrap();
    for name in ["", ".", "..", "a/b", "/etc/passwd", "../x", "a/", "./a"] {
        assert!(matches!(dir.write(name, b"", Mode::Plain), Err(StateError::BadName { .. })), "{name:?}");
        assert!(matches!(dir.read(name), Err(StateError::BadName { .. })), "{name:?}");
        assert!(matches!(dir.remove(name), Err(StateError::BadName { .. })), "{name:?}");
    }
}

#[test]
fn the_default_folder_depends_on_who_runs_it() {
    let default = |is_root, state: Option<&str>, home: Option<&str>| {
        default_path_for("blueprint-hub", is_root, state.map(Into::into), home.map(Into::into))
            .map(|path| path.display().to_string())
    };
    assert_eq!(default(true, Some("/x"), Some("/root")).unwrap(), "/var/lib/blueprint-hub");
    assert_eq!(default(false, Some("/x"), Some("/home/a")).unwrap(), "/x/blueprint-hub");
    assert_eq!(
        default(false, Some("relative"), Some("/home/a")).unwrap(),
        "/home/a/.local/state/blueprint-hub"
    );
    assert_eq!(default(false, None, Some("/home/a")).unwrap(), "/home/a/.local/state/blueprint-hub");
    assert!(matches!(default(false, None, Some("")), Err(StateError::NoHome)));
}
