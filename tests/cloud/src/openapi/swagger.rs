//! Documents of the format before: Swagger 2.0, turned into OpenAPI 3.

use serde_json::{Map, Value, json};

use super::{Spec, array};

/// The methods that a path may have.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

impl Spec {
    /// What a Swagger 2.0 document says, as [`Self::faults`] reads it: paths below its `basePath`, bodies out of the
    /// parameters, and parameters of a path at each of its methods. References stay as they are.
    #[must_use]
    pub fn of_swagger(self) -> Self {
        let mut document = self.0;
        let base = document["basePath"].as_str().unwrap_or_default().to_owned();
        let mut paths = Map::new();
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            let shared = array(&item["parameters"]);
            let mut turned = Map::new();
            for method in METHODS.iter().filter(|method| !item[**method].is_null()) {
                turned.insert((*method).to_owned(), operation(&item[*method], shared));
            }
            paths.insert(format!("{base}{path}"), Value::Object(turned));
        }
        document["paths"] = Value::Object(paths);
        Self(document)
    }
}

fn operation(own: &Value, shared: &[Value]) -> Value {
    let mut turned = json!({ "parameters": [], "responses": {} });
    let mut parameters = Vec::new();
    for parameter in shared.iter().chain(array(&own["parameters"])) {
        if parameter["in"] == "body" {
            let content = json!({ "application/json": { "schema": parameter["schema"] } });
            turned["requestBody"] = json!({ "required": parameter["required"], "content": content });
            continue;
        }
        let mut parameter = parameter.clone();
        let schema = parameter.clone();
        parameter["schema"] = schema;
        // The word is of a parameter there, and of an object's fields in its schema.
        parameter["schema"]["required"] = Value::Null;
        parameters.push(parameter);
    }
    turned["parameters"] = Value::Array(parameters);
    for (status, response) in own["responses"].as_object().into_iter().flatten() {
        let schema = &response["schema"];
        let is_empty = schema.is_null();
        let content = if is_empty { json!({}) } else { json!({ "application/json": { "schema": schema } }) };
        turned["responses"][status] = json!({ "content": content });
    }
    turned
}
