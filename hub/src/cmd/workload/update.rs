//! `workload update`, `rollback` and `history`: from one version to the next, and back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use blueprint_common_runtime::cli::{
    CliError, Output, Table, eprint_line, print_json, print_line, printable,
};
use blueprint_common_types::ServiceKey;
use blueprint_common_types::workload::{Blake3Digest, Sha256Digest, Source, WorkloadSpec};
use clap::Args;
use serde_json::{Map, Value, json};

use super::run::{LOOK, keystore, read_document, registry_login, variable};
use super::{finished, path, show};
use crate::cli::Global;
use crate::cmd::client::{ask, rows, text};
use crate::cmd::seconds;

/// What `update --help` ends with.
pub(crate) const UPDATE_HELP: &str =
    "Example: blueprint-hub workload update 7/42 --image ghcr.io/example/demo@sha256:HEX --strategy canary --canary 10,50 --wait
What is not given stays as it is. docs/updates.md explains strategies, gates and what happens to data.";

/// What `rollback --help` ends with.
pub(crate) const ROLLBACK_HELP: &str = "Example: blueprint-hub workload rollback 7/42 --version 3 --wait
Without --version it goes back to the last version that served before; blueprint-hub workload history shows them.";

/// Time that `--wait` means.
const LONG: &str = "1h";

/// How an update goes; what is not given is as docs/updates.md says.
#[derive(Debug, Args)]
struct Plan {
    /// rolling, blue-green, canary or recreate; blue-green where not given
    #[arg(long, short = 's', value_parser = ["rolling", "blue-green", "canary", "recreate"])]
    strategy: Option<String>,
    /// Hundredths of the requests that a canary gets, step by step
    #[arg(long, value_name = "PERCENT,..", value_delimiter = ',')]
    canary: Option<Vec<u8>>,
    /// Of each step of a canary; of blue-green, how long the old version is kept after the move
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pause: Option<u64>,
    /// How long the next version has to be healthy without a break before it gets anything
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    health_time: Option<u64>,
    /// Until when it has to be healthy for the first time
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    start_time: Option<u64>,
    /// How long open requests of the version that goes may last
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    drain: Option<u64>,
    /// Leaves out the health time: it is enough that it is healthy once
    #[arg(long)]
    skip_health_check: bool,
}

impl Plan {
    fn document(&self) -> Value {
        let fields = [
            ("strategy", self.strategy.as_ref().map(|it| json!(it))),
            ("canary", self.canary.as_ref().map(|it| json!(it))),
            ("pause_secs", self.pause.map(|it| json!(it))),
            ("health_secs", self.health_time.map(|it| json!(it))),
            ("start_secs", self.start_time.map(|it| json!(it))),
            ("drain_secs", self.drain.map(|it| json!(it))),
            ("skip_health_check", self.skip_health_check.then_some(json!(true))),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect())
    }
}

/// An image by its digest.
#[derive(Debug, Clone)]
struct Image(String, Sha256Digest);

fn image(text: &str) -> Result<Image, String> {
    let (name, digest) =
        text.split_once("@sha256:").ok_or("not IMAGE@sha256:HEX; a tag may mean another image tomorrow")?;
    let digest = digest.parse().map_err(|error| format!("{error}"))?;
    Ok(Image(name.to_owned(), digest))
}

/// Brings a new version of a running workload in place of the old one.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Service, as BLUEPRINT/SERVICE
    service: ServiceKey,
    /// Document of the next version, JSON; `-` for standard input. Without it what is not given stays as it is
    #[arg(long, short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// Image of the next version
    #[arg(long, short = 'i', value_name = "IMAGE@sha256:HEX", value_parser = image, conflicts_with_all = ["url", "path"])]
    image: Option<Image>,
    /// Program or archive of the next version, or hub:// for what was pushed
    #[arg(long, requires = "sha256", conflicts_with = "path")]
    url: Option<String>,
    /// SHA-256 that the file has to have
    #[arg(long, value_name = "HEX", requires = "url")]
    sha256: Option<Sha256Digest>,
    /// BLAKE3 that it has to have, too
    #[arg(long, value_name = "HEX", requires = "url")]
    blake3: Option<Blake3Digest>,
    /// Path of the program within the archive
    #[arg(long, value_name = "PATH", requires = "url")]
    binary: Option<String>,
    /// Program that is on the node already; for development
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Variable of its environment, NAME=VALUE, over those that it has; may be repeated
    #[arg(long, short = 'e', value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Folder with the keys of the blueprint, in place of those that it has
    #[arg(long, value_name = "DIR")]
    keystore: Option<PathBuf>,
    /// File with USER:PASSWORD of the image's registry, in place of what it has; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "path"])]
    registry_login: Option<PathBuf>,
    #[command(flatten)]
    plan: Plan,
    /// Takes the update that is under way back
    #[arg(long, conflicts_with_all = ["file", "image", "url", "path", "env", "keystore", "registry_login"])]
    abort: bool,
    /// Waits until it is through or taken back, at most so long
    #[arg(long, short = 'w', value_name = "TIME", num_args = 0..=1, default_missing_value = LONG, value_parser = seconds)]
    wait: Option<u64>,
}

impl Update {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let service = self.service;
        let place = format!("{}/update", path(service));
        if self.abort {
            let answer = ask(global, "DELETE", &place, None)?;
            return over(global, service, answer, self.wait, true);
        }
        let before = ask(global, "GET", &path(service), None)?;
        let spec = self.spec(&before)?;
        let hint = "docs/workloads.md shows every field";
        spec.check().map_err(|error| CliError::usage(error.to_string()).hint(hint))?;
        let mut body = json!({ "spec": spec, "plan": self.plan.document() });
        if let Some(fields) = body.as_object_mut() {
            fields.extend(before.get("generation").map(|it| ("generation".to_owned(), it.clone())));
            if let Some(folder) = &self.keystore {
                fields.insert("keystore".to_owned(), json!(keystore(folder)?));
            }
            if let Some(file) = &self.registry_login {
                fields.insert("registry".to_owned(), registry_login(file)?);
            }
        }
        let answer = ask(global, "POST", &place, Some(&body))?;
        super::run::tell_login(&answer);
        over(global, service, answer, self.wait, false)
    }

    fn spec(&self, before: &Value) -> Result<WorkloadSpec, CliError> {
        let document = match &self.file {
            Some(file) => read_document(file)?,
            None => before.get("spec").and_then(Value::as_object).cloned().unwrap_or_else(Map::new),
        };
        let mut spec: WorkloadSpec = serde_json::from_value(Value::Object(document))
            .map_err(|error| CliError::usage(format!("the document is not that of a workload: {error}")))?;
        if let Some(source) = self.source(&spec.source) {
            spec.source = source;
        }
        spec.env.extend(self.env.iter().cloned());
        Ok(spec)
    }

    fn source(&self, before: &Source) -> Option<Source> {
        if let Some(Image(image, digest)) = &self.image {
            let (ports, volumes) = match before {
                Source::Container { ports, volumes, .. } => (ports.clone(), volumes.clone()),
                Source::Native { .. } | Source::Testing { .. } | Source::Wasm {} => (Vec::new(), Vec::new()),
            };
            return Some(Source::Container { image: image.clone(), digest: *digest, ports, volumes });
        }
        if let (Some(url), Some(sha256)) = (&self.url, self.sha256) {
            let same = match before {
                Source::Native { binary, .. } => binary.clone(),
                Source::Container { .. } | Source::Testing { .. } | Source::Wasm {} => String::new(),
            };
            let binary = self.binary.clone().unwrap_or(same);
            return Some(Source::Native { url: url.clone(), sha256, blake3: self.blake3, binary });
        }
        self.path.as_ref().map(|path| Source::Testing { path: path.clone() })
    }
}

/// Goes back to an earlier version of a workload.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Service, as BLUEPRINT/SERVICE
    service: ServiceKey,
    /// Version to go back to; the last one that served before, where not given
    #[arg(long, short = 'v', value_name = "NUMBER")]
    version: Option<u32>,
    /// Taken for others' scripts: nothing is asked here
    #[arg(long, short = 'y', hide = true)]
    yes: bool,
    #[command(flatten)]
    plan: Plan,
    /// Waits until it is through or taken back, at most so long
    #[arg(long, short = 'w', value_name = "TIME", num_args = 0..=1, default_missing_value = LONG, value_parser = seconds)]
    wait: Option<u64>,
}

impl Rollback {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let place = format!("{}/rollback", path(self.service));
        let mut body = json!({ "plan": self.plan.document() });
        if let (Some(version), Some(fields)) = (self.version, body.as_object_mut()) {
            fields.insert("version".to_owned(), json!(version));
        }
        let answer = ask(global, "POST", &place, Some(&body))?;
        over(global, self.service, answer, self.wait, false)
    }
}

/// Shows what came of it: at once, or once it is over.
fn over(
    global: &Global,
    service: ServiceKey,
    mut answer: Value,
    wait: Option<u64>,
    is_abort: bool,
) -> Result<(), CliError> {
    let wanted = answer.pointer("/update/to").and_then(Value::as_u64);
    if let Some(seconds) = wait {
        answer = wait_for(global, service, answer, Duration::from_secs(seconds))?;
        let version = answer.get("version").and_then(Value::as_u64);
        if !is_abort && wanted.is_some() && version != wanted {
            let reason = answer.pointer("/taken_back/reason").and_then(Value::as_str);
            let reason = reason.unwrap_or("somebody changed the workload meanwhile");
            let text = format!("{service} was not updated, version {} serves: {reason}", shown(&answer));
            let hint =
                "blueprint-hub workload history shows what became of it; blueprint-hub logs shows its output";
            return Err(CliError::failure(text).hint(hint));
        }
        finished(global, &answer);
        return Ok(());
    }
    show(global, &answer);
    Ok(())
}

fn shown(answer: &Value) -> String {
    answer.get("version").map(Value::to_string).unwrap_or_default()
}

fn wait_for(
    global: &Global,
    service: ServiceKey,
    mut answer: Value,
    patience: Duration,
) -> Result<Value, CliError> {
    let (began, mut told) = (Instant::now(), String::new());
    loop {
        let Some(update) = answer.get("update").filter(|update| !update.is_null()) else {
            return ask(global, "GET", &path(service), None);
        };
        let state = [text(update, "state"), text(update, "state_reason")].join(" ");
        let now = format!("{service}: {} [{}]", text(update, "doing"), state.trim());
        if now != told {
            eprint_line(&printable(&now));
            told = now;
        }
        if began.elapsed() >= patience {
            let text = format!("{service} is still being updated after {} s", patience.as_secs());
            return Err(CliError::unavailable(text)
                .hint("it goes on; blueprint-hub workload show tells how, update --abort takes it back"));
        }
        std::thread::sleep(LOOK);
        answer = match ask(global, "GET", &path(service), None) {
            Ok(answer) => answer,
            // The hub starts anew, and goes on with it.
            Err(error)
                if began.elapsed() < patience
                    && error.exit == blueprint_common_runtime::cli::Exit::Unavailable =>
            {
                let now = format!("{service}: {}", error.message);
                if now != told {
                    eprint_line(&now);
                    told = now;
                }
                continue;
            }
            Err(error) => return Err(error),
        };
    }
}

/// Tells of an update under way, or of the one that was taken back last.
pub(super) fn tell(answer: &Value) {
    if let Some(update) = answer.get("update").filter(|update| !update.is_null()) {
        let strategy = text(update, "strategy");
        print_line(&printable(&format!("update by {strategy}: {}", text(update, "doing"))));
    }
    if let Some(version) = answer.get("taken_back").filter(|version| !version.is_null()) {
        let number = version.get("version").map(Value::to_string).unwrap_or_default();
        let (outcome, reason) = (text(version, "outcome"), text(version, "reason"));
        print_line(&printable(&format!("version {number} {outcome}: {reason}")));
    }
}

/// Shows the versions that are kept.
pub(super) fn history(global: &Global, service: ServiceKey, limit: usize) -> Result<(), CliError> {
    let mut answer = ask(global, "GET", &format!("{}/versions", path(service)), None)?;
    let numbers: Vec<u64> =
        rows(&answer, "versions").iter().filter_map(|row| row.get("version")?.as_u64()).collect();
    if let Some(versions) = answer.get_mut("versions").and_then(Value::as_array_mut) {
        versions.truncate(limit);
    }
    match global.output {
        Output::Json => print_json(&answer),
        Output::Table => {
            let mut table =
                Table::new(&["VERSION", "OUTCOME", "STRATEGY", "SOURCE", "MADE", "BY", "REPEATS", "REASON"]);
            for row in rows(&answer, "versions") {
                let number = |name: &str| {
                    row.get(name).filter(|it| !it.is_null()).map(Value::to_string).unwrap_or_default()
                };
                table.push(vec![
                    number("version"),
                    text(row, "outcome"),
                    text(row, "strategy"),
                    text(row, "source"),
                    text(row, "made_at"),
                    text(row, "by"),
                    number("repeats"),
                    text(row, "reason"),
                ]);
            }
            table.print();
            let keep = answer.get("keep_versions").map(Value::to_string).unwrap_or_default();
            let is_all = numbers.first().is_none_or(|newest| u64::try_from(numbers.len()) == Ok(*newest));
            let gone = if is_all { "" } else { "; those that are missing here were thrown away" };
            print_line(&format!("{keep} versions are kept (workloads.keep_versions){gone}"));
        }
    }
    Ok(())
}
