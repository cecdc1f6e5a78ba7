//! Skipping a test where the machine lacks something, so that nobody overlooks it.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::moto::Moto;

/// Something of the machine that a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The rights of root, to make namespaces.
    Root,
    /// A program on `PATH`.
    Program(&'static str),
    /// A program that an environment variable names, or one on `PATH`; see [`tool`].
    Tool {
        /// The variable.
        variable: &'static str,
        /// The program's name.
        program: &'static str,
    },
    /// The server of moto; see [`Moto::program`](crate::moto::Moto::program).
    Moto,
    /// A Python with gRPC, for the example of a plugin; see [`plugin_python`].
    PluginPython,
    /// A device file.
    Device(&'static str),
    /// An image of local machines; see [`local_vm_image`].
    LocalVmImage,
    /// An image of machines with an SSH server; see [`ssh_host_image`].
    SshHostImage,
    /// An image of machines with systemd-resolved; see [`resolved_image`].
    ResolvedImage,
    /// A file that is no part of this repository, such as what a cloud publishes of its API.
    File(&'static str),
    /// Many minutes: `SOAK=1`, or `REQUIRE_ALL=1`, which leaves nothing out.
    Soak,
}

impl Need {
    /// What is missing, in words; `None` where it is there.
    fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "root".to_owned()),
            Self::Program(name) => on_path(name).is_none().then(|| format!("the program {name}")),
            Self::Tool { variable, program } => tool(variable, program)
                .is_none()
                .then(|| format!("the program {program} ({variable} may name it)")),
            Self::Moto => Moto::program()
                .is_none()
                .then(|| "the program moto_server of moto (MOTO_SERVER may name it)".to_owned()),
            Self::PluginPython => plugin_python()
                .is_none()
                .then(|| "a Python with grpcio and grpcio-tools (PLUGIN_PYTHON may name it)".to_owned()),
            Self::Device(path) => (!Path::new(path).exists()).then(|| format!("the device {path}")),
            Self::LocalVmImage => local_vm_image()
                .is_none()
                .then(|| "an image of local machines (LOCAL_VM_IMAGE may name it)".to_owned()),
            Self::SshHostImage => ssh_host_image()
                .is_none()
                .then(|| "an image of machines with an SSH server (SSH_HOST_IMAGE may name it)".to_owned()),
            Self::ResolvedImage => resolved_image().is_none().then(|| {
                "an image of machines with systemd-resolved (RESOLVED_IMAGE may name it)".to_owned()
            }),
            Self::File(path) => (!Path::new(path).exists()).then(|| format!("the file {path}")),
            Self::Soak => {
                let is_set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
                (!is_set("SOAK") && !is_set("REQUIRE_ALL")).then(|| "many minutes: set SOAK=1".to_owned())
            }
        }
    }
}

/// The program that the environment variable `variable` names, else `program` on `PATH`; `None` where it is not there.
#[must_use]
pub fn tool(variable: &str, program: &str) -> Option<PathBuf> {
    match std::env::var_os(variable).map(PathBuf::from) {
        Some(named) => named.is_file().then_some(named),
        None => on_path(program),
    }
}

/// The version of gRPC for Python that `tests/run` installs.
const GRPCIO: &str = "1.85.1";

/// The Python that `PLUGIN_PYTHON` names, else the one that `tests/run` keeps in the user's cache, with gRPC for the example of a
/// plugin; `None` where it is not there.
#[must_use]
pub fn plugin_python() -> Option<PathBuf> {
    let path = match std::env::var_os("PLUGIN_PYTHON") {
        Some(named) => PathBuf::from(named),
        None => {
            let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
            cache.join(format!("blueprint-hub/plugin-{GRPCIO}/bin/python"))
        }
    };
    path.is_file().then_some(path)
}

/// The image of local machines that `LOCAL_VM_IMAGE` names, else the one that `tests/run` keeps in the user's cache; `None` where
/// it is not there. A folder, with a disk of the same name and the ending `.ext4` beside it.
#[must_use]
pub fn local_vm_image() -> Option<PathBuf> {
    image("LOCAL_VM_IMAGE", "bookworm")
}

/// The image that `SSH_HOST_IMAGE` names, else the one that `tests/run` keeps beside that of local machines: a folder with an SSH
/// server and sudo; `None` where it is not there.
#[must_use]
pub fn ssh_host_image() -> Option<PathBuf> {
    image("SSH_HOST_IMAGE", "bookworm-ssh")
}

/// The image that `RESOLVED_IMAGE` names, else the one that `tests/run` keeps beside that of local machines: a folder with
/// systemd-resolved; `None` where it is not there.
#[must_use]
pub fn resolved_image() -> Option<PathBuf> {
    image("RESOLVED_IMAGE", "bookworm-resolved")
}

fn image(variable: &str, name: &str) -> Option<PathBuf> {
    let cache = || {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
        Some(cache.join("blueprint-hub/images").join(name))
    };
    let image = std::env::var_os(variable).map(PathBuf::from).or_else(cache)?;
    image.join("etc/os-release").exists().then_some(image)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Whether all `needs` are met. Where not, the running test should return at once.
///
/// The skip is printed and, where `TEST_SKIPS_FILE` names a file, noted there for `tests/run`.
///
/// # Panics
///
/// Panics instead where `REQUIRE_ALL=1` is set.
#[must_use]
#[expect(clippy::panic, reason = "with REQUIRE_ALL=1 a skip fails the test")]
#[expect(clippy::print_stderr, reason = "a skip is told to the person who runs the tests")]
pub fn require(needs: &[Need]) -> bool {
    let missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    let thread = std::thread::current();
    let line = format!("{}: needs {}", thread.name().unwrap_or("a test"), missing.join(", "));
    if std::env::var_os("REQUIRE_ALL").is_some_and(|value| value == "1") {
        panic!("{line}; tests/run as root installs it");
    }
    eprintln!("\n!! SKIPPED {line}");
    if let Err(error) = note(&line) {
        eprintln!("!! the skip could not be noted: {error}");
    }
    false
}

/// Says aloud that a part of a test was left out, and why, also with `REQUIRE_ALL=1`: for what a machine may do without.
#[expect(clippy::print_stderr, reason = "a skip is told to the person who runs the tests")]
pub fn left_out(what: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {what}", thread.name().unwrap_or("a test"));
    eprintln!("\n!! SKIPPED {line}");
    if let Err(error) = note(&line) {
        eprintln!("!! the skip could not be noted: {error}");
    }
}

fn note(line: &str) -> std::io::Result<()> {
    let Some(path) = std::env::var_os("TEST_SKIPS_FILE") else { return Ok(()) };
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_and_a_present_one_is_not() {
        assert_eq!(Need::Program("cargo").missing(), None);
        let missing = Need::Program("no-such-program-anywhere").missing();
        assert_eq!(missing.as_deref(), Some("the program no-such-program-anywhere"));
        let tool = |program| Need::Tool { variable: "NO_SUCH_VARIABLE", program };
        assert_eq!(tool("cargo").missing(), None);
        assert!(tool("no-such-program-anywhere").missing().is_some());
        assert_eq!(Need::Device("/dev/null").missing(), None);
        assert_eq!(Need::Device("/no/device").missing().as_deref(), Some("the device /no/device"));
    }
}
