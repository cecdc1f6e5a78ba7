//! Archives, as programs pack them and as nobody should.

use std::io::Write;
use std::path::Component;

use proptest::prelude::*;

use super::builders::{Tar, Zip, gzip, tar, zip};
use super::pack::{Form, Target, unpack};
use super::*;

const GNU_GZIP: &[u8] = include_bytes!("data/gnu.tar.gz");
const PAX_XZ: &[u8] = include_bytes!("data/pax.tar.xz");
const PAX_ZSTD: &[u8] = include_bytes!("data/pax.tar.zst");
/// 40 MiB of zeros.
const XZ_ZEROS: &[u8] = include_bytes!("data/zeros.tar.xz");
const INFO_ZIP: &[u8] = include_bytes!("data/info.zip");

/// An ELF file of this machine.
fn elf() -> Vec<u8> {
    std::fs::read("/bin/true").unwrap()
}

#[tokio::test]
async fn what_tar_and_zip_pack_is_unpacked_and_read_only() {
    for archive in [GNU_GZIP, PAX_XZ, PAX_ZSTD, INFO_ZIP] {
        let bed = Bed::new();
        let artefact = bed.take(archive, "").await.unwrap();
        assert_eq!(artefact.program, artefact.folder.join("bin/hello"));
        assert!(runs(&artefact.program));
        let data = artefact.folder.join("lib/data.txt");
        assert_eq!(std::fs::read(&data).unwrap(), b"data\n");
        let deep = format!("lib/{}/{}.txt", "long".repeat(30), "name".repeat(30));
        assert_eq!(std::fs::read(artefact.folder.join(deep)).unwrap(), b"deep\n");
        assert_eq!((mode(&artefact.program), mode(&data)), (0o555, 0o444));
        for folder in ["", "bin", "lib", ".."] {
            assert_eq!(mode(&artefact.folder.join(folder)), 0o555, "{folder}");
        }
        assert_eq!(bed.content(), [sha256(archive).to_string()]);
    }
}

#[tokio::test]
async fn the_name_of_the_file_does_not_matter() {
    let archive = tar(&[Tar::program("MZ", SCRIPT)]);
    for archive in [archive.clone(), gzip(&archive), zip(&[Zip::program("#!x", SCRIPT)])] {
        Bed::new().take(&archive, "").await.unwrap();
    }
}

#[tokio::test]
async fn the_program_is_the_one_that_is_named_or_the_only_one() {
    let archive = tar(&[
        Tar::program("bin/one", SCRIPT),
        Tar::program("bin/two", SCRIPT),
        Tar { mode: 0o644, ..Tar::program("etc/run.sh", SCRIPT) },
        Tar::program("lib/libx.so.1", &elf()),
        Tar::program("README", b"read me"),
    ]);
    let bed = Bed::new();
    let artefacts = bed.open();
    let server = Server::start(file(archive.clone()));
    let error = get(&artefacts, &server.url("/"), &archive, "").await.unwrap_err();
    assert!(error.to_string().ends_with("say in 'binary' which; it has bin/one, bin/two"), "{error}");
    assert_eq!(bed.content(), [""; 0]);
    for binary in ["bin/two", "etc/run.sh"] {
        let artefact = get(&artefacts, &server.url("/"), &archive, binary).await.unwrap();
        assert_eq!(artefact.program, artefact.folder.join(binary));
        assert!(runs(&artefact.program));
    }
    for (binary, why) in [
        ("bin/three", "no file \"bin/three\"; correct 'binary'; it has bin/one, bin/two"),
        ("README", "something that is not a program at \"README\""),
        ("bin", "no file \"bin\""),
        ("../about.json", "no file outside of it"),
        ("/bin/true", "no file outside of it"),
    ] {
        let error = get(&artefacts, &server.url("/"), &archive, binary).await.unwrap_err();
        assert!(error.to_string().contains(why) && !error.may_pass(), "{error}");
    }
    assert_eq!(server.asked().len(), 2, "it was kept since the second time");
    let error = Bed::new().refuse(&tar(&[Tar::program("README", b"read me")]), "").await;
    assert!(error.to_string().contains("has no program; pack one with its run bit set"), "{error}");
    // Where the archive has no modes, the content says what is a program.
    let foreign = zip(&[Zip { mode: None, ..Zip::program("x", SCRIPT) }, Zip::program("y", b"text")]);
    let artefact = Bed::new().take(&foreign, "").await.unwrap();
    assert_eq!(artefact.program, artefact.folder.join("x"));
}

#[tokio::test]
async fn what_cannot_run_here_is_refused_and_says_for_what_it_is() {
    let bed = Bed::new();
    let mut other = elf();
    let machine = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    other[18] = machine;
    let error = bed.refuse(&other, "").await;
    let built_for = if machine == 183 { "aarch64" } else { "x86_64" };
    assert!(
        error.to_string().contains(&format!("is a program for {built_for}, and this node is")),
        "{error}"
    );
    assert!(!error.may_pass());
    let error = bed.refuse(&tar(&[Tar::program("bin/x", &other)]), "").await;
    assert!(matches!(error, ArtefactError::OtherMachine { .. }), "{error}");
    let error = bed.refuse(b"MZ\x90\0 and so on", "").await;
    assert!(error.to_string().contains("a program for Windows"), "{error}");
    let error = bed.refuse(b"#!/no/such/interpreter -x\n", "").await;
    assert!(matches!(error, ArtefactError::Interpreter { .. }) && !error.may_pass(), "{error}");
    for nothing in [&b"hello"[..], b"", b"#!relative\n", b"<html>not found</html>", &elf()[..18]] {
        let error = bed.refuse(nothing, "").await;
        assert!(matches!(error, ArtefactError::NotAProgram { .. }) && !error.may_pass(), "{error}");
    }
    let artefact = bed.take(&elf(), "ignored").await.unwrap();
    assert!(runs(&artefact.program));
}

/// Bits beyond those of running do not survive.
#[tokio::test]
async fn set_user_id_is_dropped() {
    let archive = tar(&[Tar { mode: 0o6777, ..Tar::program("x", SCRIPT) }]);
    let bed = Bed::new();
    let artefact = bed.take(&archive, "").await.unwrap();
    assert_eq!(mode(&artefact.program), 0o555);
}

#[tokio::test]
async fn entries_that_lead_out_are_refused_and_nothing_is_left() {
    let bed = Bed::new();
    let long = "x/".repeat(49);
    for (name, label) in [
        ("../escaped", "parent_path"),
        ("a/../../escaped", "parent_path"),
        ("/tmp/escaped-from-an-archive", "absolute_path"),
        ("a\\..\\..\\escaped", "name"),
        ("bin/one", "duplicate"),
        ("./bin//one", "duplicate"),
        ("bin/one/below", "below_file"),
        ("bin", "duplicate"),
        (&long, "duplicate"),
    ] {
        let one = Tar::program("bin/one", SCRIPT);
        let tar = tar(&[one, Tar::special(&long, b'5'), Tar::program(name, SCRIPT)]);
        let folder = Zip { mode: Some(0o040_755), data: b"", ..Zip::program(&long, b"") };
        let zip = zip(&[Zip::program("bin/one", SCRIPT), folder, Zip::program(name, SCRIPT)]);
        for archive in [tar, zip] {
            let error = bed.refuse(&archive, "bin/one").await;
            let ArtefactError::Refused { why, .. } = &error else { panic!("{error}") };
            assert_eq!((why.label(), error.may_pass()), (label, false), "{error}");
        }
    }
    assert!(!Path::new("/tmp/escaped-from-an-archive").exists());
    let outside = std::fs::read_dir(bed.folder.path()).unwrap().count();
    assert_eq!(outside, 1, "only the cache");
}

#[tokio::test]
async fn links_and_devices_are_refused() {
    let bed = Bed::new();
    for (flag, label) in [
        (b'1', "link"),
        (b'2', "link"),
        (b'3', "special_file"),
        (b'4', "special_file"),
        (b'6', "special_file"),
    ] {
        let archive =
            tar(&[Tar::program("one", SCRIPT), Tar::special("two", flag), Tar::program("two/x", SCRIPT)]);
        let error = bed.refuse(&archive, "one").await;
        assert!(matches!(&error, ArtefactError::Refused { why, .. } if why.label() == label), "{error}");
    }
    for (mode, label) in [(0o120_777, "link"), (0o020_666, "special_file"), (0o010_666, "special_file")] {
        let link = Zip { mode: Some(mode), ..Zip::program("two", b"/etc/passwd") };
        let error = bed.refuse(&zip(&[Zip::program("one", SCRIPT), link]), "one").await;
        assert!(matches!(&error, ArtefactError::Refused { why, .. } if why.label() == label), "{error}");
    }
    let sparse =
        [Tar { flag: b'x', ..Tar::program("x", b"22 GNU.sparse.major=1\n") }, Tar::program("y", SCRIPT)];
    assert!(bed.refuse(&tar(&sparse), "").await.to_string().contains("sparse"));
}

#[tokio::test]
async fn archives_that_grow_without_end_are_refused() {
    let zeros = vec![0; 40 << 20];
    let mut bed = Bed::new();
    let bomb = zip(&[Zip::program("one", SCRIPT), Zip::program("two", &zeros)]);
    assert!(bomb.len() < 60_000);
    let tarred = tar(&[Tar::program("one", SCRIPT), Tar::program("two", &zeros)]);
    // The bytes do not have to belong to an entry: here they belong to records about the archive.
    let records = tar(&[Tar { flag: b'g', ..Tar::program("x", &zeros) }, Tar::program("one", SCRIPT)]);
    for archive in [bomb, gzip(&tarred), gzip(&records), XZ_ZEROS.to_vec()] {
        let error = bed.refuse(&archive, "one").await;
        assert!(matches!(&error, ArtefactError::Refused { why, .. } if why.label() == "zip_bomb"), "{error}");
    }
    bed.config.max_unpacked_bytes = 100_000;
    let large = vec![b'x'; 100_000];
    for archive in
        [tar(&[Tar::program("one", &large)]), zip(&[Zip::program("o", SCRIPT), Zip::program("one", &large)])]
    {
        let error = bed.refuse(&archive, "one").await;
        assert!(
            matches!(&error, ArtefactError::Refused { why, .. } if why.label() == "unpacked_too_large"),
            "{error}"
        );
    }
    bed.config.max_entries = 10;
    let names: Vec<String> = (0..11).map(|number| format!("file-{number}")).collect();
    let many: Vec<Tar<'_>> = names.iter().map(|name| Tar::program(name, b"")).collect();
    let zipped: Vec<Zip<'_>> = names.iter().map(|name| Zip::program(name, b"")).collect();
    for archive in [tar(&many), zip(&zipped)] {
        let error = bed.refuse(&archive, "file-1").await;
        assert!(error.to_string().contains("more than 10 files and folders"), "{error}");
    }
}

#[tokio::test]
async fn archives_that_are_cut_off_or_lie_are_refused() {
    let bed = Bed::new();
    let plain = tar(&[Tar::program("one", &elf())]);
    let two_names = Zip { header_name: "two", ..Zip::program("one", SCRIPT) };
    let short = Zip { named_size: Some(3), ..Zip::program("one", SCRIPT) };
    let long = Zip { named_size: Some(300), ..Zip::program("one", SCRIPT) };
    let mut flipped = zip(&[Zip { is_deflated: false, ..Zip::program("one", SCRIPT) }]);
    flipped[40] ^= 1;
    let mut checksum = tar(&[Tar::program("one", SCRIPT), Tar::program("two", SCRIPT)]);
    checksum[1024] ^= 1;
    for archive in [
        plain[..plain.len() - 4096].to_vec(),
        plain[..700].to_vec(),
        gzip(&plain)[..2000].to_vec(),
        GNU_GZIP[..200].to_vec(),
        PAX_XZ[..300].to_vec(),
        PAX_ZSTD[..300].to_vec(),
        INFO_ZIP[..INFO_ZIP.len() - 1].to_vec(),
        INFO_ZIP[..300].to_vec(),
        gzip(b"no archive, but more than nothing"),
        gzip(SCRIPT),
        gzip(b""),
        zip(&[two_names]),
        zip(&[short]),
        zip(&[long]),
        flipped,
        checksum,
    ] {
        let error = bed.refuse(&archive, "one").await;
        assert!(matches!(error, ArtefactError::Archive { .. }) && !error.may_pass(), "{error}");
    }
    assert!(matches!(bed.refuse(&zip(&[]), "").await, ArtefactError::Program { .. }));
}

/// Notes what is written, and insists on where.
#[derive(Default)]
struct Paths(Vec<String>);

impl Target for Paths {
    fn folder(&mut self, path: &str) -> std::io::Result<()> {
        assert!(Path::new(path).components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
        self.0.push(path.to_owned());
        Ok(())
    }

    fn file(&mut self, path: &str) -> std::io::Result<()> {
        assert!(!self.0.iter().any(|other| other == path), "{path:?} comes twice");
        self.folder(path)
    }

    fn write(&mut self, _bytes: &[u8]) -> std::io::Result<()> {
        Ok(())
    }

    fn end(&mut self, _is_marked: Option<bool>) -> std::io::Result<()> {
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        false
    }
}

proptest! {
    #[test]
    fn damaged_archives_neither_panic_nor_lead_out(
        which in 0..6usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        length in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let plain = tar(&[Tar::special("bin", b'5'), Tar::program("bin/../one", SCRIPT), Tar::program("two", SCRIPT)]);
        let archives = [
            GNU_GZIP.to_vec(),
            PAX_XZ.to_vec(),
            PAX_ZSTD.to_vec(),
            INFO_ZIP.to_vec(),
            plain,
            zip(&[Zip::program("a/one", SCRIPT), Zip::program("two", SCRIPT)]),
        ];
        let mut archive = archives[which].clone();
        for (at, byte) in changes {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        if is_cut {
            archive.truncate(length.index(archive.len()));
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&archive).unwrap();
        let limits = ArchiveLimits { max_entries: 100, max_bytes: 1 << 20 };
        if let Some(form) = Form::of(&archive[..archive.len().min(512)]) {
            let bytes = u64::try_from(archive.len()).unwrap();
            if let Ok(unpacked) = unpack(form, &file, bytes, limits, &mut Paths::default()) {
                prop_assert!(unpacked <= 1 << 20);
            }
        }
    }
}
