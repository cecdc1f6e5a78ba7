//! The part of YAML that configuration files of today use: block and flow mappings and lists, scalars, comments.
//!
//! Deviation: anchors, aliases, tags, several documents, merge keys and texts over several lines are refused with their line.
//! They are what makes YAML large, and an alias makes a small file endless. `yes`, `no`, `on` and `off` are texts, as in YAML 1.2.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::{Map, Number, Value};

use crate::MAX_DEPTH;

/// Why a text is not read as YAML; no value is repeated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub(crate) struct YamlError {
    line: usize,
    why: &'static str,
}

const fn wrong(line: usize, why: &'static str) -> YamlError {
    YamlError { line, why }
}

/// One line that holds something.
#[derive(Debug, Clone)]
struct Line {
    number: usize,
    indent: usize,
    text: String,
}

/// Parses a text with one document.
pub(crate) fn parse(text: &str) -> Result<Value, YamlError> {
    let mut lines = Vec::new();
    for (raw, number) in text.lines().zip(1usize..) {
        let content = without_comment(raw).trim_end();
        if content.trim().is_empty() {
            continue;
        }
        if content == "---" && lines.is_empty() {
            continue;
        }
        if content == "---" || content == "..." || content.starts_with("--- ") {
            return Err(wrong(number, "there is more than one document"));
        }
        if content.starts_with('%') {
            return Err(wrong(number, "directives are not read"));
        }
        let indent = content.len().saturating_sub(content.trim_start_matches(' ').len());
        let rest = content.trim_start_matches(' ');
        if rest.starts_with('\t') {
            return Err(wrong(number, "a tab stands where blanks have to"));
        }
        lines.push(Line { number, indent, text: rest.to_owned() });
    }
    let mut parser = Parser { lines, at: 0 };
    let Some(first) = parser.lines.first() else {
        return Ok(Value::Null);
    };
    let value = parser.block(first.indent, 0)?;
    match parser.lines.get(parser.at) {
        Some(line) => Err(wrong(line.number, "it begins where nothing above does")),
        None => Ok(value),
    }
}

/// The line up to a comment that stands outside of quotation marks.
fn without_comment(line: &str) -> &str {
    let (mut quote, mut before) = (None, ' ');
    let mut is_escaped = false;
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (Some('"'), '\\') if !is_escaped => {
                is_escaped = true;
                continue;
            }
            (Some(open), c) if c == open && !is_escaped => quote = None,
            (None, '"' | '\'') if matches!(before, ' ' | '[' | '{' | ',' | '-' | ':') => quote = Some(c),
            (None, '#') if before == ' ' || before == '\t' => return line.get(..at).unwrap_or(line),
            _ => {}
        }
        is_escaped = false;
        before = c;
    }
    line
}

struct Parser {
    lines: Vec<Line>,
    at: usize,
}

impl Parser {
    /// A mapping, a list or a scalar whose lines begin at `indent`.
    fn block(&mut self, indent: usize, depth: usize) -> Result<Value, YamlError> {
        let Some(line) = self.lines.get(self.at).cloned() else {
            return Ok(Value::Null);
        };
        if depth > MAX_DEPTH {
            return Err(wrong(line.number, "it nests too deeply"));
        }
        if is_item(&line.text) {
            return self.list(indent, depth);
        }
        if split_key(&line)?.is_some() {
            return self.mapping(indent, depth);
        }
        self.at = self.at.saturating_add(1);
        scalar(&line.text, line.number)
    }

    fn list(&mut self, indent: usize, depth: usize) -> Result<Value, YamlError> {
        let mut list = Vec::new();
        while let Some(line) = self.lines.get(self.at).cloned() {
            if line.indent != indent || !is_item(&line.text) {
                break;
            }
            let rest = line.text.strip_prefix('-').unwrap_or_default();
            let inner = rest.trim_start_matches(' ');
            if inner.is_empty() {
                self.at = self.at.saturating_add(1);
                list.push(self.below(indent, depth)?);
                continue;
            }
            // What stands behind the dash is a block of its own that begins in its column.
            let column = indent.saturating_add(line.text.len().saturating_sub(inner.len()));
            if let Some(slot) = self.lines.get_mut(self.at) {
                *slot = Line { number: line.number, indent: column, text: inner.to_owned() };
            }
            list.push(self.block(column, depth.saturating_add(1))?);
        }
        self.ended(indent)?;
        Ok(Value::Array(list))
    }

    fn mapping(&mut self, indent: usize, depth: usize) -> Result<Value, YamlError> {
        let mut fields = Map::new();
        while let Some(line) = self.lines.get(self.at).cloned() {
            if line.indent != indent || is_item(&line.text) {
                break;
            }
            let Some((key, rest)) = split_key(&line)? else {
                return Err(wrong(line.number, "KEY: VALUE was expected"));
            };
            self.at = self.at.saturating_add(1);
            let value =
                if rest.is_empty() { self.below_key(indent, depth)? } else { scalar(rest, line.number)? };
            if fields.insert(key, value).is_some() {
                return Err(wrong(line.number, "this key is there twice"));
            }
        }
        self.ended(indent)?;
        Ok(Value::Object(fields))
    }

    /// What a key without a value on its line holds; a list may begin in the column of the key.
    fn below_key(&mut self, indent: usize, depth: usize) -> Result<Value, YamlError> {
        match self.lines.get(self.at) {
            Some(line) if line.indent == indent && is_item(&line.text) => {
                self.list(indent, depth.saturating_add(1))
            }
            Some(_) | None => self.below(indent, depth),
        }
    }

    fn below(&mut self, indent: usize, depth: usize) -> Result<Value, YamlError> {
        match self.lines.get(self.at) {
            Some(line) if line.indent > indent => {
                let inner = line.indent;
                self.block(inner, depth.saturating_add(1))
            }
            Some(_) | None => Ok(Value::Null),
        }
    }

    /// A block ends where a line begins further left, or in a list of keys.
    fn ended(&self, indent: usize) -> Result<(), YamlError> {
        match self.lines.get(self.at) {
            Some(line) if line.indent > indent => {
                Err(wrong(line.number, "it is indented more than what it belongs to"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn is_item(text: &str) -> bool {
    text == "-" || text.starts_with("- ")
}

/// Key and the rest of its line; `None` where the line has no key.
fn split_key(line: &Line) -> Result<Option<(String, &str)>, YamlError> {
    let text = line.text.as_str();
    if text.starts_with("? ") || text.starts_with("<<:") {
        return Err(wrong(line.number, "keys of several lines and merged keys are not read"));
    }
    if text.starts_with(['"', '\'']) {
        let mut characters = text.chars().peekable();
        let key = quoted(&mut characters, line.number)?;
        let rest: usize = characters.map(char::len_utf8).sum();
        let rest = text.get(text.len().saturating_sub(rest)..).unwrap_or_default();
        return Ok(rest
            .strip_prefix(':')
            .filter(|rest| rest.is_empty() || rest.starts_with(' '))
            .map(|rest| (key, rest.trim())));
    }
    if text.starts_with(['[', '{']) {
        return Ok(None);
    }
    let at = text.find(": ").or_else(|| text.strip_suffix(':').map(str::len));
    let Some((key, rest)) = at.and_then(|at| text.split_at_checked(at)) else {
        return Ok(None);
    };
    Ok(Some((key.trim().to_owned(), rest.get(1..).unwrap_or_default().trim())))
}

/// A value that stands on one line.
fn scalar(text: &str, line: usize) -> Result<Value, YamlError> {
    if text.starts_with(['&', '*', '!']) {
        return Err(wrong(line, "anchors, aliases and tags are not read; write the value out"));
    }
    if text.starts_with(['|', '>']) {
        return Err(wrong(
            line,
            "texts of several lines are not read; write it on one line in quotation marks",
        ));
    }
    if text.starts_with(['%', '@', '`']) {
        return Err(wrong(line, "a value cannot begin with this character; put it in quotation marks"));
    }
    if !text.starts_with(['"', '\'', '[', '{']) {
        return Ok(plain(text));
    }
    let mut characters = text.chars().peekable();
    let value = flow(&mut characters, line, 0)?;
    skip_blanks(&mut characters);
    match characters.next() {
        None => Ok(value),
        Some(_) => Err(wrong(line, "something stands behind the end of the value")),
    }
}

fn skip_blanks(characters: &mut Peekable<Chars<'_>>) {
    while characters.next_if(|c| *c == ' ' || *c == '\t').is_some() {}
}

fn flow(characters: &mut Peekable<Chars<'_>>, line: usize, depth: usize) -> Result<Value, YamlError> {
    if depth > MAX_DEPTH {
        return Err(wrong(line, "it nests too deeply"));
    }
    skip_blanks(characters);
    match characters.peek() {
        Some('[') => {
            characters.next();
            let mut list = Vec::new();
            loop {
                skip_blanks(characters);
                if characters.next_if_eq(&']').is_some() {
                    return Ok(Value::Array(list));
                }
                list.push(flow(characters, line, depth.saturating_add(1))?);
                next_or_end(characters, ']', line)?;
            }
        }
        Some('{') => {
            characters.next();
            let mut fields = Map::new();
            loop {
                skip_blanks(characters);
                if characters.next_if_eq(&'}').is_some() {
                    return Ok(Value::Object(fields));
                }
                let key = match characters.peek() {
                    Some('"' | '\'') => quoted(characters, line)?,
                    Some(_) | None => until(characters, &[':', ',', '}', '{', '[', ']']),
                };
                skip_blanks(characters);
                if characters.next_if_eq(&':').is_none() {
                    return Err(wrong(line, "KEY: VALUE was expected in the braces"));
                }
                let value = flow(characters, line, depth.saturating_add(1))?;
                if fields.insert(key, value).is_some() {
                    return Err(wrong(line, "this key is there twice"));
                }
                next_or_end(characters, '}', line)?;
            }
        }
        Some('"' | '\'') => Ok(Value::String(quoted(characters, line)?)),
        Some('&' | '*' | '!') => {
            Err(wrong(line, "anchors, aliases and tags are not read; write the value out"))
        }
        Some(_) => Ok(plain(&until(characters, &[',', ']', '}', '{', '[']))),
        None => Err(wrong(line, "a bracket has no end on its line")),
    }
}

/// A comma, or the bracket that ends a list, which stays.
fn next_or_end(characters: &mut Peekable<Chars<'_>>, end: char, line: usize) -> Result<(), YamlError> {
    skip_blanks(characters);
    match characters.peek() {
        Some(',') => {
            characters.next();
            Ok(())
        }
        Some(c) if *c == end => Ok(()),
        Some(_) | None => Err(wrong(line, "a bracket has no end on its line")),
    }
}

fn until(characters: &mut Peekable<Chars<'_>>, ends: &[char]) -> String {
    let mut text = String::new();
    while let Some(c) = characters.next_if(|c| !ends.contains(c)) {
        text.push(c);
    }
    text.trim().to_owned()
}

fn quoted(characters: &mut Peekable<Chars<'_>>, line: usize) -> Result<String, YamlError> {
    let open = characters.next().unwrap_or('"');
    let mut text = String::new();
    while let Some(c) = characters.next() {
        match (c, open) {
            ('\'', '\'') if characters.next_if_eq(&'\'').is_some() => text.push('\''),
            (c, open) if c == open => return Ok(text),
            ('\\', '"') => match characters.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                Some('0') => text.push('\0'),
                Some(c @ ('"' | '\\' | '/' | ' ')) => text.push(c),
                Some(c @ ('x' | 'u' | 'U')) => text.push(escaped(characters, c, line)?),
                Some(_) | None => return Err(wrong(line, "nothing is known of this escape")),
            },
            (c, _) => text.push(c),
        }
    }
    Err(wrong(line, "a quotation mark has no end on its line"))
}

fn escaped(characters: &mut Peekable<Chars<'_>>, kind: char, line: usize) -> Result<char, YamlError> {
    let count = match kind {
        'x' => 2u32,
        'u' => 4,
        _ => 8,
    };
    let mut code = 0u32;
    for _ in 0..count {
        let digit = characters.next().and_then(|c| c.to_digit(16));
        let digit = digit.ok_or(wrong(line, "nothing is known of this escape"))?;
        code = code.checked_mul(16).and_then(|code| code.checked_add(digit)).unwrap_or(u32::MAX);
    }
    char::from_u32(code).ok_or(wrong(line, "nothing is known of this escape"))
}

/// A scalar without quotation marks, by the core schema of YAML 1.2.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.')
        && text.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E'));
    if is_number {
        // A key of digits alone with a zero before them is no number.
        let has_zero = text.trim_start_matches('-').starts_with('0') && text.len() > 1 && !text.contains('.');
        if let (false, Ok(number)) = (has_zero, text.parse::<i64>()) {
            return Value::Number(number.into());
        }
        // Digits that fit no number are a text: a float would change them.
        let is_whole = text.trim_start_matches('-').chars().all(|c| c.is_ascii_digit());
        let number = (!is_whole).then(|| text.parse::<f64>().ok()).flatten().and_then(Number::from_f64);
        if let (false, Some(number)) = (has_zero, number) {
            return Value::Number(number);
        }
    }
    Value::String(text.to_owned())
}

#[cfg(test)]
mod tests;
