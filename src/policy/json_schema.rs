//! The language as a JSON Schema (draft-07), for editors: what completes and underlines while a policy is written.

use serde_json::{Map, Value, json};
use toml::de::{DeTable, DeValue};

use super::keys::{Key, Shape, TableKeys};
use super::schema::{NAME, ROOT};

/// The schema of a policy file, the first or an included one.
///
/// It is made of the tables by which a policy is read, and takes whatever `fwc check` takes. It sees keys, types and
/// the form of values; what needs the rest of the policy (is the name defined?) or arithmetic (does the range end
/// before it begins?) is for `fwc check` to find.
///
/// ```
/// let schema = fwc::policy::json_schema();
/// let action = &schema["properties"]["rules"]["items"]["properties"]["action"];
/// assert_eq!(action["enum"], serde_json::json!(["accept", "drop", "reject", "log", "continue"]));
/// assert_eq!(action["default"], "accept");
/// ```
pub fn json_schema() -> Value {
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "fwc policy",
        "description": "A policy of fwc, the firewall compiler: language version 1.",
    });
    extend(&mut schema, of_table(&ROOT));
    let mut tables = Map::new();
    words_of_keys(&ROOT, &mut tables);
    extend(&mut schema, json!({ "definitions": tables }));
    schema
}

/// Adds the tables of words that keys name. They are long and named often, so that each stands in the schema once.
fn words_of_keys(keys: &TableKeys, tables: &mut Map<String, Value>) {
    for key in keys.known {
        words_of_shape(key.shape, tables);
    }
}

fn words_of_shape(shape: Shape, tables: &mut Map<String, Value>) {
    match shape {
        Shape::Known(name, words) => {
            tables.insert(
                name.to_owned(),
                json!({ "type": "string", "enum": words() }),
            );
        }
        Shape::Table(keys) | Shape::Tables(keys) => words_of_keys(keys, tables),
        Shape::List(each) | Shape::Definitions { each, .. } => words_of_shape(*each, tables),
        Shape::OneOf(shapes) => {
            for shape in shapes {
                words_of_shape(*shape, tables);
            }
        }
        Shape::Names { keys, each, .. } => {
            words_of_keys(keys, tables);
            words_of_shape(*each, tables);
        }
        Shape::Text(_) | Shape::Form(_) | Shape::Word(_) | Shape::Literally(_) => {}
        Shape::Boolean | Shape::Number(..) | Shape::Date => {}
    }
}

fn of_table(keys: &TableKeys) -> Value {
    let properties: Map<_, _> = keys
        .known
        .iter()
        .map(|key| (key.name.to_owned(), of_key(key)))
        .collect();
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    let required = keys.known.iter().filter(|key| key.is_required);
    let required: Vec<_> = required.map(|key| key.name).collect();
    if !required.is_empty() {
        extend(&mut schema, json!({ "required": required }));
    }
    schema
}

fn of_key(key: &Key) -> Value {
    let mut schema = json!({ "description": key.about });
    extend(&mut schema, of_shape(key.shape));
    if let Some(default) = key.default.and_then(parsed) {
        extend(&mut schema, json!({ "default": default }));
    }
    if let Some(example) = key.example.and_then(parsed) {
        extend(&mut schema, json!({ "examples": [example] }));
    }
    schema
}

fn of_shape(shape: Shape) -> Value {
    match shape {
        Shape::Text(u32::MAX) => json!({ "type": "string" }),
        Shape::Text(longest) => json!({ "type": "string", "maxLength": longest }),
        Shape::Form(form) => json!({ "type": "string", "pattern": format!("^({form})$") }),
        Shape::Word(words) => json!({ "type": "string", "enum": words.words() }),
        Shape::Known(name, _) => json!({ "$ref": format!("#/definitions/{name}") }),
        Shape::Literally(word) => json!({ "type": "string", "const": word }),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Number(least, most) if least == most => json!({ "type": "integer", "const": least }),
        Shape::Number(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Shape::Date => json!({ "type": "string", "format": "date" }),
        Shape::List(_) | Shape::OneOf(_) => json!({ "anyOf": alternatives(shape) }),
        Shape::Table(keys) => of_table(keys),
        Shape::Tables(keys) => json!({ "type": "array", "items": of_table(keys) }),
        Shape::Definitions { reserved, each } => {
            let mut names = of_shape(NAME);
            if !reserved.is_empty() {
                extend(&mut names, json!({ "not": { "enum": reserved } }));
            }
            json!({ "type": "object", "propertyNames": names, "additionalProperties": of_shape(*each) })
        }
        Shape::Names { names, each, keys } => {
            let mut schema = of_table(keys);
            for (name, about) in names() {
                let mut value = json!({ "description": about });
                extend(&mut value, of_shape(*each));
                schema["properties"][name] = value;
            }
            schema
        }
    }
}

/// The schemas of which a value must fit one, in one row.
fn alternatives(shape: Shape) -> Vec<Value> {
    match shape {
        Shape::OneOf(shapes) => shapes.iter().flat_map(|it| alternatives(*it)).collect(),
        Shape::List(element) => {
            let mut schemas = alternatives(*element);
            schemas.push(json!({ "type": "array", "items": of_shape(*element), "minItems": 1 }));
            schemas
        }
        shape => vec![of_shape(shape)],
    }
}

/// Adds the members of one object to another.
fn extend(schema: &mut Value, more: Value) {
    if let (Value::Object(schema), Value::Object(more)) = (schema, more) {
        schema.extend(more);
    }
}

/// A value written in TOML.
fn parsed(toml: &str) -> Option<Value> {
    let text = format!("value = {toml}");
    let table = DeTable::parse(&text).ok()?;
    from_toml(table.get_ref().get("value")?.get_ref())
}

fn from_toml(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => json!(text),
        DeValue::Integer(number) => json!(number.as_str().parse::<i64>().ok()?),
        DeValue::Boolean(boolean) => json!(boolean),
        DeValue::Datetime(date) => json!(date.to_string()),
        DeValue::Float(_) => return None,
        DeValue::Array(array) => {
            let elements = array.iter().map(|element| from_toml(element.get_ref()));
            Value::Array(elements.collect::<Option<_>>()?)
        }
        DeValue::Table(table) => {
            let members = table.iter().map(|(name, value)| {
                Some((name.get_ref().to_string(), from_toml(value.get_ref())?))
            });
            Value::Object(members.collect::<Option<_>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &TableKeys, seen: &mut usize) {
        for key in keys.known {
            *seen += 1;
            let name = format!("`{}` of {}", key.name, keys.of);
            assert!(key.about.ends_with('.'), "{name}: a sentence");
            for value in [key.default, key.example].into_iter().flatten() {
                assert!(parsed(value).is_some(), "{name}: {value}");
            }
            descend(key.shape, seen);
        }
    }

    fn descend(shape: Shape, seen: &mut usize) {
        match shape {
            Shape::Table(keys) | Shape::Tables(keys) => check(keys, seen),
            Shape::List(each) | Shape::Definitions { each, .. } => descend(*each, seen),
            Shape::OneOf(shapes) => shapes.iter().for_each(|shape| descend(*shape, seen)),
            Shape::Names { keys, each, .. } => {
                check(keys, seen);
                descend(*each, seen);
            }
            _ => {}
        }
    }

    #[test]
    fn every_key_says_what_it_is() {
        let mut seen = 0;
        check(&ROOT, &mut seen);
        assert!(seen > 90, "only {seen} keys");
    }
}
