//! The part of JSON Schema that the schemas use. Any other keyword in a schema is an error.
//!
//! tests/system/schema.py checks the same schemas with a complete implementation.

use std::collections::BTreeSet;

use regex_lite::Regex;
use serde_json::Value;

/// Faults of `value` by `schema`, a part of `root`, each with its place.
pub fn faults(root: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    let Value::Object(keywords) = schema else {
        return if schema == &Value::Bool(true) {
            Vec::new()
        } else {
            vec![format!("{place}: not allowed")]
        };
    };
    let mut all = Vec::new();
    for (keyword, said) in keywords {
        all.extend(match keyword.as_str() {
            "$ref" => faults(root, resolve(root, said), value, place),
            "anyOf" => any_of(root, items(said), value, place),
            "not" => refused(place, "not", is_valid(root, said, value)),
            "if" => {
                let branch = if is_valid(root, said, value) { "then" } else { "else" };
                keywords
                    .get(branch)
                    .map(|branch| faults(root, branch, value, place))
                    .unwrap_or_default()
            }
            "properties"
            | "additionalProperties"
            | "propertyNames"
            | "required"
            | "dependentRequired" => value
                .as_object()
                .map(|_| of_object(root, keywords, keyword, value, place))
                .unwrap_or_default(),
            "items" => {
                let items = value.as_array().into_iter().flatten().enumerate();
                items
                    .flat_map(|(at, item)| faults(root, said, item, &format!("{place}/{at}")))
                    .collect()
            }
            _ => refused(place, keyword, !holds(keyword, said, value)),
        });
    }
    all
}

/// The schema that `reference` refers to.
pub fn resolve<'s>(root: &'s Value, reference: &Value) -> &'s Value {
    let pointer = reference
        .as_str()
        .and_then(|text| text.strip_prefix('#'))
        .expect("a reference within the file");
    root.pointer(pointer).unwrap_or_else(|| panic!("{pointer} leads nowhere"))
}

fn is_valid(root: &Value, schema: &Value, value: &Value) -> bool {
    faults(root, schema, value, "").is_empty()
}

fn refused(place: &str, keyword: &str, refused: bool) -> Vec<String> {
    if refused { vec![format!("{place}: {keyword}")] } else { Vec::new() }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

fn any_of(root: &Value, all: &[Value], value: &Value, place: &str) -> Vec<String> {
    let each: Vec<_> = all.iter().map(|one| faults(root, one, value, place)).collect();
    if each.iter().any(Vec::is_empty) { Vec::new() } else { each.concat() }
}

fn of_object(
    root: &Value,
    all: &serde_json::Map<String, Value>,
    keyword: &str,
    value: &Value,
    place: &str,
) -> Vec<String> {
    let known: BTreeSet<_> = all
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|known| known.keys())
        .collect();
    let (said, object) = (&all[keyword], value.as_object().expect("an object"));
    let below = |key: &String| format!("{place}/{key}");
    match keyword {
        "required" => {
            let missing =
                items(said).iter().filter(|key| !object.contains_key(key.as_str().expect("a key")));
            missing.map(|key| format!("{place}: no {key}")).collect()
        }
        "dependentRequired" => {
            let there = said
                .as_object()
                .expect("keys")
                .iter()
                .filter(|(key, _)| object.contains_key(key.as_str()));
            let needed = there
                .flat_map(|(key, needed)| items(needed).iter().map(move |needed| (key, needed)));
            let missing =
                needed.filter(|(_, needed)| !object.contains_key(needed.as_str().expect("a key")));
            missing.map(|(key, needed)| format!("{place}: {key} without {needed}")).collect()
        }
        "propertyNames" => object
            .keys()
            .flat_map(|key| faults(root, said, &Value::from(key.as_str()), &below(key)))
            .collect(),
        "properties" => {
            let named = object.iter().filter_map(|(key, value)| Some((key, value, said.get(key)?)));
            named
                .flat_map(|(key, value, schema)| faults(root, schema, value, &below(key)))
                .collect()
        }
        _ => {
            let others = object.iter().filter(|(key, _)| !known.contains(key));
            others.flat_map(|(key, value)| faults(root, said, value, &below(key))).collect()
        }
    }
}

/// Whether `value` satisfies a keyword that needs no other. Values of other types satisfy it.
fn holds(keyword: &str, said: &Value, value: &Value) -> bool {
    let number = || said.as_i64().expect("an integer");
    match keyword {
        "$schema" | "$defs" | "title" | "description" | "default" | "then" | "else" => true,
        "const" => value == said,
        "enum" => items(said).contains(value),
        "type" => match said.as_str().expect("one type") {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            other => panic!("{other} is not read here"),
        },
        "pattern" => value.as_str().is_none_or(|text| {
            Regex::new(said.as_str().expect("a pattern")).unwrap().is_match(text)
        }),
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() as i64 >= number()),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as i64 <= number()),
        "minimum" => value.as_i64().is_none_or(|value| value >= number()),
        "maximum" => value.as_i64().is_none_or(|value| value <= number()),
        "minProperties" => value.as_object().is_none_or(|all| all.len() as i64 >= number()),
        "maxProperties" => value.as_object().is_none_or(|all| all.len() as i64 <= number()),
        "minItems" => value.as_array().is_none_or(|all| all.len() as i64 >= number()),
        "uniqueItems" => value
            .as_array()
            .is_none_or(|all| (1..all.len()).all(|at| !all[..at].contains(&all[at]))),
        other => panic!("{other} is not read here"),
    }
}
