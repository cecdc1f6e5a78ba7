//! Debian's PostgreSQL on loopback of a host.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Host, Process, scratch};
use tempfile::TempDir;

use crate::fixture::SOON;

/// Where Debian puts its versions.
pub(super) const FOLDER: &str = "/usr/lib/postgresql";

/// A server on port 5432. It ends when dropped.
pub(super) struct Postgres {
    _process: Process,
    _folder: TempDir,
}

impl Postgres {
    /// Makes a database and serves it to loopback of the host, where everybody is trusted.
    pub(super) fn start(host: &Host) -> Result<Self> {
        let versions = std::fs::read_dir(FOLDER)?.map(|entry| Ok(entry?.path().join("bin")));
        let versions = versions.collect::<Result<Vec<PathBuf>>>()?;
        let programs = versions.iter().find(|bin| bin.join("initdb").exists()).context("no initdb")?;
        let folder = scratch("postgres")?;
        let owned = host.launch(Path::new("chown")).arg("postgres").arg(folder.path()).run(SOON)?;
        ensure!(owned.code == Some(0), "{owned:?}");
        let as_postgres = |program: &str| {
            let user = ["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"];
            host.launch(Path::new("setpriv")).args(user).arg(programs.join(program)).folder(folder.path())
        };
        let data = folder.path().join("data");
        let made =
            as_postgres("initdb").args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"]).arg(&data);
        let made = made.run(SOON)?;
        ensure!(made.code == Some(0), "{made:?}");
        let sockets = format!("unix_socket_directories={}", folder.path().display());
        let serve = as_postgres("postgres").arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", "5432"]);
        let mut process = serve.args(["-c", "fsync=off", "-c", &sockets]).start()?;
        process.wait_for_line("ready to accept connections", SOON)?;
        Ok(Self { _process: process, _folder: folder })
    }
}
