//! `import`: files of the Blueprint Manager's remote mode, and of tools like it.

pub(in crate::cmd) mod file;
mod plan;
mod toml;

use std::path::{Path, PathBuf};

use blueprint_common_runtime::cli::{
    CliError, Exit, Output, Table, eprint_line, print_json, print_line, printable,
};
use blueprint_common_runtime::state::{Mode, StateDir};
use blueprint_hub_import_core::{Finding, KnownMachines, Report, Verdict};
use clap::Args;
use serde_json::{Value, json};

use self::plan::Plan;
use super::client::{ask, segment};
use super::deploy::confirm;
use super::remotes;
use crate::cli::Global;
use crate::files;

/// Reads files of the Manager's remote mode and of tools like it, says what becomes of every key, and stores what is understood.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub import ~/.blueprint/remote-config.toml --dry-run
         blueprint-hub import remote-config.toml deployment-policy.json --yes
         blueprint-hub import providers.yml --yes --output json
Settings go into hub.toml, credentials are sealed in the running hub's store, places for `deploy --remote` into remotes.toml, and \
machines that others made are shown by `inventory --known`. docs/migration.md lists the files and what becomes of each key.
Exit codes: 0 imported, 2 a file is none that is known, 3 a file is missing, 6 credentials are there and no hub runs, 78 the \
hub's configuration is wrong already; nothing is stored then.")]
pub(crate) struct Import {
    /// Files, TOML, JSON, YAML, CSV or lists of variables; `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Says what would be stored, and stores nothing
    #[arg(long)]
    dry_run: bool,
    /// Stores without asking
    #[arg(long, short = 'y')]
    yes: bool,
    /// Also in place of settings, credentials and remotes that are there and differ
    #[arg(long)]
    replace: bool,
    /// Stores nothing, and fails, where a key is unknown
    #[arg(long)]
    strict: bool,
    /// Leaves credentials out, so that no hub has to run
    #[arg(long)]
    without_credentials: bool,
}

impl Import {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let mut read = Vec::new();
        for path in &self.files {
            let (label, bytes) = file::read(path)?;
            let mut report = file::understand(&label, &bytes)?;
            for machine in &mut report.machines {
                machine.source.clone_from(&label);
            }
            read.push((label, report));
        }
        let (labels, reports): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        let plan = self.plan(global, &reports)?;
        let unknown: usize = reports.iter().map(|report| report.count(Verdict::Unknown)).sum();
        let is_refused = self.strict && unknown > 0;
        let is_stored = !self.dry_run && !is_refused && !plan.is_empty();
        if global.output == Output::Table {
            show(&labels, &reports, &plan);
        }
        if is_stored {
            if !self.yes {
                confirm("Store this?", super::deploy::PLAN_ALONE)?;
            }
            store(global, &plan)?;
        }
        match global.output {
            Output::Json => print_json(&document(&labels, &reports, &plan, is_stored)),
            Output::Table => print_line(&end(&plan, is_stored)),
        }
        if is_refused {
            return Err(CliError::usage(format!("{unknown} keys are unknown; nothing was stored"))
                .hint("mend or remove them, or import without --strict"));
        }
        Ok(())
    }

    fn plan(&self, global: &Global, reports: &[Report]) -> Result<Plan, CliError> {
        let mut plan = Plan::default();
        plan.settings(global, reports, self.replace)?;
        let has_credentials = reports.iter().any(|report| !report.credentials.is_empty());
        if has_credentials && !self.without_credentials {
            let accounts = match ask(global, "GET", "/v1/accounts", None) {
                Ok(accounts) => Some(accounts),
                Err(error) if self.dry_run && error.exit == Exit::Unavailable => None,
                Err(error) => {
                    return Err(error.hint(
                        "the running hub seals credentials: start it with `blueprint-hub serve`, or give --without-credentials",
                    ));
                }
            };
            plan.credentials(reports, accounts.as_ref(), self.replace);
        }
        plan.remotes(global, reports, self.replace)?;
        plan.machines = reports.iter().flat_map(|report| report.machines.clone()).collect();
        plan.steps.splice(0..0, reports.iter().flat_map(|report| report.steps.clone()));
        Ok(plan)
    }
}

/// Stores credentials first: they may be refused, and all else is done again by the same import.
fn store(global: &Global, plan: &Plan) -> Result<(), CliError> {
    let state = StateDir::open_shared(global.state()?)?;
    as_planned(global, plan, "nothing was stored")?;
    let mut known = known(global)?;
    if !known.add(plan.machines.clone()) {
        return Err(CliError::failure(
            "the hub would know more than 10000 machines of others; nothing was stored",
        )
        .hint("forget some with `blueprint-hub inventory --forget NAME`, or import a shorter file"));
    }
    for sealing in &plan.sealings {
        // Never by force: where machines stand, the hub refuses others, and says what to do.
        let path = format!("/v1/accounts/{}/credentials", segment(&sealing.provider)?);
        ask(global, "PUT", &path, Some(&json!({ "text": sealing.text.expose() })))?;
    }
    if let Some(change) = &plan.remotes {
        let text = change.after.write().map_err(|error| CliError::failure(error.to_string()))?;
        state.write(files::REMOTES, text.as_bytes(), Mode::Plain)?;
    }
    if !plan.machines.is_empty() {
        keep(&state, &known)?;
    }
    if let Some((path, text)) = &plan.config {
        same(path, &plan::read(path)?, &text.before, "all but the settings was stored")?;
        write(&state, path, &text.after)?;
    }
    Ok(())
}

/// Refuses where a file is not what the plan was made of: it was shown to somebody, who may have taken long to agree.
fn as_planned(global: &Global, plan: &Plan, so_far: &str) -> Result<(), CliError> {
    if let Some((path, text)) = &plan.config {
        same(path, &plan::read(path)?, &text.before, so_far)?;
    }
    if let Some(change) = &plan.remotes {
        same(&global.state()?.join(files::REMOTES), &remotes::kept(global)?, &change.before, so_far)?;
    }
    Ok(())
}

fn same<T: PartialEq>(path: &Path, now: &T, before: &T, so_far: &str) -> Result<(), CliError> {
    if now == before {
        return Ok(());
    }
    Err(CliError::failure(format!("{} was changed since it was read; {so_far}", path.display()))
        .hint("import again: what is stored already stays as it is"))
}

/// Writes a file whole: the one of the state folder, or one that was named with --config.
fn write(state: &StateDir, path: &Path, text: &str) -> Result<(), CliError> {
    if path == state.path(files::CONFIG) {
        state.write(files::CONFIG, text.as_bytes(), Mode::Plain)?;
        return Ok(());
    }
    let failed =
        |error: std::io::Error| CliError::failure(format!("cannot write {}: {error}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    std::fs::write(beside.path(), text).map_err(failed)?;
    if let Ok(about) = std::fs::metadata(path) {
        beside.as_file().set_permissions(about.permissions()).map_err(failed)?;
    }
    beside.as_file().sync_all().map_err(failed)?;
    beside.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Machines of others that this hub knows.
pub(super) fn known(global: &Global) -> Result<KnownMachines, CliError> {
    let path = global.state()?.join(files::KNOWN);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(KnownMachines::default()),
        Err(error) => {
            return Err(CliError::failure(format!("cannot read {}: {error}", path.display()))
                .hint("run it as the user that the hub runs as"));
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        CliError::failure(format!("{}: {error}", path.display())).hint("move the file away and import again")
    })
}

/// Writes them down.
pub(super) fn keep(state: &StateDir, known: &KnownMachines) -> Result<(), CliError> {
    let text = serde_json::to_vec_pretty(known)
        .map_err(|error| CliError::failure(format!("the machines cannot be written: {error}")))?;
    state.write(files::KNOWN, &text, Mode::Plain)?;
    Ok(())
}

fn show(labels: &[String], reports: &[Report], plan: &Plan) {
    for (label, report) in labels.iter().zip(reports) {
        let count = |verdict| report.count(verdict);
        print_line(&printable(&format!(
            "{label}: {}, {} keys understood, {} refused, {} not applicable, {} unknown",
            report.kind.word(),
            count(Verdict::Understood),
            count(Verdict::Refused),
            count(Verdict::NotApplicable),
            count(Verdict::Unknown),
        )));
        let mut table = Table::new(&["KEY", "IS", "WHAT BECOMES OF IT"]);
        for Finding { key, verdict, text } in &report.findings {
            table.push(vec![key.clone(), verdict.word().to_owned(), text.clone()]);
        }
        table.print();
    }
    if !plan.outcomes.is_empty() {
        let mut table = Table::new(&["STORED", "WHAT", "OUTCOME", "VALUE"]);
        for (part, outcome) in &plan.outcomes {
            let cells = [*part, outcome.subject.as_str(), outcome.word, outcome.text.as_str()];
            table.push(cells.map(str::to_owned).to_vec());
        }
        table.print();
    }
    for step in &plan.steps {
        eprint_line(&printable(&format!("by hand: {step}")));
    }
}

fn end(plan: &Plan, is_stored: bool) -> String {
    if plan.is_empty() {
        return "there is nothing to store".to_owned();
    }
    let sets = |part: &str| {
        plan.outcomes.iter().filter(|(own, outcome)| *own == part && outcome.word == "set").count()
    };
    let word = if is_stored { "stored" } else { "would be stored" };
    let again =
        if is_stored && plan.config.is_some() { "; start the hub again to use the settings" } else { "" };
    format!(
        "{word}: {} settings, credentials of {} providers, {} remotes, {} machines of others{again}",
        sets("setting"),
        sets("credentials"),
        sets("remote"),
        plan.machines.len(),
    )
}

fn document(labels: &[String], reports: &[Report], plan: &Plan, is_stored: bool) -> Value {
    let files: Vec<Value> = labels
        .iter()
        .zip(reports)
        .map(|(label, report)| {
            json!({
                "file": label,
                "kind": report.kind,
                "understood": report.count(Verdict::Understood),
                "refused": report.count(Verdict::Refused),
                "not_applicable": report.count(Verdict::NotApplicable),
                "unknown": report.count(Verdict::Unknown),
                "findings": report.findings,
            })
        })
        .collect();
    let part = |name: &str| -> Vec<Value> {
        plan.outcomes.iter().filter(|(own, _)| *own == name).map(|(_, outcome)| outcome.json()).collect()
    };
    json!({
        "stored": is_stored,
        "files": files,
        "settings": part("setting"),
        "credentials": part("credentials"),
        "remotes": part("remote"),
        "machines": plan.machines,
        "by_hand": plan.steps,
        "restart": is_stored && plan.config.is_some(),
    })
}
