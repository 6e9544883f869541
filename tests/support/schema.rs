//! The schemas of the documents: what one does not allow, which fields it names, and which of them a document fills.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use serde_json::Value;

/// How many errors are told.
const SHOWN: usize = 10;
/// Beyond this many bytes a text leaves out the value that is wrong, which can be the whole document.
const MAX_TEXT: usize = 200;

/// The schema `docs/{name}.schema.json`.
fn load(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{name}.schema.json"));
    let text = fs::read_to_string(&path).expect("the schema is there");
    serde_json::from_str(&text).expect("the schema is JSON")
}

/// Makes a schema refuse fields that it does not name. Programs that read documents must let them pass, as later versions add some;
/// ours are all to be named.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.values_mut().for_each(close);
            if members.contains_key("properties") {
                members
                    .entry("additionalProperties")
                    .or_insert(Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// What in `document` the schema `docs/{name}.schema.json` does not allow, or does not name.
pub fn find_schema_errors(name: &str, document: &Value) -> Vec<String> {
    let mut schema = load(name);
    close(&mut schema);
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("the schema is one");
    let errors = validator.iter_errors(document).take(SHOWN);
    errors.map(|error| tell(&error)).collect()
}

/// An error in words: of a choice, why none of it fits.
fn tell(error: &ValidationError<'_>) -> String {
    match error.kind() {
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            let all: Vec<_> = context.iter().flatten().map(tell).collect();
            all.join(", or ")
        }
        _ => {
            let mut text = error.to_string();
            if text.len() > MAX_TEXT {
                text = error.masked().to_string();
            }
            format!("{}: {text}", error.instance_path())
        }
    }
}

/// The paths of all fields that a schema names, as in `.processes[].pid`.
pub fn fields_of(name: &str) -> BTreeSet<String> {
    let schema = load(name);
    let mut all = BTreeSet::new();
    collect_fields(&schema, &schema, "", &[], &mut all);
    all
}

/// Adds the paths of all properties; what contains itself is followed once.
fn collect_fields(
    root: &Value,
    schema: &Value,
    path: &str,
    above: &[&str],
    all: &mut BTreeSet<String>,
) {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|text| text.rsplit('/').next())
    {
        if !above.contains(&name) {
            let above = [above, &[name]].concat();
            collect_fields(root, &root["$defs"][name], path, &above, all);
        }
        return;
    }
    for choice in ["anyOf", "oneOf"] {
        for one in schema[choice].as_array().into_iter().flatten() {
            collect_fields(root, one, path, above, all);
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        collect_fields(root, property, &path, above, all);
        all.insert(path);
    }
    if schema["items"].is_object() {
        collect_fields(root, &schema["items"], &format!("{path}[]"), above, all);
    }
}

/// Adds the paths of all fields of a document that are not null.
pub fn collect_filled(document: &Value, path: &str, filled: &mut BTreeSet<String>) {
    match document {
        Value::Object(members) => {
            for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{name}");
                collect_filled(value, &path, filled);
                filled.insert(path);
            }
        }
        Value::Array(items) => {
            for item in items {
                collect_filled(item, &format!("{path}[]"), filled);
            }
        }
        _ => {}
    }
}
