//! From a whole download to a folder of the cache: unpacked, found fit for this machine, sealed, named.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use blueprint_agent_workload_core::archive::ArchiveLimits;
use blueprint_agent_workload_core::archive::tar::BLOCK;
use blueprint_agent_workload_core::program::{HEAD_BYTES, Program, is_library};
use tokio_util::sync::CancellationToken;

use super::cache::{About, Cache, sync};
use super::pack::{Form, PackError, Target, unpack};
use super::sink::Part;
use super::{Artefact, ArtefactError, disk_error};

/// Name of an artefact that is the program itself.
const PROGRAM: &str = "program";

/// Programs of an archive that are remembered, and shown to people.
const MAX_PROGRAMS: usize = 20;

/// Up to so many files are written to disk one by one, more of them with the whole file system.
const FEW_FILES: u32 = 256;

/// Bytes that a file or folder takes on the disk at least.
const NODE_BYTES: u64 = 4096;

/// Puts one download into the cache.
pub(super) struct Install {
    pub(super) cache: Arc<Cache>,
    pub(super) limits: ArchiveLimits,
    /// Where it comes from, for people.
    pub(super) url: String,
    /// Set when nobody wants it any more.
    pub(super) stop: CancellationToken,
}

impl Install {
    /// Unpacks `part` as far as it is an archive, and commits it if its program can run here.
    pub(super) fn run(&self, part: Part, binary: &str) -> Result<Artefact, ArtefactError> {
        let made = self.cache.new_folder()?;
        let failed = |why| disk_error("write", made.path(), why);
        let mut about = About::new(part.sha256, part.blake3, part.bytes);
        let head = head(&part.file, BLOCK).map_err(failed)?;
        let files = made.path().join("files");
        if let Some(form) = Form::of(&head) {
            self.unpack(form, &part, &files, &mut about)?;
            drop(part);
        } else if Program::identify(&head).is_some() {
            self.keep(part, &files, &mut about)?;
        } else {
            return Err(ArtefactError::NotAProgram { url: self.url.clone() });
        }
        resolve(&self.url, &files, &about, binary)?;
        seal(&files).map_err(failed)?;
        let hold = self.cache.commit(made, &about)?;
        let folder = hold.files();
        let program = resolve(&self.url, &folder, &about, binary)?;
        Ok(Artefact { program, folder, _hold: hold })
    }

    /// Takes the download as the program.
    fn keep(&self, part: Part, files: &Path, about: &mut About) -> Result<(), ArtefactError> {
        let failed = |why| disk_error("write", part.temporary.path(), why);
        part.file.set_permissions(Permissions::from_mode(0o555)).map_err(failed)?;
        part.file.sync_all().map_err(failed)?;
        fs::rename(part.temporary.path(), files.join(PROGRAM)).map_err(failed)?;
        about.is_program = true;
        about.programs = vec![PROGRAM.to_owned()];
        about.disk_bytes = part.bytes.saturating_add(NODE_BYTES);
        Ok(())
    }

    fn unpack(&self, form: Form, part: &Part, files: &Path, about: &mut About) -> Result<(), ArtefactError> {
        // At least as much as it has comes out of an archive.
        self.cache.make_room(part.bytes)?;
        let mut tree = Tree::new(files.to_owned(), self.stop.clone());
        let unpacked = unpack(form, &part.file, part.bytes, self.limits, &mut tree);
        let url = || self.url.clone();
        unpacked.map_err(|error| match error {
            PackError::Refused(why) => ArtefactError::Refused { url: url(), why },
            PackError::Damaged(why) => ArtefactError::Archive { url: url(), why },
            PackError::Write(why) => disk_error("unpack into", files.parent().unwrap_or(files), why),
            PackError::Stopped => ArtefactError::Stopped { url: url() },
        })?;
        if tree.files > FEW_FILES {
            let synced = File::open(files).and_then(|folder| Ok(nix::unistd::syncfs(&folder)?));
            synced.map_err(|why| disk_error("write", files.parent().unwrap_or(files), why))?;
        }
        about.disk_bytes = tree.disk_bytes;
        about.programs = tree.programs;
        Ok(())
    }
}

/// Writes the files of an archive below a folder.
struct Tree {
    root: PathBuf,
    stop: CancellationToken,
    current: Option<Current>,
    files: u32,
    disk_bytes: u64,
    programs: Vec<String>,
}

/// The file that is written.
struct Current {
    file: File,
    path: String,
    /// Its first bytes.
    head: Vec<u8>,
}

impl Tree {
    const fn new(root: PathBuf, stop: CancellationToken) -> Self {
        Self { root, stop, current: None, files: 0, disk_bytes: 0, programs: Vec::new() }
    }

    fn parents(&mut self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }
}

impl Target for Tree {
    fn folder(&mut self, path: &str) -> io::Result<()> {
        self.disk_bytes = self.disk_bytes.saturating_add(NODE_BYTES);
        self.parents(&self.root.join(path))
    }

    fn file(&mut self, path: &str) -> io::Result<()> {
        let place = self.root.join(path);
        self.parents(place.parent().unwrap_or(&self.root).to_owned().as_path())?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(place)?;
        self.files = self.files.saturating_add(1);
        self.disk_bytes = self.disk_bytes.saturating_add(NODE_BYTES);
        self.current = Some(Current { file, path: path.to_owned(), head: Vec::new() });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let missing = HEAD_BYTES.saturating_sub(current.head.len()).min(bytes.len());
        current.head.extend_from_slice(bytes.get(..missing).unwrap_or_default());
        self.disk_bytes = self.disk_bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        current.file.write_all(bytes)
    }

    fn end(&mut self, is_marked: Option<bool>) -> io::Result<()> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let is_program = Program::identify(&current.head).is_some();
        // Bits of set-user-ID and the like are left out, as is every right to write.
        let mode = if is_program || is_marked == Some(true) { 0o555 } else { 0o444 };
        current.file.set_permissions(Permissions::from_mode(mode))?;
        let is_candidate = is_program && is_marked != Some(false) && !is_library(&current.path);
        if is_candidate && self.programs.len() < MAX_PROGRAMS {
            self.programs.push(current.path);
        }
        if self.files <= FEW_FILES { current.file.sync_all() } else { Ok(()) }
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }
}

/// Makes folders read-only and has their names written to disk, the innermost first.
fn seal(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            seal(&entry.path())?;
        }
    }
    fs::set_permissions(folder, Permissions::from_mode(0o555))?;
    sync(folder)
}

/// The path of the program in these files, if this machine can run it.
pub(super) fn resolve(
    url: &str,
    files: &Path,
    about: &About,
    binary: &str,
) -> Result<PathBuf, ArtefactError> {
    let named = choose(url, about, binary)?;
    let path = files.join(&named);
    let is_file = fs::symlink_metadata(&path).is_ok_and(|data| data.is_file());
    let missing = |what: &str| ArtefactError::Program {
        url: url.to_owned(),
        what: format!("{what} {named:?}"),
        hint: format!("correct 'binary'; {}", listed(&about.programs)),
    };
    if !is_file {
        return Err(missing("no file"));
    }
    let head = File::open(&path).and_then(|file| head(&file, HEAD_BYTES));
    let head = head.map_err(|why| disk_error("read", &path, why))?;
    let here = std::env::consts::ARCH;
    let other = |built_for: String| ArtefactError::OtherMachine {
        url: url.to_owned(),
        program: named.clone(),
        built_for,
        here,
    };
    match Program::identify(&head) {
        Some(Program::Elf(elf)) if elf.runs_on(here) => Ok(path),
        Some(Program::Elf(elf)) => Err(other(elf.to_string())),
        Some(Program::Foreign(system)) => Err(other(system.to_owned())),
        Some(Program::Script { interpreter }) if Path::new(&interpreter).is_file() => Ok(path),
        Some(Program::Script { interpreter }) => {
            Err(ArtefactError::Interpreter { url: url.to_owned(), program: named, interpreter })
        }
        None => Err(missing("something that is not a program at")),
    }
}

/// The relative path of the program: what was asked for, or the only one there is.
fn choose(url: &str, about: &About, binary: &str) -> Result<String, ArtefactError> {
    let wrong = |what: &str, hint: String| ArtefactError::Program {
        url: url.to_owned(),
        what: what.to_owned(),
        hint,
    };
    if about.is_program {
        return Ok(PROGRAM.to_owned());
    }
    if !binary.is_empty() {
        let is_inner = Path::new(binary).components().all(|part| matches!(part, Component::Normal(_)));
        return if is_inner {
            Ok(binary.to_owned())
        } else {
            Err(wrong("no file outside of it", "'binary' has to be a relative path without '..'".to_owned()))
        };
    }
    match about.programs.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(wrong("no program", "pack one with its run bit set, or name it in 'binary'".to_owned())),
        several => Err(wrong("more than one program", format!("say in 'binary' which; {}", listed(several)))),
    }
}

fn listed(programs: &[String]) -> String {
    if programs.is_empty() { "it has none".to_owned() } else { format!("it has {}", programs.join(", ")) }
}

/// The first bytes of a file, at most so many.
fn head(file: &File, most: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    Start { file, at: 0 }.take(most).read_to_end(&mut head)?;
    Ok(head)
}

/// Reads a file from its beginning, wherever it stands.
struct Start<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Start<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at = self.at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}
