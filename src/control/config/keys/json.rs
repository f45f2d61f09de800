//! The JSON Schema (2020-12) of a file, from the declarations of its keys.

use super::any_file::NAME;
use super::key::{Declaration, Declared, KeyTable, ValueSchema};

/// Widest line on which an object or an array is written whole.
const WIDTH: usize = 120;

/// The same near the left edge, where the keys of the file are.
const SHORT: usize = 60;

/// JSON whose members keep the order in which they are declared.
enum JsonNode {
    /// JSON as it is declared.
    Text(String),
    Members(Vec<(String, JsonNode)>),
    Items(Vec<JsonNode>),
}

/// The schema of a file whose top has the keys of `root`.
pub fn schema(title: &str, doc: &str, root: &KeyTable) -> String {
    let mut definitions = Vec::new();
    let mut members = vec![
        member("$schema", quoted("https://json-schema.org/draft/2020-12/schema")),
        member("title", quoted(title)),
        member("description", quoted(doc)),
    ];
    members.extend(of_table(root, root.inherits.is_some(), &mut definitions));
    members.push(member("$defs", JsonNode::Members(definitions)));
    format!("{}\n", JsonNode::Members(members).pretty(0))
}

fn member(name: &str, node: JsonNode) -> (String, JsonNode) {
    (name.to_owned(), node)
}

fn quoted(text: &str) -> JsonNode {
    JsonNode::Text(serde_json::Value::from(text).to_string())
}

fn declared(members: &[(&str, &str)]) -> Vec<(String, JsonNode)> {
    members.iter().map(|(name, text)| member(name, JsonNode::Text((*text).to_owned()))).collect()
}

/// The members of the schema of `table`. Where it `inherits`, its keys have no defaults.
fn of_table(
    table: &KeyTable,
    inherits: bool,
    definitions: &mut Vec<(String, JsonNode)>,
) -> Vec<(String, JsonNode)> {
    let inherits = inherits || table.inherits.is_some();
    let required: Vec<_> = table.declared().filter(|key| key.facts.is_required).collect();
    let mut members = vec![member("type", quoted("object"))];
    if !required.is_empty() {
        let names = required.iter().map(|key| quoted(key.name)).collect();
        members.push(member("required", JsonNode::Items(names)));
    }
    members.push(member("additionalProperties", JsonNode::Text("false".into())));
    let properties =
        table.declared().map(|key| (key.name.to_owned(), of_key(&key, inherits, definitions)));
    members.push(member("properties", JsonNode::Members(properties.collect())));
    members.extend(declared(table.schema));
    members
}

/// The schema of `key`, or a reference to its definition, which is added once.
fn of_key(
    key: &Declaration,
    inherits: bool,
    definitions: &mut Vec<(String, JsonNode)>,
) -> JsonNode {
    let Some(name) = key.facts.definition else {
        return JsonNode::Members(members_of(key, inherits, definitions));
    };
    if !definitions.iter().any(|(known, _)| known == name) {
        let members = members_of(key, false, definitions);
        definitions.push(member(name, JsonNode::Members(members)));
    }
    // Editors ignore other members beside a reference.
    JsonNode::Members(vec![member("$ref", quoted(&format!("#/$defs/{name}")))])
}

fn members_of(
    key: &Declaration,
    inherits: bool,
    definitions: &mut Vec<(String, JsonNode)>,
) -> Vec<(String, JsonNode)> {
    let mut members = vec![member("description", quoted(key.doc))];
    match key.schema {
        ValueSchema::Members(own) => members.extend(declared(own)),
        ValueSchema::OfForm => {
            let of_form = key.of_form.iter();
            members.extend(of_form.map(|(name, text)| member(name, JsonNode::Text(text.clone()))));
        }
        ValueSchema::Table(table) => members.extend(of_table(table, inherits, definitions)),
        ValueSchema::Tables(table) => {
            let item = JsonNode::Members(of_table(table, inherits, definitions));
            members.extend([member("type", quoted("array")), member("items", item)]);
        }
        ValueSchema::OffOrTable(table) => {
            let off = JsonNode::Members(vec![member("const", quoted("off"))]);
            let table = JsonNode::Members(of_table(table, inherits, definitions));
            members.push(member("anyOf", JsonNode::Items(vec![off, table])));
        }
        ValueSchema::ListsByName(table, entry) => {
            let item = member("items", JsonNode::Text(entry.to_owned()));
            let array = JsonNode::Members(vec![member("type", quoted("array")), item]);
            let table = JsonNode::Members(of_table(table, inherits, definitions));
            let list =
                JsonNode::Members(vec![member("anyOf", JsonNode::Items(vec![array, table]))]);
            let names = of_key(&NAME.declared(), inherits, definitions);
            members.extend([
                member("type", quoted("object")),
                member("propertyNames", names),
                member("additionalProperties", list),
            ]);
        }
    }
    if let Some(default) = key.default.as_ref().filter(|_| !inherits) {
        members.push(member("default", JsonNode::Text(spaced(default))));
    }
    members
}

/// JSON on one line, with spaces as in the rest of the schema.
fn spaced(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(members) => {
            let members: Vec<_> =
                members.iter().rev().map(|(name, value)| format!("\"{name}\": {value}")).collect();
            format!("{{ {} }}", members.join(", "))
        }
        serde_json::Value::Array(items) => {
            let items: Vec<_> = items.iter().map(spaced).collect();
            format!("[{}]", items.join(", "))
        }
        plain => plain.to_string(),
    }
}

impl JsonNode {
    /// The JSON, on one line where it has room behind `indent` columns.
    fn pretty(&self, indent: usize) -> String {
        let inner = " ".repeat(indent + 2);
        let (open, parts, close): (_, Vec<_>, _) = match self {
            JsonNode::Text(text) => {
                return text.replace('\n', &format!("\n{}", " ".repeat(indent)));
            }
            JsonNode::Members(members) => {
                let part = |(name, node): &(String, JsonNode)| {
                    format!("\"{name}\": {}", node.pretty(indent + 2))
                };
                ("{", members.iter().map(part).collect(), "}")
            }
            JsonNode::Items(items) => {
                ("[", items.iter().map(|item| item.pretty(indent + 2)).collect(), "]")
            }
        };
        let space = if open == "{" { " " } else { "" };
        let line = format!("{open}{space}{}{space}{close}", parts.join(", "));
        // Tables of keys are never on one line, however few their keys are.
        let room = if indent > 4 { WIDTH } else { SHORT };
        if line.len() + indent <= room && !line.contains('\n') {
            return line;
        }
        format!(
            "{open}\n{inner}{}\n{}{close}",
            parts.join(&format!(",\n{inner}")),
            " ".repeat(indent)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{JsonNode, SHORT, WIDTH, member, quoted};

    #[test]
    fn an_object_is_on_one_line_where_it_has_room() {
        let node = |text: &str| JsonNode::Members(vec![member("key", quoted(text))]);
        assert_eq!(node("value").pretty(0), "{ \"key\": \"value\" }");
        let (short, long) = ("x".repeat(SHORT), "x".repeat(WIDTH));
        assert_eq!(node(&short).pretty(2), format!("{{\n    \"key\": \"{short}\"\n  }}"));
        assert_eq!(node(&short).pretty(6), format!("{{ \"key\": \"{short}\" }}"));
        assert!(node(&long).pretty(6).starts_with("{\n        \"key\""));
    }
}
