//! `workload run`: the document is made of arguments, or taken from a file.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_runtime::cli::{CliError, eprint_line};
use blueprint_common_types::workload::{
    Blake3Digest, MAX_KEYSTORE_BYTES, RestartPolicy, Sha256Digest, Source, WorkloadSpec,
};
use blueprint_common_types::{HealthCheck, ServiceKey};
use clap::Args;
use serde_json::{Map, Value, json};

use super::{finished, path, show};
use crate::cli::Global;
use crate::cmd::client::{ask, text};

/// Pause between two looks at a workload that is waited for.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// Has a node run a service.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Service, as BLUEPRINT/SERVICE
    service: ServiceKey,
    /// Document with everything that is not given here, JSON; `-` for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Program or archive: https://, http://, ipfs://CID/PATH, github://OWNER/REPOSITORY/TAG/FILE, or hub:// for what was pushed
    #[arg(long, requires = "sha256", conflicts_with_all = ["image", "path"])]
    url: Option<String>,
    /// SHA-256 that the file has to have
    #[arg(long, value_name = "HEX")]
    sha256: Option<Sha256Digest>,
    /// BLAKE3 that it has to have, too
    #[arg(long, value_name = "HEX", requires = "url")]
    blake3: Option<Blake3Digest>,
    /// Path of the program within the archive
    #[arg(long, value_name = "PATH", requires = "url")]
    binary: Option<String>,
    /// Image of a container, without a tag
    #[arg(long, requires = "digest", conflicts_with = "path")]
    image: Option<String>,
    /// SHA-256 of the image's manifest
    #[arg(long, value_name = "HEX")]
    digest: Option<Sha256Digest>,
    /// Program that is on the node already; for development
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Name of the blueprint, a part of the name of its data folder
    #[arg(long)]
    name: Option<String>,
    /// Node that may run it, by name or id; may be repeated, and without it any node may
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    /// Variable of its environment, NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Argument behind those that every blueprint gets; may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    arg: Vec<String>,
    /// HTTP RPC of the chain
    #[arg(long, value_name = "URL")]
    http_rpc_url: Option<String>,
    /// WebSocket RPC of the chain
    #[arg(long, value_name = "URL")]
    ws_rpc_url: Option<String>,
    /// Thousandths of a processor that it may use
    #[arg(long, value_name = "COUNT", value_parser = crate::cmd::whole::<u32>)]
    cpu_millis: Option<u32>,
    /// Bytes of memory that it may use
    #[arg(long, value_name = "BYTES", value_parser = crate::cmd::whole_bytes)]
    memory_bytes: Option<u64>,
    /// Bytes that it may keep in its data folder
    #[arg(long, value_name = "BYTES", value_parser = crate::cmd::whole_bytes)]
    storage_bytes: Option<u64>,
    /// When it is started again: always, on-failure or never
    #[arg(long, value_parser = restart)]
    restart: Option<RestartPolicy>,
    /// How the health of what it registers is checked: tcp, http:/PATH (below 400), http:STATUS:/PATH, http:FIRST-LAST:/PATH,
    /// grpc or grpc:SERVICE (grpc.health.v1), or none; `health` in the document says how often, and what is done then
    #[arg(long)]
    check: Option<HealthCheck>,
    /// Folder with the keys of the blueprint, which its node gets sealed, and keeps in memory only
    #[arg(long, value_name = "DIR")]
    keystore: Option<PathBuf>,
    /// File with USER:PASSWORD of the image's registry, which its node gets sealed, and nobody else; `-` for standard input.
    /// It stays for later images of the same registry, and goes with the first of another
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "path"])]
    registry_login: Option<PathBuf>,
    /// Blueprint's test mode: it needs no bridge
    #[arg(long)]
    test_mode: bool,
    /// Waits until it runs, at most so long
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "60s", value_parser = crate::cmd::seconds)]
    wait: Option<u64>,
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("not NAME=VALUE")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

fn restart(text: &str) -> Result<RestartPolicy, String> {
    serde_json::from_value(json!(text)).map_err(|_| "not always, on-failure or never".to_owned())
}

impl Run {
    pub(super) fn run(self, global: &Global) -> Result<(), CliError> {
        let spec = self.spec()?;
        let hint = "docs/workloads.md shows every field";
        spec.check().map_err(|error| CliError::usage(error.to_string()).hint(hint))?;
        let mut body = json!({ "spec": spec, "nodes": self.node });
        if let (Some(folder), Some(fields)) = (&self.keystore, body.as_object_mut()) {
            fields.insert("keystore".to_owned(), json!(keystore(folder)?));
        }
        if let (Some(file), Some(fields)) = (&self.registry_login, body.as_object_mut()) {
            fields.insert("registry".to_owned(), registry_login(file)?);
        }
        let mut answer = ask(global, "PUT", &path(self.service), Some(&body))?;
        tell_login(&answer);
        if let Some(seconds) = self.wait {
            answer = wait_for(global, self.service, answer, Duration::from_secs(seconds))?;
            finished(global, &answer);
            return Ok(());
        }
        show(global, &answer);
        Ok(())
    }

    fn spec(&self) -> Result<WorkloadSpec, CliError> {
        let mut document = match &self.file {
            Some(file) => read_document(file)?,
            None => Map::new(),
        };
        if let Some(source) = self.source() {
            document.insert("source".to_owned(), json!(source));
        }
        if !document.contains_key("source") {
            return Err(CliError::usage("nothing says where the program comes from")
                .hint("give --url with --sha256, --image with --digest, --path, or a document with --file"));
        }
        let mut spec: WorkloadSpec = serde_json::from_value(Value::Object(document))
            .map_err(|error| CliError::usage(format!("the document is not that of a workload: {error}")))?;
        spec.env.extend(self.env.iter().cloned());
        spec.args.extend(self.arg.iter().cloned());
        spec.test_mode |= self.test_mode;
        if let Some(check) = &self.check {
            spec.health.check = check.clone();
        }
        set(&mut spec.name, self.name.clone());
        set(&mut spec.chain.http_rpc_url, self.http_rpc_url.clone());
        set(&mut spec.chain.ws_rpc_url, self.ws_rpc_url.clone());
        set(&mut spec.limits.cpu_millis, self.cpu_millis);
        set(&mut spec.limits.memory_bytes, self.memory_bytes);
        set(&mut spec.limits.storage_bytes, self.storage_bytes);
        set(&mut spec.restart, self.restart);
        Ok(spec)
    }

    fn source(&self) -> Option<Source> {
        if let (Some(url), Some(sha256)) = (&self.url, self.sha256) {
            let binary = self.binary.clone().unwrap_or_default();
            return Some(Source::Native { url: url.clone(), sha256, blake3: self.blake3, binary });
        }
        if let (Some(image), Some(digest)) = (&self.image, self.digest) {
            return Some(Source::Container {
                image: image.clone(),
                digest,
                ports: Vec::new(),
                volumes: Vec::new(),
            });
        }
        self.path.as_ref().map(|path| Source::Testing { path: path.clone() })
    }
}

/// Says that a login was left out, since the image is of another registry now.
pub(super) fn tell_login(answer: &Value) {
    if let Some(registry) = answer.get("login_left_out").and_then(Value::as_str) {
        eprint_line(&format!(
            "the image is of another registry than {registry}: the login that it had is left out; --registry-login gives a new one"
        ));
    }
}

/// Waits until a workload runs, or has ended.
fn wait_for(
    global: &Global,
    service: ServiceKey,
    mut answer: Value,
    patience: Duration,
) -> Result<Value, CliError> {
    let (began, mut told) = (Instant::now(), String::new());
    loop {
        let (state, reason) = (text(&answer, "state"), text(&answer, "reason"));
        match state.as_str() {
            "running" | "ended" => return Ok(answer),
            "failed" => {
                return Err(CliError::failure(format!("{} failed: {reason}", service))
                    .hint("blueprint-hub workload show has its last lines, blueprint-hub logs all of them"));
            }
            _ if began.elapsed() >= patience => {
                let text = format!("{} is {state} after {} s: {reason}", service, patience.as_secs());
                return Err(CliError::unavailable(text)
                    .hint("it is tried on; blueprint-hub workload ls shows how it goes"));
            }
            _ => {}
        }
        let now = format!("{}: {state} {reason}", service);
        if now != told {
            eprint_line(now.trim_end());
            told = now;
        }
        std::thread::sleep(LOOK);
        answer = ask(global, "GET", &path(service), None)?;
    }
}

/// Reads a document that says everything of a workload but where its program comes from.
pub(in crate::cmd) fn document(file: &Path) -> Result<Map<String, Value>, CliError> {
    let document = read_document(file)?;
    let mut whole = document.clone();
    let stand_in = json!(Source::Testing { path: "/".to_owned() });
    if whole.insert("source".to_owned(), stand_in).is_some() {
        return Err(CliError::usage(format!("{}: it names a source", file.display()))
            .hint("--package is the source; leave it out of the document"));
    }
    serde_json::from_value::<WorkloadSpec>(Value::Object(whole)).map_err(|error| {
        CliError::usage(format!("{}: not that of a workload: {error}", file.display()))
            .hint("docs/workloads.md shows every field")
    })?;
    Ok(document)
}

/// Has one of these nodes run a program that was pushed, and waits until it does.
pub(in crate::cmd) fn pushed(
    global: &Global,
    service: ServiceKey,
    sha256: Sha256Digest,
    (nodes, mut document): (Vec<String>, Map<String, Value>),
    patience: Duration,
) -> Result<Value, CliError> {
    let source = Source::Native { url: "hub://".to_owned(), sha256, blake3: None, binary: String::new() };
    document.insert("source".to_owned(), json!(source));
    let body = json!({ "spec": document, "nodes": nodes });
    let answer = ask(global, "PUT", &path(service), Some(&body))?;
    wait_for(global, service, answer, patience)
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

pub(super) fn read_document(file: &Path) -> Result<Map<String, Value>, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::usage(format!("{}: {error}", file.display()));
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    } else {
        bytes = fs::read(file).map_err(|error| crate::cmd::unread(file, &error))?;
    }
    serde_json::from_slice(&bytes).map_err(|error| failed(&error))
}

/// Reads the login of a registry: a line with USER:PASSWORD.
pub(super) fn registry_login(file: &Path) -> Result<Value, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::usage(format!("{}: {error}", file.display()));
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).map_err(|error| failed(&error))?
    } else {
        fs::read_to_string(file).map_err(|error| crate::cmd::unread(file, &error))?
    };
    match text.trim_end_matches(['\r', '\n']).split_once(':') {
        Some((user, password)) => Ok(json!({ "user": user, "password": password })),
        None => {
            Err(failed(&"it does not hold USER:PASSWORD")
                .hint("write both into one line, with ':' between them"))
        }
    }
}

/// Reads a keystore as the Blueprint Manager has it: files, at most one folder deep.
pub(super) fn keystore(folder: &Path) -> Result<BTreeMap<String, String>, CliError> {
    let mut files = BTreeMap::new();
    let mut bytes = 0usize;
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((at, prefix)) = folders.pop() {
        let failed = |error: std::io::Error| crate::cmd::unread(&at, &error);
        for entry in fs::read_dir(&at).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() && prefix.is_empty() {
                folders.push((entry.path(), format!("{name}/")));
            } else if kind.is_file() {
                let content = fs::read(entry.path()).map_err(failed)?;
                bytes = bytes.saturating_add(content.len());
                files.insert(format!("{prefix}{name}"), STANDARD.encode(content));
            } else {
                let text = format!("{} is no file of a keystore", entry.path().display());
                return Err(CliError::usage(text).hint("a keystore holds files, at most one folder deep"));
            }
        }
        if bytes > MAX_KEYSTORE_BYTES {
            return Err(CliError::usage(format!(
                "{} holds more than {MAX_KEYSTORE_BYTES} bytes",
                folder.display()
            ))
            .hint("name the folder of the keystore itself"));
        }
    }
    Ok(files)
}
