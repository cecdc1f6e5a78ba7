//! Values as they stand in files, taken as what they should be.

use serde_json::Value;

use crate::MAX_LIST;

/// The key below a section.
pub(crate) fn below(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// A text, where it is one.
pub(crate) fn text(value: &Value) -> Option<&str> {
    value.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// Texts: a list of them, or one with commas; no more than [`MAX_LIST`].
pub(crate) fn texts(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::Array(list) if list.len() <= MAX_LIST => list.iter().map(text).collect(),
        Value::String(one) if one.split(',').count() <= MAX_LIST => {
            Some(one.split(',').map(str::trim).filter(|one| !one.is_empty()).collect())
        }
        Value::Array(_)
        | Value::String(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Object(_) => None,
    }
}

/// A whole number within bounds, also where it stands in quotation marks.
pub(crate) fn whole(value: &Value, least: u64, most: u64) -> Option<u64> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number.filter(|number| (least..=most).contains(number))
}

/// Dollars, as the hub writes them: with two to six decimals.
pub(crate) fn dollars(value: &Value) -> Option<String> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().trim_start_matches('$').parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let number = number.filter(|number: &f64| (0.000_001..=1_000_000.0).contains(number))?;
    let written = format!("{number:.6}");
    let (whole, decimals) = written.split_once('.')?;
    let kept = decimals.trim_end_matches('0');
    Some(format!("{whole}.{kept:0<2}"))
}

/// A size in GiB at least, of a quantity such as `8Gi`, `512Mi`, `16GB` or a bare number of GiB; rounded up to whole MiB.
pub(crate) fn gibibytes(value: &Value) -> Option<String> {
    let written = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let at = written.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(written.len());
    let (number, unit) = written.split_at_checked(at)?;
    let number: f64 = number.parse().ok()?;
    let mib = match unit.trim() {
        "" | "Gi" | "GiB" => number * 1024.0,
        "Mi" | "MiB" => number,
        "G" | "GB" => number * 1e9 / 1_048_576.0,
        "M" | "MB" => number * 1e6 / 1_048_576.0,
        "Ti" | "TiB" => number * 1_048_576.0,
        _ => return None,
    };
    let mib = mib.ceil();
    (1.0..=67_108_864.0).contains(&mib).then(|| trimmed(mib / 1024.0))
}

/// Processors of a quantity such as `4`, `500m` or `0.5`.
pub(crate) fn processors(value: &Value) -> Option<String> {
    let written = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let count: f64 = match written.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<f64>().ok()? / 1000.0,
        None => written.parse().ok()?,
    };
    (0.001..=1024.0).contains(&count).then(|| trimmed(count))
}

/// A number without needless decimals.
fn trimmed(number: f64) -> String {
    let written = format!("{number:.6}");
    written.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_of_today_become_ours() {
        assert_eq!(dollars(&json!(1.0)).as_deref(), Some("1.00"));
        assert_eq!(dollars(&json!("$0.0125")).as_deref(), Some("0.0125"));
        assert_eq!(dollars(&json!(-1)), None);
        assert_eq!(dollars(&json!(1e300)), None);
        assert_eq!(gibibytes(&json!("8Gi")).as_deref(), Some("8"));
        assert_eq!(gibibytes(&json!("512Mi")).as_deref(), Some("0.5"));
        assert_eq!(gibibytes(&json!("8 pounds")), None);
        assert_eq!(processors(&json!("500m")).as_deref(), Some("0.5"));
        assert_eq!(processors(&json!("4")).as_deref(), Some("4"));
        assert_eq!(processors(&json!("NaN")), None);
        assert_eq!(whole(&json!("25"), 1, 60), Some(25));
        assert_eq!(whole(&json!(70), 1, 60), None);
        assert_eq!(texts(&json!("a, b")), Some(vec!["a", "b"]));
        assert_eq!(texts(&json!(["a", 1])), None);
    }
}
