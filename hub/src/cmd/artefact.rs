//! `artefact`: what is pushed to the hub for its nodes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blueprint_common_runtime::cli::{CliError, Output, Progress, Table, bytes, print_json, print_line};
use blueprint_common_types::workload::Sha256Digest;
use clap::Subcommand;
use futures_util::stream::{Stream, try_unfold};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use ring::digest;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::client::{ask, rows, runtime, send, text};
use crate::artefacts::finish;
use crate::cli::Global;

/// Bytes read at once.
const PIECE_BYTES: usize = 256 * 1024;

/// How long a push may take in all; the hub gives up one that brings nothing long before.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// Artefacts of workloads, pushed for nodes that reach nothing else.
#[derive(Debug, Subcommand)]
pub(crate) enum Artefact {
    /// Gives a program or archive to the hub, from which its nodes take it
    #[command(after_help = "Example: blueprint-hub artefact push demo.tar.gz
A workload takes it with --url hub:// and --sha256 with the digest that this prints.")]
    Push {
        /// Program, or archive with one
        file: PathBuf,
    },
    /// Lists what was pushed, and the workloads that name it
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub artefact ls --output json")]
    Ls,
    /// Removes what was pushed
    #[command(visible_alias = "remove", after_help = "Example: blueprint-hub artefact rm SHA256")]
    Rm {
        /// SHA-256, as `artefact ls` shows it
        sha256: Sha256Digest,
        /// Also where a workload names it: that cannot be started on another node any more
        #[arg(long)]
        force: bool,
    },
}

impl Artefact {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Push { file } => push(global, &file),
            Self::Ls => {
                let answer = ask(global, "GET", "/v1/artefacts", None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => list(&answer),
                }
                Ok(())
            }
            Self::Rm { sha256, force } => {
                let query = if force { "?force=true" } else { "" };
                let answer = ask(global, "DELETE", &format!("/v1/artefacts/{sha256}{query}"), None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => print_line(&format!("{sha256} is removed; nodes that have it keep it")),
                }
                Ok(())
            }
        }
    }
}

fn list(answer: &Value) {
    let mut table = Table::new(&["SHA-256", "SIZE", "PUSHED", "WORKLOADS"]);
    let size = |value: &Value, name: &str| bytes(value.get(name).and_then(Value::as_u64).unwrap_or(0));
    for row in rows(answer, "artefacts") {
        let users: Vec<_> = rows(row, "workloads").iter().filter_map(Value::as_str).collect();
        let users = if users.is_empty() { "-".to_owned() } else { users.join(" ") };
        table.push(vec![text(row, "sha256"), size(row, "bytes"), text(row, "pushed_at"), users]);
    }
    table.print();
    print_line(&format!("{} of {} are taken", size(answer, "total_bytes"), size(answer, "max_total_bytes")));
}

/// Gives a file to the hub where that has it not yet; gives its digest, and what the hub says of it.
pub(super) fn give(global: &Global, path: &Path) -> Result<(Sha256Digest, Value), CliError> {
    let failed = |error: std::io::Error| super::unread(path, &error);
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let about = std::fs::metadata(path).map_err(failed)?;
    if !about.is_file() {
        return Err(CliError::usage(format!("{} is not a file", path.display()))
            .hint("push a program, or an archive with one"));
    }
    let (sha256, length) =
        hash(path, Progress::new(format!("reading {name}"), about.len())).map_err(failed)?;
    let held = ask(global, "GET", "/v1/artefacts", None)?;
    let digits = sha256.to_string();
    let found = rows(&held, "artefacts").iter().find(|row| text(row, "sha256") == digits);
    let most = held.get("max_bytes").and_then(Value::as_u64).unwrap_or(u64::MAX);
    let answer = match found {
        Some(row) => row.clone(),
        None if length > most => {
            let text = format!("{} has {}, the hub takes {}", path.display(), bytes(length), bytes(most));
            return Err(
                CliError::failure(text).hint("make it smaller, or raise artefacts.max_bytes of the hub")
            );
        }
        None => {
            let progress = Progress::new(format!("pushing {name}"), length);
            runtime()?.block_on(async {
                let file = tokio::fs::File::open(path).await.map_err(failed)?;
                let body = StreamBody::new(Box::pin(pieces(file, progress)));
                send(global, &format!("/v1/artefacts/{digits}"), length, body, PATIENCE).await
            })?
        }
    };
    Ok((sha256, answer))
}

fn push(global: &Global, path: &Path) -> Result<(), CliError> {
    let (digits, mut answer) = give(global, path)?;
    let line = format!("blueprint-hub workload run BLUEPRINT/SERVICE --url hub:// --sha256 {digits}");
    match global.output {
        Output::Json => {
            if let Some(fields) = answer.as_object_mut() {
                fields.entry("is_new").or_insert(json!(false));
                fields.insert("workload_run".to_owned(), json!(line));
            }
            print_json(&answer);
        }
        Output::Table => print_line(&format!("SHA-256 {digits}\nRun it with:\n  {line}")),
    }
    Ok(())
}

/// Digest and size of a file.
fn hash(path: &Path, mut progress: Progress) -> std::io::Result<(Sha256Digest, u64)> {
    let mut file = File::open(path)?;
    let mut hash = digest::Context::new(&digest::SHA256);
    let (mut buffer, mut length) = (vec![0; PIECE_BYTES], 0u64);
    loop {
        let count = file.read(&mut buffer)?;
        let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else { break };
        hash.update(piece);
        length = length.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        progress.at(length);
    }
    Ok((finish(hash), length))
}

/// A file as a body; each piece is read when those before are on their way.
fn pieces(
    file: tokio::fs::File,
    progress: Progress,
) -> impl Stream<Item = std::io::Result<Frame<Bytes>>> + Send {
    try_unfold((file, progress, 0u64), |(mut file, mut progress, done)| async move {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let most = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
        (&mut file).take(most).read_to_end(&mut piece).await?;
        if piece.is_empty() {
            return Ok(None);
        }
        let done = done.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        progress.at(done);
        Ok(Some((Frame::data(Bytes::from(piece)), (file, progress, done))))
    })
}
