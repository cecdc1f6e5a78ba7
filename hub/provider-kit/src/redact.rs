//! What of a cloud's answer may stand in the log.

use serde_json::Value;

/// Most bytes of an answer that are logged.
pub const MAX_LOGGED_BYTES: usize = 2048;

/// Most bytes of an answer that are looked at for it.
const MAX_READ_BYTES: usize = 64 * 1024;

/// What stands in place of a secret.
const HIDDEN: &str = "[hidden]";

/// Names whose values are never logged, in lower case and without `-` and `_`.
const NAMES: [&str; 12] = [
    "authorization",
    "credentials",
    "customdata",
    "kubeconfig",
    "metadata",
    "rootpass",
    "script",
    "secretkey",
    "userdata",
    "xamzcredential",
    "xamzsignature",
    "xapikey",
];

/// Ends of such names: `default_password`, `X-Auth-Token`, `SecretAccessKey`, ...
const ENDS: [&str; 6] = ["password", "token", "secret", "secretaccesskey", "privatekey", "apikey"];

/// Beginnings of tokens that are known by them: those of DigitalOcean.
const TOKENS: [&str; 3] = ["dop_v1_", "doo_v1_", "dor_v1_"];

/// An answer as it may be logged: no value of a field with the name of a secret, nothing that looks like a token, one line,
/// [`MAX_LOGGED_BYTES`] at most.
///
/// It reads JSON by its structure, and anything else (XML, forms, headers, half an answer) by what stands behind a name.
#[must_use]
pub fn redacted(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..MAX_READ_BYTES).unwrap_or(body));
    let text = match serde_json::from_str::<Value>(&text) {
        Ok(mut value) => {
            hide(&mut value);
            value.to_string()
        }
        Err(_) => hide_in_text(&text),
    };
    let text = hide_tokens(&text);
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    let end = line.floor_char_boundary(MAX_LOGGED_BYTES);
    line.truncate(end);
    line
}

fn is_secret(name: &str) -> bool {
    let name: String =
        name.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect();
    NAMES.contains(&&*name) || ENDS.iter().any(|end| name.ends_with(end))
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if is_secret(name) {
                    *value = Value::from(HIDDEN);
                } else {
                    hide(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(hide),
        // Documents within documents.
        Value::String(text) => *text = hide_in_text(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

const fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// Hides what follows the name of a secret and one of `: = >`.
fn hide_in_text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let gap = rest.find(is_of_name).unwrap_or(rest.len());
        let (between, from_name) = rest.split_at(gap);
        shown.push_str(between);
        let end = from_name.find(|c| !is_of_name(c)).unwrap_or(from_name.len());
        let (name, after) = from_name.split_at(end);
        shown.push_str(name);
        rest = after;
        if is_secret(name)
            && let Some((sign, value)) = split_sign(after)
        {
            shown.push_str(sign);
            shown.push_str(HIDDEN);
            rest = value.get(length_of_value(sign, value)..).unwrap_or_default();
        }
    }
    shown
}

/// Splits off quotes, spaces and the sign between a name and its value.
fn split_sign(after: &str) -> Option<(&str, &str)> {
    let is_quote = |c: char| matches!(c, '"' | '\'' | '\\') || c.is_whitespace();
    let at = after.find(|c| !is_quote(c))?;
    if !after.get(at..)?.starts_with([':', '=', '>']) {
        return None;
    }
    let value = after.get(at + 1..)?;
    let value = value.trim_start_matches([' ', '\t']);
    Some(after.split_at(after.len() - value.len()))
}

/// Bytes of a value: one in quotes to the closing one, a bracket to the end of all, else to what ends a field.
fn length_of_value(sign: &str, value: &str) -> usize {
    let plain = value.trim_start_matches('\\');
    let Some(first) = plain.chars().next() else { return value.len() };
    match first {
        '"' | '\'' => {
            let start = value.len() - plain.len() + 1;
            let mut escaped = false;
            for (at, c) in plain.char_indices().skip(1) {
                if c == first && !escaped {
                    return start + at;
                }
                escaped = c == '\\' && !escaped && start == 1;
            }
            value.len()
        }
        '{' | '[' => value.len(),
        _ if sign.contains('=') => {
            value.find(|c: char| c.is_whitespace() || "&<\"'".contains(c)).unwrap_or(value.len())
        }
        _ if sign.contains('>') => value.find('<').unwrap_or(value.len()),
        _ => value.find(|c| "\r\n\"'<&,}".contains(c)).unwrap_or(value.len()),
    }
}

fn hide_tokens(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = TOKENS.iter().filter_map(|token| rest.find(token)).min() {
        let (before, token) = rest.split_at(at);
        shown.push_str(before);
        shown.push_str(HIDDEN);
        rest = token.trim_start_matches(is_of_name);
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_in_every_dialect() {
        for body in [
            r#"{"id":"x","droplet":{"user_data":"canary","tags":["a"]},"message":"m"}"#,
            r#"{"X-Auth-Token":{"deep":["canary"]},"message":"m"}"#,
            r#"{"request":"{\"root_pass\":\"canary\"} m"}"#,
            r#"{"message":"m","user_data":"canary broken off"#,
            r#"{"message":"m","user_data":"can\"ary canary"#,
            r#"{"message":"m","metadata":{"user_data":"canary""#,
            "<Response><UserData>canary</UserData><Message>m</Message></Response>",
            "Action=RunInstances&X-Amz-Signature=canary&m=1&SecretAccessKey=canary",
            "Authorization: Bearer canary\r\nX-API-KEY: canary\r\nm: 1",
            "token canary is told with default_password = canary; m".trim_start_matches("token canary is "),
            "m: dop_v1_canary0123",
            r#"{"message":"m: the token dop_v1_canary is wrong"}"#,
        ] {
            let shown = redacted(body.as_bytes());
            assert!(!shown.contains("canary"), "{body}\n{shown}");
            assert!(shown.contains("[hidden]"), "{body}\n{shown}");
            assert!(shown.contains('m'), "{body}\n{shown}");
        }
    }

    #[test]
    fn what_is_no_secret_is_kept() {
        let body = r#"{"id":"unprocessable_entity","message":"Size is not available","request_id":"4d9d"}"#;
        assert_eq!(redacted(body.as_bytes()), body);
        assert_eq!(redacted(b"<html>\r\n  <b>502</b>\0</html>"), "<html> <b>502</b></html>");
        assert_eq!(redacted(b""), "");
    }

    #[test]
    fn an_answer_is_cut_between_two_characters() {
        let shown = redacted("ä".repeat(10_000_000).as_bytes());
        assert_eq!(shown.len(), MAX_LOGGED_BYTES);
        let secret_at_the_end = format!("{}token=canary", "x ".repeat(40_000));
        assert!(!redacted(secret_at_the_end.as_bytes()).contains("canary"));
    }
}
