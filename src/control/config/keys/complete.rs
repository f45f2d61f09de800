//! A file with every key that has a default or an example, from the declarations.

use serde_json::Value as Json;

use super::key::{Declaration, KeyTable, ValueSchema};

/// Name of the list in examples.
const LIST: &str = "partners";

/// The file whose top has the keys of `root`.
pub fn complete(root: &KeyTable) -> String {
    let mut text = keys_of(root);
    for key in root.declared() {
        for (header, table) in tables_of(&key) {
            text.push_str(&format!("\n{header}\n{}", example_of(&key, table)));
        }
    }
    text
}

/// The headers below a key of the top, `[limits]` and `[[limits.for]]`, with their tables.
pub fn tables_of(key: &Declaration) -> Vec<(String, &'static KeyTable)> {
    let name = key.name;
    match key.schema {
        ValueSchema::Table(table) => {
            let inner = table.declared().filter_map(|key| match key.schema {
                ValueSchema::Tables(inner) => Some((format!("[[{name}.{}]]", key.name), inner)),
                _ => None,
            });
            std::iter::once((format!("[{name}]"), table)).chain(inner).collect()
        }
        ValueSchema::Tables(table) => vec![(format!("[[{name}]]"), table)],
        ValueSchema::ListsByName(table, _) => vec![(format!("[{name}]"), table)],
        ValueSchema::Members(_) | ValueSchema::OfForm | ValueSchema::OffOrTable(_) => Vec::new(),
    }
}

/// The lines below a header. In `[lists]`, a list has the keys of `table`.
pub fn example_of(key: &Declaration, table: &KeyTable) -> String {
    match key.schema {
        ValueSchema::ListsByName(..) => {
            let keys = keys_of(table).trim_end().replace('\n', ", ");
            format!("office = [\"192.0.2.0/24\"]\n{LIST} = {{ {keys} }}\n")
        }
        _ => keys_of(table),
    }
}

/// A line for each key of `table` that has a value to show.
fn keys_of(table: &KeyTable) -> String {
    let lines = table.declared().filter_map(|key| Some((key.name, example(&key)?)));
    lines.map(|(name, value)| format!("{name} = {value}\n")).collect()
}

/// The table of a key.
pub fn table_of(key: &Declaration) -> Option<&'static KeyTable> {
    match key.schema {
        ValueSchema::Table(table) | ValueSchema::Tables(table) => Some(table),
        _ => None,
    }
}

/// A value of `key` as in a file: its example, or else its default.
pub fn example(key: &Declaration) -> Option<String> {
    let example = key.facts.example;
    match example.is_empty() {
        true => key.default.as_ref().map(toml_of),
        false => Some(example.to_owned()),
    }
}

/// A default as in a file.
pub fn toml_of(value: &Json) -> String {
    match value {
        Json::Object(members) => {
            // Alphabetical, so that the reversed order has the rate before the burst.
            let members: Vec<_> = members
                .iter()
                .rev()
                .map(|(name, value)| format!("{name} = {}", toml_of(value)))
                .collect();
            format!("{{ {} }}", members.join(", "))
        }
        Json::Array(items) => {
            format!("[{}]", items.iter().map(toml_of).collect::<Vec<_>>().join(", "))
        }
        plain => plain.to_string(),
    }
}
