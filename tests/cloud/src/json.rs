//! What the dialects of JSON share.

use serde_json::{Value, json};

use crate::server::Answer;

/// An answer with the right shape and the wrong types.
pub(crate) fn wrong_types(answer: Answer) -> Answer {
    let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    swap_types(&mut body);
    Answer { body: body.to_string().into(), ..answer }
}

/// Texts for numbers and numbers for texts.
fn swap_types(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(swap_types),
        Value::Array(values) if values.is_empty() => *value = json!("none"),
        Value::Array(values) => values.iter_mut().for_each(swap_types),
        Value::String(_) => *value = json!(7),
        Value::Number(number) => *value = json!(number.to_string()),
        Value::Null | Value::Bool(_) => *value = json!({}),
    }
}
