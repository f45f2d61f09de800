//! The JSON Schema (2020-12) of the TOML files, with which editors complete, explain and flag keys.
//!
//! Checks less than a load does, and never contradicts one: files that load are valid, except for a
//! baseline that denies nothing. Leaves out keys that this version does not act on. Tests compare
//! it with the keys that the readers ask for.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

/// JSON Schema of `sidegate.toml`.
pub const CONFIG: &str = include_str!("schema/config.json");

/// JSON Schema of `policies/NAME.toml`, `NAME.shadow.toml` and `baseline.toml`.
pub const POLICY: &str = include_str!("schema/policy.json");

/// Every list of tables that a file may have, with the keys of one table.
pub fn lists_of_tables() -> Vec<(String, Vec<Cow<'static, str>>)> {
    let schemas =
        [CONFIG, POLICY].map(|text| serde_json::from_str::<Value>(text).unwrap_or_default());
    schemas.iter().flat_map(|schema| lists_in(schema, schema, "")).collect()
}

/// The lists of tables in `table`, whose keys begin with `above`, and in its inner tables.
fn lists_in(schema: &Value, table: &Value, above: &str) -> Vec<(String, Vec<Cow<'static, str>>)> {
    let resolved = |at: &Value| -> Value {
        let name = at["$ref"].as_str().and_then(|at| at.strip_prefix("#/$defs/"));
        name.map_or(at, |name| &schema["$defs"][name]).clone()
    };
    let mut lists = Vec::new();
    for (key, value) in table["properties"].as_object().into_iter().flatten() {
        let (value, name) = (resolved(value), format!("{above}{key}"));
        let item = resolved(&value["items"]);
        if let Some(keys) = item["properties"].as_object() {
            lists.push((name, keys.keys().map(|key| Cow::from(key.clone())).collect()));
        } else if above.is_empty() {
            lists.extend(lists_in(schema, &value, &format!("{name}.")));
        }
    }
    lists
}

/// A schema that accepts either kind of file.
pub fn both() -> Value {
    let mut definitions = Map::new();
    for (name, text) in [("config", CONFIG), ("policy", POLICY)] {
        // Never fails: the schemas are compiled in, and tests parse them.
        let Ok(Value::Object(mut schema)) = serde_json::from_str(text) else { continue };
        if let Some(Value::Object(inner)) = schema.remove("$defs") {
            definitions.extend(inner);
        }
        schema.remove("$schema");
        definitions.insert(name.into(), schema.into());
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sidegate",
        "description": "sidegate.toml, or a file of policies/.",
        "anyOf": [{ "$ref": "#/$defs/config" }, { "$ref": "#/$defs/policy" }],
        "$defs": definitions,
    })
}
