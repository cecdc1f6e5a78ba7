//! The default file and the manual's page, from the schema.

use std::fmt::Write;

use super::{Key, Schema, TableArray};

/// The file with all defaults.
pub(super) fn default_toml(schema: &Schema) -> String {
    let mut text = format!("# Configuration of {}. Every key is shown with its default.\n", schema.program);
    let top = schema.keys.iter().filter(|key| section_of(key.path).is_none());
    for key in top {
        push_key(&mut text, key, key.path, "");
    }
    for section in sections(schema) {
        push_line(&mut text, &format!("\n[{section}]"));
        for key in schema.keys.iter().filter(|key| section_of(key.path) == Some(section)) {
            push_key(&mut text, key, key.path.rsplit('.').next().unwrap_or(key.path), "");
        }
    }
    for array in schema.tables {
        push_line(&mut text, &format!("\n# Repeat for each {}:\n# [[{}]]", array.name, array.name));
        for key in array.keys {
            push_key(&mut text, key, key.path, "# ");
        }
    }
    text
}

/// The manual's page.
pub(super) fn markdown(schema: &Schema) -> String {
    let mut text = format!(
        "# Configuration of `{}`\n\nA flag `--set KEY=VALUE` outranks the environment, which outranks the file, \
         which outranks the default.\n\n| key | default | environment | meaning |\n|---|---|---|---|\n",
        schema.program
    );
    for key in schema.keys {
        let (default, help) = (default_cell(key), help_cell(key));
        push_line(
            &mut text,
            &format!("| `{}` | {default} | `{}` | {help} |", key.path, schema.env_name(key.path)),
        );
    }
    for array in schema.tables {
        push_table(&mut text, array);
    }
    text
}

/// The part of the page about one repeated table.
fn push_table(text: &mut String, array: &TableArray) {
    push_line(
        text,
        &format!(
            "\n## `[[{}]]`, any number of times, in the file only\n\n| key | default | meaning |\n|---|---|---|",
            array.name
        ),
    );
    for key in array.keys {
        push_line(text, &format!("| `{}` | {} | {} |", key.path, default_cell(key), help_cell(key)));
    }
}

/// The default as a table cell.
fn default_cell(key: &Key) -> String {
    match key.default {
        Some("") | None => "-".to_owned(),
        Some(default) => format!("`{}`", default.replace('|', "\\|")),
    }
}

/// The help as a table cell.
fn help_cell(key: &Key) -> String {
    key.help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// Sections in the order in which the schema first names them.
fn sections(schema: &Schema) -> Vec<&'static str> {
    let mut sections = Vec::new();
    for section in schema.keys.iter().filter_map(|key| section_of(key.path)) {
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    sections
}

/// What stands before the last dot.
fn section_of(path: &'static str) -> Option<&'static str> {
    path.rsplit_once('.').map(|(section, _)| section)
}

/// One key with its help above it; `lead` comments out a whole example.
fn push_key(text: &mut String, key: &Key, name: &str, lead: &str) {
    text.push('\n');
    for line in key.help.lines().map(str::trim) {
        push_line(text, format!("{lead}# {line}").trim_end());
    }
    match key.default {
        Some(default) => push_line(text, &format!("{lead}{name} = {}", toml_value(default))),
        None => push_line(text, format!("# {name} =").trim_end()),
    }
}

/// A default in TOML: numbers, truths and arrays as they are, the rest quoted.
fn toml_value(default: &str) -> String {
    let is_bare = default.starts_with('[')
        || matches!(default, "true" | "false")
        || default.parse::<i64>().is_ok_and(|number| number.to_string() == default);
    if is_bare { default.to_owned() } else { toml::Value::from(default).to_string() }
}

/// Adds a line.
fn push_line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
