//! Reading the sources into [`Settings`], in the order of their rank.

use std::fs;
use std::path::Path;

use super::nearest::nearest;
use super::settings::{Origin, Value};
use super::{Key, Problems, Schema, Settings, Sources, TableArray};

/// Loads defaults, file, environment and flags, each over the one before.
pub(super) fn load(schema: &Schema, sources: &Sources) -> (Settings, Problems) {
    let mut problems = Problems::new();
    let mut settings = defaults(schema.keys, String::new());
    if let Some(path) = &sources.file {
        match read_file(path) {
            Ok(table) => File { schema, path }.load(&table, &mut settings, &mut problems),
            Err(text) => problems.add(path.display().to_string(), text),
        }
    }
    load_env(schema, &sources.env, &mut settings, &mut problems);
    load_flags(schema, &sources.flags, &mut settings, &mut problems);
    (settings, problems)
}

/// Settings in which every key has its default.
fn defaults(keys: &'static [Key], prefix: String) -> Settings {
    let values = keys.iter().filter_map(|key| {
        let text = key.default?.to_owned();
        Some((key.path, Value { text, origin: Origin::Default }))
    });
    Settings {
        prefix,
        keys: keys.iter().map(|key| key.path).collect(),
        values: values.collect(),
        ..Settings::default()
    }
}

/// Reads and parses the file.
fn read_file(path: &Path) -> Result<toml::Table, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read the file: {error}"))?;
    parse(&text)
}

/// Parses the text of a file; the error says in which line and column it is.
fn parse(text: &str) -> Result<toml::Table, String> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let before = text.get(..at).unwrap_or(text);
        let line = before.matches('\n').count().saturating_add(1);
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()).saturating_add(1);
        format!("line {line}, column {column}: {}", error.message())
    })
}

/// A file being loaded.
struct File<'a> {
    schema: &'a Schema,
    path: &'a Path,
}

impl File<'_> {
    /// Takes over everything in the parsed file.
    fn load(&self, table: &toml::Table, settings: &mut Settings, problems: &mut Problems) {
        self.load_table("", table, settings, problems);
    }

    /// Takes over one section; `section` is empty or ends in a dot.
    fn load_table(
        &self,
        section: &str,
        table: &toml::Table,
        settings: &mut Settings,
        problems: &mut Problems,
    ) {
        for (name, value) in table {
            let path = format!("{section}{name}");
            if let Some(array) = self.schema.tables.iter().find(|array| array.name == path) {
                self.load_rows(array, value, settings, problems);
            } else if let Some(key) = self.schema.keys.iter().find(|key| key.path == path) {
                self.set(key, value, settings, problems);
            } else if self.is_section(&path) {
                match value.as_table() {
                    Some(inner) => self.load_table(&format!("{path}."), inner, settings, problems),
                    None => problems.add(&path, format!("is a section: write [{path}]")),
                }
            } else {
                let names = self.schema.keys.iter().map(|key| key.path);
                let names = names.chain(self.schema.tables.iter().map(|array| array.name));
                problems
                    .add(&path, unknown(&format!("key in {}", self.path.display()), nearest(&path, names)));
            }
        }
    }

    /// Whether some key lies below `path`.
    fn is_section(&self, path: &str) -> bool {
        let names = self.schema.keys.iter().map(|key| key.path);
        names
            .chain(self.schema.tables.iter().map(|array| array.name))
            .any(|name| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Takes over the rows of a repeated table.
    fn load_rows(
        &self,
        array: &TableArray,
        value: &toml::Value,
        settings: &mut Settings,
        problems: &mut Problems,
    ) {
        let toml::Value::Array(items) = value else {
            problems.add(array.name, format!("is a repeated table: write [[{}]]", array.name));
            return;
        };
        for (index, item) in items.iter().enumerate() {
            let mut row = defaults(array.keys, format!("{}[{index}].", array.name));
            let toml::Value::Table(table) = item else {
                problems.add(format!("{}[{index}]", array.name), "is not a table");
                continue;
            };
            for (name, value) in table {
                match array.keys.iter().find(|key| key.path == name) {
                    Some(key) => self.set(key, value, &mut row, problems),
                    None => {
                        let near = nearest(name, array.keys.iter().map(|key| key.path));
                        let place = format!("key in {}", self.path.display());
                        problems.add(row.full(name), unknown(&place, near));
                    }
                }
            }
            settings.rows.entry(array.name).or_default().push(row);
        }
    }

    /// Sets one key, unless its value is a table.
    fn set(&self, key: &Key, value: &toml::Value, settings: &mut Settings, problems: &mut Problems) {
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => value.to_string(),
            toml::Value::Table(_) => {
                problems.add(settings.full(key.path), "is one value, not a section");
                return;
            }
        };
        settings.values.insert(key.path, Value { text, origin: Origin::File(self.path.to_owned()) });
    }
}

/// Takes over the variables with the prefix.
fn load_env(schema: &Schema, env: &[(String, String)], settings: &mut Settings, problems: &mut Problems) {
    let names: Vec<String> = schema.keys.iter().map(|key| schema.env_name(key.path)).collect();
    for (name, text) in env {
        let is_ours = name.strip_prefix(schema.env_prefix).is_some_and(|rest| rest.starts_with('_'));
        if !is_ours {
            continue;
        }
        match schema.keys.iter().zip(&names).find(|(_, known)| *known == name) {
            Some((key, _)) => {
                let value = Value { text: text.clone(), origin: Origin::Env(name.clone()) };
                settings.values.insert(key.path, value);
            }
            None => {
                let near = nearest(name, names.iter().map(String::as_str));
                problems.add(name, unknown("environment variable", near));
            }
        }
    }
}

/// Takes over the flags.
fn load_flags(schema: &Schema, flags: &[(String, String)], settings: &mut Settings, problems: &mut Problems) {
    for (path, text) in flags {
        match schema.keys.iter().find(|key| key.path == path) {
            Some(key) => {
                settings.values.insert(key.path, Value { text: text.clone(), origin: Origin::Flag });
            }
            None if schema.tables.iter().any(|array| array.name == path) => {
                problems.add(path, "is a repeated table, which only the file can set");
            }
            None => {
                let near = nearest(path, schema.keys.iter().map(|key| key.path));
                problems.add(path, unknown("key in a flag", near));
            }
        }
    }
}

/// Text for a name that is not in the schema.
fn unknown(what: &str, near: Option<&str>) -> String {
    match near {
        Some(near) => format!("unknown {what}; did you mean {near}?"),
        None => format!("unknown {what}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_column_counts_characters() {
        let error = parse("a = 'x'\n'größe' = = 1").unwrap_err();
        assert!(error.starts_with("line 2, column 11: "), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_of_a_file_panics(text in "[a-z\\[\\]{}=\"'.,#é0-9 \n]{0,60}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.starts_with("line "));
            }
        }
    }
}
