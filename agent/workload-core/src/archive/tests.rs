//! The rules of archives, by table and by property.

use std::path::{Component, Path};

use proptest::prelude::*;

use super::*;

const LIMITS: ArchiveLimits = ArchiveLimits { max_entries: 100, max_bytes: 1 << 30 };

fn intake() -> Intake {
    Intake::new(LIMITS, 1 << 20)
}

fn admit(name: &str, kind: EntryKind) -> Result<Admitted, ArchiveRefusal> {
    intake().admit(name.as_bytes(), kind)
}

#[test]
fn ordinary_names_are_taken_and_written_one_way() {
    for (name, path) in [
        ("program", "program"),
        ("./bin/program", "bin/program"),
        ("a//b/./c", "a/b/c"),
        ("...", "..."),
        ("a/..b/c..", "a/..b/c.."),
        ("größe/ß", "größe/ß"),
    ] {
        assert_eq!(admit(name, EntryKind::File), Ok(Admitted::File(path.to_owned())), "{name}");
    }
    assert_eq!(admit("bin/", EntryKind::Folder), Ok(Admitted::Folder("bin".to_owned())));
    assert_eq!(admit("./", EntryKind::Folder), Ok(Admitted::Root));
}

#[test]
fn names_that_lead_out_or_mean_nothing_are_refused() {
    let long = "x/".repeat(600);
    let part = "y".repeat(256);
    for (name, label) in [
        ("/etc/passwd", "absolute_path"),
        ("//etc/passwd", "absolute_path"),
        ("..", "parent_path"),
        ("../x", "parent_path"),
        ("a/../../x", "parent_path"),
        ("a/..", "parent_path"),
        ("", "name"),
        (".", "name"),
        ("a\\..\\b", "name"),
        ("C:\\x", "name"),
        ("a\0b", "name"),
        ("a\nb", "name"),
        ("a\u{1b}[2J", "name"),
        (&long, "path_too_long"),
        (&part, "path_too_long"),
    ] {
        let refusal = admit(name, EntryKind::File).expect_err(name);
        assert_eq!(refusal.label(), label, "{name}: {refusal}");
    }
    assert_eq!(intake().admit(b"a\xff", EntryKind::File).map_err(|r| r.label()), Err("name"));
}

#[test]
fn only_files_and_folders_are_unpacked() {
    for (kind, label) in [
        (EntryKind::HardLink, "link"),
        (EntryKind::SymbolicLink, "link"),
        (EntryKind::Device, "special_file"),
        (EntryKind::Fifo, "special_file"),
        (EntryKind::Other(83), "special_file"),
    ] {
        assert_eq!(admit("x", kind).map_err(|refusal| refusal.label()), Err(label));
    }
}

#[test]
fn a_path_is_taken_once_and_never_below_a_file() {
    let mut intake = intake();
    let mut label = |name: &str, kind| intake.admit(name.as_bytes(), kind).map_err(|refusal| refusal.label());
    assert!(label("a/b", EntryKind::File).is_ok());
    assert_eq!(label("a/./b", EntryKind::File), Err("duplicate"));
    assert_eq!(label("a/b", EntryKind::Folder), Err("duplicate"));
    assert_eq!(label("a", EntryKind::File), Err("duplicate"));
    assert!(label("a", EntryKind::Folder).is_ok(), "a folder may be named after its content");
    assert_eq!(label("a/", EntryKind::Folder), Err("duplicate"));
    assert_eq!(label("a/b/c", EntryKind::File), Err("below_file"));
}

#[test]
fn entries_and_their_folders_are_counted() {
    let mut intake = Intake::new(ArchiveLimits { max_entries: 3, ..LIMITS }, 1);
    assert!(intake.admit(b"a/b/c", EntryKind::File).is_ok());
    assert_eq!(intake.admit(b"d", EntryKind::File), Err(ArchiveRefusal::Entries(3)));
}

#[test]
fn names_do_not_fill_the_memory() {
    let mut intake = Intake::new(ArchiveLimits { max_entries: u32::MAX, ..LIMITS }, 1);
    let refused = (0..100_000u32).find_map(|number| {
        let name = format!("{number}/{}x", "a/".repeat(400));
        intake.admit(name.as_bytes(), EntryKind::File).err()
    });
    assert_eq!(refused, Some(ArchiveRefusal::Names));
}

#[test]
fn bytes_are_bounded_by_themselves_and_by_the_size_of_the_archive() {
    let mut large = Intake::new(LIMITS, u64::MAX);
    assert_eq!(large.unpack(LIMITS.max_bytes), Ok(()));
    assert_eq!(large.unpack(1), Err(ArchiveRefusal::Bytes(LIMITS.max_bytes)));
    let mut tight = Intake::new(LIMITS, 100);
    assert_eq!(tight.unpack(FREE_BYTES), Ok(()));
    assert_eq!(tight.unpack(1), Err(ArchiveRefusal::Ratio));
    let mut loose = Intake::new(LIMITS, 1 << 20);
    assert_eq!(loose.unpack(MAX_RATIO << 20), Ok(()));
    assert_eq!(loose.unpack(1), Err(ArchiveRefusal::Ratio));
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just(String::new()),
        Just("a".to_owned()),
        Just("b".to_owned()),
        "[a-c.\\\\/\u{0}]{0,4}",
    ];
    prop_oneof![
        prop::collection::vec(part, 0..6).prop_map(|parts| parts.join("/").into_bytes()),
        prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn kinds() -> impl Strategy<Value = EntryKind> {
    prop_oneof![
        4 => Just(EntryKind::File),
        4 => Just(EntryKind::Folder),
        1 => Just(EntryKind::SymbolicLink),
        1 => Just(EntryKind::HardLink),
        1 => Just(EntryKind::Device),
        1 => any::<u32>().prop_map(EntryKind::Other),
    ]
}

proptest! {
    #[test]
    fn what_is_admitted_stays_inside_and_comes_once(
        entries in prop::collection::vec((names(), kinds()), 0..40),
    ) {
        let mut intake = Intake::new(ArchiveLimits { max_entries: 20, max_bytes: 1 }, 1);
        let mut files = Vec::<String>::new();
        let mut folders = Vec::<String>::new();
        for (name, kind) in entries {
            let Ok(admitted) = intake.admit(&name, kind) else { continue };
            prop_assert!(matches!(kind, EntryKind::File | EntryKind::Folder));
            let path = match &admitted {
                Admitted::Root => continue,
                Admitted::Folder(path) | Admitted::File(path) => path.clone(),
            };
            prop_assert!(Path::new(&path).components().all(|part| matches!(part, Component::Normal(_))));
            prop_assert_eq!(Path::new(&path).components().count(), path.split('/').count());
            prop_assert!(!files.contains(&path) && !folders.contains(&path));
            prop_assert!(files.iter().all(|file| !Path::new(&path).starts_with(file)));
            if matches!(admitted, Admitted::File(_)) {
                prop_assert!(files.iter().chain(&folders).all(|other| !Path::new(other).starts_with(&path)));
                files.push(path);
            } else {
                folders.push(path);
            }
            prop_assert!(files.len() + folders.len() <= 20);
        }
    }
}
