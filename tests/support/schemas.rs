//! Compares the JSON that fwc prints with its published schemas.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{LazyLock, Mutex};

use jsonschema::Validator;
use serde_json::Value;

/// Panics if a text is a JSON document of fwc that does not match its schema in `docs/reference/schemas/`. Ignores any other text.
pub fn assert_documented(text: &str) {
    static VALIDATORS: LazyLock<Mutex<HashMap<String, Validator>>> = LazyLock::new(Mutex::default);
    let Ok(document) = serde_json::from_str::<Value>(text) else {
        return;
    };
    let Some(name) = document["schema"]
        .as_str()
        .and_then(|it| it.strip_prefix("fwc."))
    else {
        return;
    };
    let mut validators = VALIDATORS.lock().expect("no test panics with the lock");
    let validator = validators
        .entry(name.to_owned())
        .or_insert_with(|| validator(name));
    let errors: Vec<_> = validator
        .iter_errors(&document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    drop(validators);
    assert!(errors.is_empty(), "fwc.{name}: {errors:#?}\n{document:#}");
}

/// Returns the validator of `NAME/VERSION`. Published schemas allow unknown fields; here these are errors, so that no field stays
/// undocumented.
fn validator(name: &str) -> Validator {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join(format!(
        "docs/reference/schemas/{}.json",
        name.replace('/', "-")
    ));
    let text = std::fs::read_to_string(&path).expect("a schema for each document");
    let mut schema = serde_json::from_str(&text).expect("JSON");
    close(&mut schema, true);
    jsonschema::draft202012::new(&schema).expect("a schema")
}

/// Forbids unknown fields in each object. Alternatives (`oneOf`) are closed by the object around them, because a single
/// alternative does not know the fields of the others.
fn close(schema: &mut Value, is_whole: bool) {
    match schema {
        Value::Object(map) => {
            let is_object = ["properties", "oneOf"]
                .iter()
                .any(|key| map.contains_key(*key));
            for (key, value) in map.iter_mut() {
                match (key.as_str(), value) {
                    ("oneOf" | "anyOf" | "allOf", Value::Array(parts)) => {
                        parts.iter_mut().for_each(|part| close(part, false));
                    }
                    ("properties" | "$defs", Value::Object(parts)) => {
                        parts.values_mut().for_each(|part| close(part, true));
                    }
                    ("items" | "prefixItems" | "additionalProperties", value) => close(value, true),
                    _ => {}
                }
            }
            if is_object && is_whole {
                map.insert("unevaluatedProperties".to_owned(), false.into());
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|one| close(one, true)),
        _ => {}
    }
}
