//! Hosts as CSV: the names of the fields in the first line, no quotes.

use serde::Deserialize;
use toml::{Table, Value};

use super::file::{HostFile, Written};

/// Columns that hold numbers.
const NUMBERS: [&str; 6] = ["port", "cpu", "memory_mib", "disk_gb", "gpu_count", "gpu_vram_mib"];

/// Reads CSV.
pub(super) fn read(text: &str) -> Result<Written, Vec<String>> {
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let mut lines = lines.by_ref().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let Some((_, head)) = lines.next() else { return Ok(Written::default()) };
    let names: Vec<&str> = head.split(',').map(str::trim).collect();
    let (mut written, mut problems) = (Written::default(), Vec::new());
    for (at, line) in lines {
        match row(&names, line) {
            Ok(host) => written.hosts.push((at, host)),
            Err(why) => problems.push(format!("line {at}: {why}")),
        }
    }
    if problems.is_empty() { Ok(written) } else { Err(problems) }
}

fn row(names: &[&str], line: &str) -> Result<HostFile, String> {
    if line.contains('"') {
        return Err("quotes are not read; write it as TOML where a value needs a comma".to_owned());
    }
    let values: Vec<&str> = line.split(',').map(str::trim).collect();
    if values.len() != names.len() {
        return Err(format!("has {} values, and the first line names {}", values.len(), names.len()));
    }
    let mut table = Table::new();
    for (name, text) in names.iter().zip(values).filter(|(_, text)| !text.is_empty()) {
        table.insert((*name).to_owned(), value(name, text)?);
    }
    HostFile::deserialize(table).map_err(|error| error.message().to_owned())
}

fn value(name: &str, text: &str) -> Result<Value, String> {
    let number = |text: &str| {
        let read = text.parse::<i64>().map(Value::Integer);
        read.map_err(|_| format!("{name} {text:?} is no whole number"))
    };
    if NUMBERS.contains(&name) {
        return number(text);
    }
    if name == "open_ports" {
        return text.split_whitespace().map(number).collect::<Result<_, _>>().map(Value::Array);
    }
    Ok(Value::String(text.to_owned()))
}
