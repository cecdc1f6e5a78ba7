//! `provider`: credentials of clouds, and whether they can be used.

mod given;
mod hidden;

use std::time::Duration;

use blueprint_common_runtime::cli::{
    CliError, Output, Table, eprint_line, print_json, print_line, printable,
};
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{ask, ask_within, rows, segment, text};
use crate::cli::Global;

/// Longest wait for a check; the hub gives up after 120 s.
const CHECK_WITHIN: Duration = Duration::from_secs(130);

/// Accounts at clouds: with whose credentials they are used, and whether they can be.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example: blueprint-hub provider ls
Credentials are looked for in the hub's sealed store, the file NAME.credentials in its state folder, its environment, and \
then where the cloud's own tools look; the first that are there count.")]
pub(crate) enum Provider {
    /// Lists providers, and where their credentials come from
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub provider ls")]
    Ls,
    /// Seals credentials in the hub's store; they are used from the next call on
    #[command(after_help = "Example: blueprint-hub provider configure digitalocean < token.txt
         blueprint-hub provider configure aws --from-env --check
         blueprint-hub provider configure gcp < key.json
         printf 'access_key_id = %s\\nsecret_access_key = %s\\n' \"$ID\" \"$SECRET\" | blueprint-hub provider configure aws
At a terminal it asks for each field and does not show what is secret; else it reads standard input: lines NAME = VALUE, one \
JSON object, or the bare token where there is one field alone. Credentials are never arguments: others would see those.")]
    Configure {
        /// Provider, such as digitalocean or aws
        name: String,
        /// Take them from this command's environment, by the names that `provider ls --output json` shows
        #[arg(long)]
        from_env: bool,
        /// Check the account with them afterwards
        #[arg(long)]
        check: bool,
        /// Also where machines stand there: credentials of another account would leave them unseen, and they go on costing money
        #[arg(long)]
        force: bool,
    },
    /// Forgets what is sealed; what else there is counts again
    #[command(visible_alias = "rm", after_help = "Example: blueprint-hub provider forget digitalocean")]
    Forget {
        /// Provider, such as digitalocean or aws
        name: String,
        /// Also where machines stand there: without credentials of their account they go on costing money
        #[arg(long)]
        force: bool,
    },
    /// Asks the cloud who the credentials belong to, what they allow, and whether the regions exist; costs nothing
    #[command(after_help = "Example: blueprint-hub provider check aws
Exit codes: 0 all is well, 1 something does not work, 4 the credentials are wrong or lack a right, 5 the provider is switched \
off, 6 the cloud cannot be reached or answers what nobody understands.")]
    Check {
        /// Provider, such as digitalocean or aws
        name: String,
    },
    /// Deletes what the hub made for itself there beside machines, such as the firewall that they stand behind
    #[command(after_help = "Example: blueprint-hub provider clean digitalocean
Only what carries this hub's name or tag goes, and only where no machine of it stands or is ordered; the next order makes it again.
Exit codes: 0 it is gone, 4 the credentials lack a right, 5 machines stand there, 6 the cloud cannot be reached.")]
    Clean {
        /// Provider, such as digitalocean or aws
        name: String,
    },
    /// Prints the least that the credentials have to allow, as the cloud takes it
    #[command(after_help = "Example: blueprint-hub provider policy aws > policy.json
For AWS it is a document of IAM with this hub's id in it, for Azure and Google Cloud a role, for DigitalOcean and Linode the scopes of a token, \
for Vultr permissions, for Scaleway permission sets, for Hivelocity what its contact has to be allowed.")]
    Policy {
        /// Provider, such as digitalocean or aws
        name: String,
        /// Where a key takes on a role: the document of the key, and not that of the role
        #[arg(long)]
        key: bool,
    },
}

fn path(name: &str, rest: &str) -> Result<String, CliError> {
    Ok(format!("/v1/accounts/{}/{rest}", segment(name)?))
}

fn credentials_path(name: &str, force: bool) -> Result<String, CliError> {
    path(name, if force { "credentials?force=true" } else { "credentials" })
}

impl Provider {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Ls => list(global),
            Self::Configure { name, from_env, check: is_checked, force } => {
                configure(global, &name, from_env, force)?;
                if is_checked { check(global, &name) } else { Ok(()) }
            }
            Self::Forget { name, force } => forget(global, &name, force),
            Self::Check { name } => check(global, &name),
            Self::Clean { name } => clean(global, &name),
            Self::Policy { name, key } => policy(global, &name, key),
        }
    }
}

fn list(global: &Global) -> Result<(), CliError> {
    let answer = ask(global, "GET", "/v1/accounts", None)?;
    if global.output == Output::Json {
        print_json(&answer);
        return Ok(());
    }
    let mut table =
        Table::new(&["PROVIDER", "STATE", "CREDENTIALS", "WHICH", "CALLS", "MACHINES", "CHECKED"]);
    for row in rows(&answer, "accounts") {
        let is_text = |name: &str| row.get(name).is_some_and(Value::is_string);
        let state = match row.get("enabled").and_then(Value::as_bool) {
            _ if is_text("discontinued") => "discontinued",
            _ if is_text("lacks") => "not built",
            Some(true) => "on",
            Some(false) | None => "off",
        };
        let source = match row.get("credentials").filter(|found| !found.is_null()) {
            Some(found) => text(found, "source"),
            None => "not needed".to_owned(),
        };
        let which = row.get("sealed").map_or_else(|| "-".to_owned(), |sealed| text(sealed, "shown"));
        let checked = match (text(row, "checked_at"), rows(row, "check_problems").len()) {
            (at, _) if at == "-" => at,
            (at, 0) => format!("ok, {at}"),
            (at, count) => format!("{count} wrong, {at}"),
        };
        let cells = [text(row, "name"), state.to_owned(), source, which];
        let calls = [text(row, "calls"), text(row, "machines"), checked];
        table.push(cells.into_iter().chain(calls).collect());
    }
    table.print();
    for row in rows(&answer, "accounts") {
        if let Some(ended) = row.get("discontinued").and_then(Value::as_str) {
            eprint_line(&printable(&format!("{}: {ended}", text(row, "name"))));
        }
        let problem = row.pointer("/credentials/problem").and_then(Value::as_str);
        let is_on = row.get("enabled").and_then(Value::as_bool) == Some(true);
        if let Some(problem) = problem.filter(|_| is_on) {
            eprint_line(&printable(&format!("{}: {problem}", text(row, "name"))));
        }
        if let Some(error) = row.get("error").and_then(Value::as_str) {
            eprint_line(&printable(&format!("{}: the last call failed: {error}", text(row, "name"))));
        }
    }
    Ok(())
}

fn configure(global: &Global, name: &str, from_env: bool, force: bool) -> Result<(), CliError> {
    let path = credentials_path(name, force)?;
    let accounts = ask(global, "GET", "/v1/accounts", None)?;
    let account = rows(&accounts, "accounts").iter().find(|row| text(row, "name") == name);
    let none = Value::Null;
    // What the hub does not know it refuses itself, with what it knows.
    let account = account.filter(|row| row.get("lacks").is_none_or(Value::is_null));
    let fields = rows(account.unwrap_or(&none), "fields");
    let given = match fields {
        [] => None,
        fields if from_env => Some(given::from_environment(name, fields, |name| std::env::var(name).ok())?),
        fields => Some(given::asked_for(name, fields)?),
    };
    let body = json!({ "text": given.as_ref().map_or("", |given| given.expose().as_str()) });
    let answer = ask(global, "PUT", &path, Some(&body))?;
    match global.output {
        Output::Json => print_json(&answer),
        Output::Table => print_line(&format!(
            "credentials of {name} are sealed in the store ({}) and used from the next call on",
            text(&answer, "shown")
        )),
    }
    let machines = answer.get("machines").and_then(Value::as_u64).unwrap_or(0);
    if machines > 0 {
        eprint_line(&format!(
            "{machines} machines stand at {name}: credentials of another account would leave them there unseen, and they would \
             go on costing money"
        ));
    }
    if account.and_then(|row| row.get("enabled")).and_then(Value::as_bool) == Some(false) {
        eprint_line(&format!(
            "{name} is switched off: set providers.{name}.enabled = true in hub.toml and start the hub again"
        ));
    }
    Ok(())
}

fn forget(global: &Global, name: &str, force: bool) -> Result<(), CliError> {
    let answer = ask(global, "DELETE", &credentials_path(name, force)?, None)?;
    match global.output {
        Output::Json => print_json(&answer),
        Output::Table => {
            let now = answer.get("credentials").unwrap_or(&Value::Null);
            print_line(&match text(now, "source").as_str() {
                "none" => format!("credentials of {name} are forgotten, and there are no others"),
                source => format!("credentials of {name} are forgotten; those of the {source} count now"),
            });
        }
    }
    let machines = answer.get("machines").and_then(Value::as_u64).unwrap_or(0);
    let has_none = answer.pointer("/credentials/source").and_then(Value::as_str) == Some("none");
    if machines > 0 && has_none {
        eprint_line(&format!(
            "{machines} machines stand at {name}, and the hub cannot delete them without credentials"
        ));
    }
    Ok(())
}

fn check(global: &Global, name: &str) -> Result<(), CliError> {
    let answer = ask_within(global, "POST", &path(name, "check")?, None, CHECK_WITHIN)?;
    match global.output {
        Output::Json => print_json(&answer),
        Output::Table => show(&answer),
    }
    let count = rows(&answer, "problems").len();
    if count == 0 {
        return Ok(());
    }
    let lacks: Vec<_> = rows(&answer, "rights")
        .iter()
        .filter(|right| text(right, "state") == "missing")
        .map(|right| text(right, "name"))
        .collect();
    let noun = if count == 1 { "thing does" } else { "things do" };
    let failed = format!("{count} {noun} not work with the account of {name}");
    if lacks.is_empty() {
        return Err(
            CliError::failure(failed).hint("what to do stands beside each of them; check again after that")
        );
    }
    Err(CliError::denied(format!("{failed}: missing are {}", lacks.join(", ")))
        .hint(format!("`blueprint-hub provider policy {name}` prints all that is needed")))
}

fn clean(global: &Global, name: &str) -> Result<(), CliError> {
    let answer = ask_within(global, "POST", &path(name, "clean")?, None, CHECK_WITHIN)?;
    if global.output == Output::Json {
        print_json(&answer);
        return Ok(());
    }
    let lines = |key: &str| rows(&answer, key).iter().filter_map(Value::as_str).collect::<Vec<_>>();
    for removed in lines("removed") {
        print_line(&printable(&format!("deleted: {removed}")));
    }
    for kept in lines("kept") {
        print_line(&printable(&format!("left: {kept}")));
    }
    if lines("removed").is_empty() {
        print_line(&format!("nothing of this hub's was left at {name} to delete"));
    }
    Ok(())
}

fn show(answer: &Value) {
    let joined = |state: &str| {
        let named = rows(answer, "rights").iter().filter(|right| text(right, "state") == state);
        let names: Vec<_> = named.map(|right| text(right, "name")).collect();
        if names.is_empty() { "-".to_owned() } else { names.join(" ") }
    };
    let regions: Vec<_> = rows(answer, "regions")
        .iter()
        .map(|region| match region.get("exists").and_then(Value::as_bool) {
            Some(true) => text(region, "name"),
            Some(false) => format!("{} (no)", text(region, "name")),
            None => format!("{} (not told)", text(region, "name")),
        })
        .collect();
    let quotas: Vec<_> = rows(answer, "quotas")
        .iter()
        .map(|quota| format!("{} {}", text(quota, "limit"), text(quota, "of")))
        .collect();
    let listed =
        |words: Vec<String>, none: &str| if words.is_empty() { none.to_owned() } else { words.join(" ") };
    let mut table = Table::new(&["WHAT", "VALUE"]);
    for (what, value) in [
        ("account", text(answer, "account")),
        ("who calls", text(answer, "identity")),
        ("rights that are there", joined("held")),
        ("rights that are missing", joined("missing")),
        ("not tried, since that makes or ends something", joined("untried")),
        ("regions", listed(regions, "all")),
        ("quota", listed(quotas, "not told")),
    ] {
        table.push(vec![what.to_owned(), value]);
    }
    table.print();
    for (key, word) in [("problems", "problem"), ("notes", "note")] {
        for line in rows(answer, key).iter().filter_map(Value::as_str) {
            eprint_line(&printable(&format!("{word}: {line}")));
        }
    }
}

fn policy(global: &Global, name: &str, key: bool) -> Result<(), CliError> {
    let answer = ask_within(global, "GET", &path(name, "policy")?, None, CHECK_WITHIN)?;
    let field = if key { "key_policy" } else { "policy" };
    let document = answer.get(field).filter(|document| !document.is_null());
    if key && document.is_none() {
        return Err(CliError::usage(format!(
            "no role is taken on for {name}, so there is one document alone"
        ))
        .hint(format!("`blueprint-hub provider policy {name}` prints it")));
    }
    let scopes: Vec<_> = rows(&answer, "scopes").iter().filter_map(Value::as_str).collect();
    match (global.output, document) {
        // It is a document whichever way it is printed.
        (_, Some(document)) => print_json(document),
        (Output::Json, None) => print_json(&answer),
        (Output::Table, None) => scopes.iter().for_each(|scope| print_line(scope)),
    }
    if let Some(role) = answer.get("role").and_then(Value::as_str).filter(|_| !key) {
        eprint_line(&format!("this is for the role {role}; the key that takes it on needs `--key`"));
    }
    Ok(())
}
