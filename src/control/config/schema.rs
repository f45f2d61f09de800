//! The JSON Schema (2020-12) of the TOML files, for editors: it completes, explains and flags while somebody types.
//!
//! It says less than a load does, and never contradicts one: what loads is valid, but for a baseline that denies
//! nobody. Keys that this version doesn't act on are not in it. Tests hold it to what the readers ask for.

use serde_json::{Map, Value, json};

/// Of `sidegate.toml`.
pub const CONFIG: &str = include_str!("schema/config.json");

/// Of `policies/NAME.toml`, `NAME.shadow.toml` and `baseline.toml`.
pub const POLICY: &str = include_str!("schema/policy.json");

/// One schema for either kind of file.
pub fn both() -> Value {
    let mut definitions = Map::new();
    for (name, text) in [("config", CONFIG), ("policy", POLICY)] {
        // Ours, and read by every test.
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
