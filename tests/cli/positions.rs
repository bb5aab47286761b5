//! Where values stand in a policy, as the schema tells it: every key of every table.

use serde_json::Value;

/// The paths of all keys, `*` for a name of the user's own (`denied`, which is a log class that is used) and `[]` for an element; with the example of each.
pub fn keys_of(
    schema: &Value,
    steps: &mut Vec<String>,
    keys: &mut Vec<(Vec<String>, Option<Value>)>,
) {
    for (name, key) in schema["properties"].as_object().into_iter().flatten() {
        steps.push(name.clone());
        let example = key.get("default").or(key["examples"].get(0));
        keys.push((steps.clone(), example.cloned()));
        keys_of(key, steps, keys);
        steps.pop();
    }
    for alternative in schema["anyOf"].as_array().into_iter().flatten() {
        keys_of(alternative, steps, keys);
    }
    for (member, step) in [("additionalProperties", "*"), ("items", "[]")] {
        if schema[member].is_object() {
            steps.push(step.to_owned());
            keys_of(&schema[member], steps, keys);
            steps.pop();
        }
    }
}

/// A policy with this value at the end of the steps, and beside them what the tables need.
pub fn policy_with(schema: &Value, steps: &[String], value: &str) -> String {
    let [step, rest @ ..] = steps else {
        return value.to_owned();
    };
    let mut tables: Vec<_> = [schema]
        .into_iter()
        .chain(schema["anyOf"].as_array().into_iter().flatten())
        .collect();
    // A limit is one of several tables: what goes with the key is in the one that has it.
    if let Some(own) = tables
        .iter()
        .find(|table| table["properties"].get(step).is_some())
    {
        tables = vec![own];
    }
    let member = |name: &str| {
        let found = tables
            .iter()
            .map(|table| &table[name])
            .find(|it| it.is_object());
        found.unwrap_or_else(|| panic!("no {name} at {step}"))
    };
    let inner = match step.as_str() {
        "[]" => return format!("[{}]", policy_with(member("items"), rest, value)),
        "*" => {
            let inner = policy_with(member("additionalProperties"), rest, value);
            return format!("{{ denied = {inner} }}");
        }
        _ => policy_with(&member("properties")[step], rest, value),
    };
    let mut members = vec![(step.clone(), inner)];
    let required = tables
        .iter()
        .filter_map(|table| table["required"].as_array())
        .flatten();
    for name in required
        .filter_map(Value::as_str)
        .filter(|name| name != step)
    {
        let key = &member("properties")[name];
        members.push((name.to_owned(), toml_of(&key["examples"][0])));
    }
    if schema.get("$schema").is_none() {
        let members: Vec<_> = members
            .iter()
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        return format!("{{ {} }}", members.join(", "));
    }
    if step != "version" {
        members.insert(0, ("version".to_owned(), "1".to_owned()));
    }
    members
        .iter()
        .map(|(name, value)| format!("{name} = {value}\n"))
        .collect()
}

/// JSON as TOML; a text that is a date is a date.
pub fn toml_of(value: &Value) -> String {
    match value {
        Value::String(text) if is_date(text) => text.clone(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(array) => format!(
            "[{}]",
            array.iter().map(toml_of).collect::<Vec<_>>().join(", ")
        ),
        Value::Object(object) => {
            let members = object
                .iter()
                .map(|(name, value)| format!("{name} = {}", toml_of(value)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn is_date(text: &str) -> bool {
    let read = text.parse::<toml::value::Datetime>();
    read.is_ok_and(|read| read.date.is_some())
}
