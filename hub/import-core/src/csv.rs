//! CSV (RFC 4180), without line breaks within a field.

use crate::MAX_KEYS;

/// Every line that is not empty.
pub(crate) fn rows(text: &str) -> Result<Vec<Vec<String>>, String> {
    let mut rows = Vec::new();
    let mut width = None;
    let mut count = 0usize;
    for (line, number) in text.lines().zip(1u32..) {
        if line.trim().is_empty() {
            continue;
        }
        let row = fields(line).ok_or_else(|| format!("line {number}: a quotation mark has no end"))?;
        count = count.saturating_add(row.len());
        if count > MAX_KEYS {
            return Err(format!("line {number}: there are more than {MAX_KEYS} fields"));
        }
        let width = *width.get_or_insert(row.len());
        if row.len() != width {
            return Err(format!("line {number} has {} fields, the first {width}", row.len()));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn fields(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, is_quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            ('"', _) => is_quoted = !is_quoted,
            (',', false) => fields.push(std::mem::take(&mut field).trim().to_owned()),
            (other, _) => field.push(other),
        }
    }
    fields.push(field.trim().to_owned());
    (!is_quoted).then_some(fields)
}
