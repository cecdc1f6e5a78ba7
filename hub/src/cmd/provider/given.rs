//! What the operator gives as credentials: at a terminal, on standard input, or in the environment.

use std::io::{IsTerminal, Read};

use blueprint_common_runtime::cli::{CliError, eprint_line};
use blueprint_common_types::Secret;
use serde_json::{Map, Value};

use super::super::client::{rows, text};
use super::hidden;

/// Longest text that is read, in bytes.
const MAX_TEXT: u64 = 48 * 1024;

/// Asks at a terminal, or reads standard input to its end.
pub(super) fn asked_for(name: &str, fields: &[Value]) -> Result<Secret<String>, CliError> {
    if std::io::stdin().is_terminal() {
        return at_terminal(fields);
    }
    let mut given = String::new();
    let read = std::io::stdin().take(MAX_TEXT + 1).read_to_string(&mut given);
    let given = Secret::new(given);
    read.map_err(|error| {
        CliError::usage(format!("standard input cannot be read: {error}"))
            .hint(format!("`blueprint-hub provider configure {name} < FILE`"))
    })?;
    if given.expose().trim().is_empty() {
        return Err(CliError::usage("standard input is empty").hint(format!(
            "`blueprint-hub provider configure {name} < FILE`, or run it at a terminal, or give --from-env"
        )));
    }
    if u64::try_from(given.expose().len()).unwrap_or(u64::MAX) > MAX_TEXT {
        return Err(CliError::usage("standard input has more than 48 KiB, so it is something else"));
    }
    Ok(given)
}

fn at_terminal(fields: &[Value]) -> Result<Secret<String>, CliError> {
    let mut given = Map::new();
    for field in fields {
        let name = text(field, "name");
        let is_required = field.get("required").and_then(Value::as_bool) == Some(true);
        let is_secret = field.get("secret").and_then(Value::as_bool) == Some(true);
        let hint = match (is_required, is_secret) {
            (true, true) => " (not shown)",
            (true, false) => "",
            (false, true) => " (not shown; nothing for none)",
            (false, false) => " (nothing for none)",
        };
        eprint_line(&format!("{name}{hint}:"));
        let line = if is_secret { hidden::line()? } else { hidden::shown_line()? };
        let value = line.expose().trim();
        if value.is_empty() && is_required {
            return Err(CliError::usage(format!("{name} is needed; nothing was stored")));
        }
        if !value.is_empty() {
            given.insert(name, Value::from(value));
        }
    }
    Ok(Secret::new(Value::Object(given).to_string()))
}

/// The variables that the fields name; the first that is set counts.
pub(super) fn from_environment(
    name: &str,
    fields: &[Value],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Secret<String>, CliError> {
    let mut given = Map::new();
    for field in fields {
        let names: Vec<_> = rows(field, "variables").iter().filter_map(Value::as_str).collect();
        let set = names.iter().find_map(|name| variable(name).filter(|value| !value.trim().is_empty()));
        match set {
            Some(value) => drop(given.insert(text(field, "name"), Value::from(value.trim()))),
            None if field.get("required").and_then(Value::as_bool) == Some(true) => {
                return Err(CliError::usage(format!("the environment has no {}", names.join(" or "))).hint(
                    format!("set it, or give the credentials on standard input: `blueprint-hub provider configure {name} < FILE`"),
                ));
            }
            None => {}
        }
    }
    Ok(Secret::new(Value::Object(given).to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_environment_gives_the_first_name_that_is_set_or_says_which_is_not() {
        let fields = [
            json!({ "name": "token", "required": true, "secret": true, "variables": ["A_TOKEN", "B_TOKEN"] }),
            json!({ "name": "more", "required": false, "secret": true, "variables": ["MORE"] }),
        ];
        let found = |set: &'static [(&str, &str)]| {
            from_environment("cloud", &fields, |name| {
                set.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let both = found(&[("B_TOKEN", " canary\n"), ("A_TOKEN", "")]).unwrap();
        assert_eq!(both.expose(), r#"{"token":"canary"}"#);
        let error = found(&[("MORE", "canary")]).unwrap_err();
        assert_eq!(error.message, "the environment has no A_TOKEN or B_TOKEN");
        assert!(error.hint.is_some_and(|hint| hint.contains("configure cloud <")));
    }
}
