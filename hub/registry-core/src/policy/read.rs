//! From TOML to a [`PolicyDocument`], with the place of everything that is wrong.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

use blueprint_common_types::ServiceKey;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Grant, PolicyDocument, PolicyError, PolicyProblem, PolicyTest, Selector};
use super::session::{Deed, SessionGrant};
use super::session_test::{SessionOn, SessionTest};
use super::traffic::Traffic;
use super::{MAX_DOCUMENT_BYTES, MAX_LIST, MAX_ROWS};

/// Problems that are told in full.
const MAX_PROBLEMS: usize = 20;
/// Longest name of a grant or a test in characters.
const MAX_NAME: usize = 128;

const GRANT_KEYS: &[&str] = &["name", "from", "to", "allow"];
const SESSION_KEYS: &[&str] = &["name", "services", "nodes", "allow"];
const TEST_KEYS: &[&str] = &["name", "from", "to", "service", "node", "allow", "deny", "optional"];

/// Reads a whole document, or says everything that is wrong with it.
pub(super) fn document(text: &str) -> Result<PolicyDocument, PolicyError> {
    let mut reader = Reader { text, problems: Vec::new() };
    let mut document = PolicyDocument::default();
    if text.len() > MAX_DOCUMENT_BYTES {
        let message =
            format!("the document has {} bytes, at most {MAX_DOCUMENT_BYTES} are allowed", text.len());
        reader.problem(0, "", message);
        return Err(reader.into_error());
    }
    match DeTable::parse(text) {
        Err(error) => reader.problem(error.span().map_or(0, |span| span.start), "", error.message()),
        Ok(table) => reader.root(table.get_ref(), &mut document),
    }
    if reader.problems.is_empty() { Ok(document) } else { Err(reader.into_error()) }
}

/// Reads values and remembers what is wrong with them, by its place in the text.
struct Reader<'t> {
    text: &'t str,
    problems: Vec<(usize, String, String)>,
}

/// One `[[grant]]`, `[[test]]` or `[[session]]`.
struct Row<'v> {
    table: &'v DeTable<'v>,
    at: usize,
    path: String,
}

impl Reader<'_> {
    fn problem(&mut self, at: usize, key: impl Into<String>, message: impl Into<String>) {
        self.problems.push((at, key.into(), message.into()));
    }

    fn into_error(mut self) -> PolicyError {
        self.problems.sort_by_key(|(at, _, _)| *at);
        let more = self.problems.len().saturating_sub(MAX_PROBLEMS);
        self.problems.truncate(MAX_PROBLEMS);
        let text = self.text;
        let place = |(at, key, message): (usize, String, String)| {
            let before = text.get(..at).unwrap_or(text);
            let line = before.matches('\n').count().saturating_add(1);
            let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()).saturating_add(1);
            PolicyProblem { line, column, key, message }
        };
        PolicyError { problems: self.problems.into_iter().map(place).collect(), more }
    }

    fn root(&mut self, table: &DeTable<'_>, document: &mut PolicyDocument) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "grant" => {
                    let rows = self.rows("grant", value, GRANT_KEYS);
                    document.grants = rows.iter().filter_map(|row| self.grant(row)).collect();
                    self.unique(&rows);
                }
                "test" => {
                    let rows = self.rows("test", value, TEST_KEYS);
                    let (sessions, traffic): (Vec<_>, Vec<_>) =
                        rows.iter().partition(|row| row.is_of_session());
                    document.tests = traffic.into_iter().filter_map(|row| self.test(row)).collect();
                    document.session_tests =
                        sessions.into_iter().filter_map(|row| self.session_test(row)).collect();
                    self.unique(&rows);
                }
                "session" => {
                    let rows = self.rows("session", value, SESSION_KEYS);
                    document.sessions = rows.iter().filter_map(|row| self.session(row)).collect();
                    self.unique(&rows);
                }
                other => {
                    self.unknown(key.span().start, "", other, &["[[grant]]", "[[test]]", "[[session]]"]);
                }
            }
        }
    }

    /// The rows of an array of tables; keys that a row may not have are noted.
    fn rows<'v>(&mut self, name: &str, value: &'v Spanned<DeValue<'v>>, known: &[&str]) -> Vec<Row<'v>> {
        let at = value.span().start;
        let Some(array) = value.get_ref().as_array() else {
            self.problem(at, name, format!("is written [[{name}]], with two brackets, once for each {name}"));
            return Vec::new();
        };
        if array.len() > MAX_ROWS {
            self.problem(at, name, format!("there are {}, at most {MAX_ROWS} are allowed", array.len()));
            return Vec::new();
        }
        let mut rows = Vec::new();
        for (number, value) in (1usize..).zip(array.iter()) {
            let (at, path) = (value.span().start, format!("{name}[{number}]"));
            let Some(table) = value.get_ref().as_table() else {
                self.problem(
                    at,
                    path,
                    format!("is a {}, [[{name}]] is expected", value.get_ref().type_str()),
                );
                continue;
            };
            for (key, _) in table {
                if !known.contains(&key.get_ref().as_ref()) {
                    self.unknown(key.span().start, &path, key.get_ref(), known);
                }
            }
            rows.push(Row { table, at, path });
        }
        rows
    }

    fn unknown(&mut self, at: usize, path: &str, key: &str, known: &[&str]) {
        let key: String = key.chars().take(64).collect();
        let message = format!("{key:?} is not a key; the keys are {}", known.join(", "));
        self.problem(at, path, message);
    }

    /// Notes names that come twice.
    fn unique(&mut self, rows: &[Row<'_>]) {
        let mut seen = BTreeSet::new();
        for row in rows {
            let Some(value) = row.table.get("name") else { continue };
            let Some(name) = value.get_ref().as_str() else { continue };
            if !seen.insert(name) {
                let name: String = name.chars().take(MAX_NAME).collect();
                self.problem(
                    value.span().start,
                    row.key("name"),
                    format!("{name:?} is the name of another one too"),
                );
            }
        }
    }

    fn grant(&mut self, row: &Row<'_>) -> Option<Grant> {
        let name = self.name(row);
        let from = self.list(row, "from", true);
        let to = self.list(row, "to", true);
        let allow = self.list(row, "allow", true);
        Some(Grant { name: name?, from: from?, to: to?, allow: allow? })
    }

    fn session(&mut self, row: &Row<'_>) -> Option<SessionGrant> {
        let name = self.name(row);
        let has = |key| row.table.contains_key(key);
        if !has("services") && !has("nodes") {
            let message = "names neither services nor nodes, so it allows nothing";
            self.problem(row.at, row.path.as_str(), message);
        }
        let services = self.list(row, "services", false);
        let nodes = self.list(row, "nodes", false);
        let allow = self.list(row, "allow", true);
        let is_of_services = |deed: &Deed| match deed {
            Deed::Exec | Deed::Forward => true,
            Deed::Port(_) | Deed::Reverse(_) => false,
        };
        if !has("services") && allow.iter().flatten().any(is_of_services) {
            let message = "of nodes only port/PORTS and reverse/PORTS can be allowed; name services for exec and forward";
            self.problem(row.at, row.key("allow"), message);
        }
        Some(SessionGrant { name: name?, services: services?, nodes: nodes?, allow: allow? })
    }

    /// A test of what the operator may begin.
    fn session_test(&mut self, row: &Row<'_>) -> Option<SessionTest> {
        let has = |key| row.table.contains_key(key);
        let name = self.name(row);
        if has("from") || has("to") {
            let message = "has from or to, too: a test is of traffic, of a service or of a node";
            self.problem(row.at, row.path.as_str(), message);
        }
        let on = match (has("service"), has("node")) {
            (true, true) => {
                self.problem(row.at, row.path.as_str(), "names both a service and a node");
                None
            }
            (true, false) => self.service(row).map(SessionOn::Service),
            (false, _) => self.one(row, "node").map(SessionOn::Node),
        };
        let allow = self.list::<Deed>(row, "allow", false);
        let deny = self.list::<Deed>(row, "deny", false);
        let is_optional = self.truth(row, "optional");
        self.tests_something(row);
        Some(SessionTest { name: name?, on: on?, allow: allow?, deny: deny?, is_optional: is_optional? })
    }

    fn service(&mut self, row: &Row<'_>) -> Option<ServiceKey> {
        let (at, text) = self.text(row, "service")?;
        let service = text.parse().ok();
        if service.is_none() {
            let text: String = text.chars().take(64).collect();
            let message = format!("{text:?} names no service: write BLUEPRINT/SERVICE, such as 7/42");
            self.problem(at, row.key("service"), message);
        }
        service
    }

    fn tests_something(&mut self, row: &Row<'_>) {
        if !row.table.contains_key("allow") && !row.table.contains_key("deny") {
            self.problem(row.at, row.path.as_str(), "has neither allow nor deny, so it tests nothing");
        }
    }

    fn test(&mut self, row: &Row<'_>) -> Option<PolicyTest> {
        let name = self.name(row);
        let from = self.one::<Selector>(row, "from");
        let to = self.one::<Selector>(row, "to");
        let allow = self.list::<Traffic>(row, "allow", false);
        let deny = self.list::<Traffic>(row, "deny", false);
        let is_optional = self.truth(row, "optional");
        self.tests_something(row);
        Some(PolicyTest {
            name: name?,
            from: from?,
            to: to?,
            allow: allow?,
            deny: deny?,
            is_optional: is_optional?,
        })
    }

    fn name(&mut self, row: &Row<'_>) -> Option<String> {
        let (at, text) = self.text(row, "name")?;
        let length = text.chars().count();
        if (1..=MAX_NAME).contains(&length) && !text.chars().any(char::is_control) {
            return Some(text.to_owned());
        }
        let message = format!("has {length} characters; 1 to {MAX_NAME} printable ones are allowed");
        self.problem(at, row.key("name"), message);
        None
    }

    /// One text that has to be there.
    fn text<'v>(&mut self, row: &Row<'v>, key: &str) -> Option<(usize, &'v str)> {
        let Some(value) = row.table.get(key) else {
            self.problem(row.at, row.key(key), "is missing");
            return None;
        };
        let text = value.get_ref().as_str();
        if text.is_none() {
            let message = format!("is a {}, one text in quotes is expected", value.get_ref().type_str());
            self.problem(value.span().start, row.key(key), message);
        }
        Some((value.span().start, text?))
    }

    fn one<T: FromStr<Err: Display>>(&mut self, row: &Row<'_>, key: &str) -> Option<T> {
        let (at, text) = self.text(row, key)?;
        self.parse(at, row, key, text)
    }

    /// A list of texts, or one text alone.
    fn list<T: FromStr<Err: Display>>(
        &mut self,
        row: &Row<'_>,
        key: &str,
        is_needed: bool,
    ) -> Option<Vec<T>> {
        let Some(value) = row.table.get(key) else {
            if is_needed {
                self.problem(row.at, row.key(key), "is missing");
            }
            return if is_needed { None } else { Some(Vec::new()) };
        };
        let values = match value.get_ref().as_array() {
            Some(array) => array.iter().collect(),
            None => vec![value],
        };
        if values.is_empty() || values.len() > MAX_LIST {
            let message = format!("has {} entries, 1 to {MAX_LIST} are allowed", values.len());
            self.problem(value.span().start, row.key(key), message);
            return None;
        }
        let mut list = Vec::with_capacity(values.len());
        let expected = values.len();
        for value in values {
            let at = value.span().start;
            let Some(text) = value.get_ref().as_str() else {
                let message = format!("is a {}, texts in quotes are expected", value.get_ref().type_str());
                self.problem(at, row.key(key), message);
                continue;
            };
            list.extend(self.parse::<T>(at, row, key, text));
        }
        (list.len() == expected).then_some(list)
    }

    fn truth(&mut self, row: &Row<'_>, key: &str) -> Option<bool> {
        let Some(value) = row.table.get(key) else { return Some(false) };
        let truth = value.get_ref().as_bool();
        if truth.is_none() {
            let message = format!("is a {}, true or false is expected", value.get_ref().type_str());
            self.problem(value.span().start, row.key(key), message);
        }
        truth
    }

    fn parse<T: FromStr<Err: Display>>(
        &mut self,
        at: usize,
        row: &Row<'_>,
        key: &str,
        text: &str,
    ) -> Option<T> {
        text.parse().map_err(|error: T::Err| self.problem(at, row.key(key), error.to_string())).ok()
    }
}

impl Row<'_> {
    /// Whether a test is of what the operator may begin, and not of traffic.
    fn is_of_session(&self) -> bool {
        ["service", "node"].iter().any(|key| self.table.contains_key(*key))
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }
}
