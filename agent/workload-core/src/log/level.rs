//! How important a line says it is.

use blueprint_common_types::{LogLevel, LogStream};

/// Bytes of a line that are looked at.
const HEAD_BYTES: usize = 512;

/// Words of a line among which a level is looked for: a time, perhaps a date before it and a zone behind it.
const WORDS: usize = 5;

/// Reads the level of a line: the field `level` of a JSON object or of `key=value`, or one of its first words, as loggers
/// write it. A line of standard output that says nothing is [`LogLevel::Info`]; one of standard error may be anything.
#[must_use]
pub fn level_of(stream: LogStream, text: &str) -> Option<LogLevel> {
    let mut end = text.len().min(HEAD_BYTES);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let head = plain(text.get(..end).unwrap_or_default());
    let head = head.trim_start();
    let said = if head.starts_with('{') { of_json(head) } else { of_field(head).or_else(|| of_words(head)) };
    said.or(match stream {
        LogStream::Stdout => Some(LogLevel::Info),
        LogStream::Stderr => None,
        LogStream::Node => Some(LogLevel::Warn),
    })
}

/// The text without sequences for terminals, which colour words.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            plain.push(c);
        } else if chars.next() == Some('[') {
            // Up to the letter that ends it.
            let _ = chars.find(|c| ('\u{40}'..='\u{7e}').contains(c));
        }
    }
    plain
}

fn of_json(head: &str) -> Option<LogLevel> {
    ["\"level\"", "\"severity\"", "\"lvl\""].into_iter().find_map(|key| {
        let value = head.split_once(key)?.1.trim_start().strip_prefix(':')?.trim_start();
        if let Some(text) = value.strip_prefix('"') {
            return any_case(text.split('"').next()?);
        }
        let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
        // The numbers of bunyan and pino.
        match digits.parse().ok()? {
            1..=10u16 => Some(LogLevel::Trace),
            11..=20 => Some(LogLevel::Debug),
            21..=30 => Some(LogLevel::Info),
            31..=40 => Some(LogLevel::Warn),
            41.. => Some(LogLevel::Error),
            0 => None,
        }
    })
}

fn of_field(head: &str) -> Option<LogLevel> {
    let value = |word: &str| {
        let value = word.strip_prefix("level=").or_else(|| word.strip_prefix("lvl="))?;
        any_case(value.trim_matches('"'))
    };
    head.split_whitespace().find_map(value)
}

fn of_words(head: &str) -> Option<LogLevel> {
    head.split_whitespace().take(WORDS).enumerate().find_map(|(number, word)| {
        let bare = word.trim_matches(|c: char| "[]()<>|:".contains(c));
        let is_marked = word.starts_with(['[', '<', '(']) || (number == 0 && word.ends_with(':'));
        // A word of a sentence is no level: "no error".
        let is_level = is_marked || (bare.len() > 2 && bare.bytes().all(|byte| byte.is_ascii_uppercase()));
        any_case(bare).filter(|_| is_level)
    })
}

fn any_case(word: &str) -> Option<LogLevel> {
    match word.to_ascii_lowercase().as_str() {
        "trace" => Some(LogLevel::Trace),
        "debug" | "dbg" => Some(LogLevel::Debug),
        "info" | "information" | "notice" => Some(LogLevel::Info),
        "warn" | "warning" => Some(LogLevel::Warn),
        "error" | "err" | "fatal" | "critical" | "crit" | "panic" | "alert" | "emerg" => {
            Some(LogLevel::Error)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_loggers_write_them() {
        for (text, level) in [
            ("2026-11-21T12:00:00.000Z  WARN demo: slow", Some(LogLevel::Warn)),
            (
                "\u{1b}[2m2026-11-21T12:00:00Z\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m demo: up",
                Some(LogLevel::Info),
            ),
            ("[2026-11-21T12:00:00Z ERROR demo] failed", Some(LogLevel::Error)),
            ("[info] up", Some(LogLevel::Info)),
            ("2026/11/21 12:00:00 [error] 7#7: failed", Some(LogLevel::Error)),
            ("error: no such file", Some(LogLevel::Error)),
            ("ts=1 level=debug msg=x", Some(LogLevel::Debug)),
            (r#"{"ts":1,"level":"warning","msg":"x"}"#, Some(LogLevel::Warn)),
            (r#"{"level": 50,"msg":"x"}"#, Some(LogLevel::Error)),
            ("there was no error at all", None),
            ("Info is not shouted", None),
            ("", None),
        ] {
            assert_eq!(level_of(LogStream::Stderr, text), level, "{text}");
        }
        assert_eq!(level_of(LogStream::Stdout, "hello"), Some(LogLevel::Info));
        assert_eq!(level_of(LogStream::Stdout, &format!("{}é", "x".repeat(511))), Some(LogLevel::Info));
    }
}
