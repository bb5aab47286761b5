//! Tests that `docs/reference/schemas/` has the JSON Schemas of the documents that fwc prints.
//!
//! Only tests generate them, so that schemars is not part of the binary. `FWC_BLESS=1 cargo test --lib schemas` writes them
//! again: review the diff, because a version may get new fields but must not lose one.

use std::collections::BTreeSet;
use std::path::Path;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::output::Document;
use super::{
    change_report, check, diff, explain, history, matrix, services, status, templates, test,
};

/// Returns the file name of a document's schema, and the schema.
fn of<T: Document + JsonSchema>() -> (String, Value) {
    let generator = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = generator.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), T::SCHEMA.into());
    let mut schema = schema.to_value();
    schema["properties"]["schema"] = json!({ "const": T::SCHEMA });
    if let Value::Array(required) = &mut schema["required"] {
        required.push("schema".into());
    }
    let name = T::SCHEMA.trim_start_matches("fwc.").replace('/', "-");
    (format!("{name}.json"), schema)
}

#[test]
fn the_published_schemas_are_those_of_the_types() {
    let schemas = [
        of::<change_report::ApplyDocument>(),
        of::<check::CheckDocument>(),
        of::<diff::json::DiffDocument>(),
        of::<explain::json::ExplainDocument>(),
        of::<history::HistoryDocument>(),
        of::<matrix::MatrixDocument>(),
        of::<services::ServicesDocument>(),
        of::<status::StatusDocument>(),
        of::<templates::TemplatesDocument>(),
        of::<test::TestDocument>(),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/schemas");
    let mut wrong = Vec::new();
    for (name, schema) in &schemas {
        let path = folder.join(name);
        let text = format!("{schema:#}\n");
        if std::env::var_os("FWC_BLESS").is_some() {
            std::fs::write(&path, &text).expect("a schema can be written");
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != text {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "not up to date: {wrong:?}");
    let made: BTreeSet<_> = schemas.into_iter().map(|(name, _)| name).collect();
    let entries = std::fs::read_dir(folder).expect("docs/reference/schemas");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let there: BTreeSet<_> = names.filter(|name| name.ends_with(".json")).collect();
    assert_eq!(there, made, "schemas that nothing makes");
}
