//! The tables of a file in words, from the declarations: for the reference page and the manual.

use super::complete::{example, example_of, tables_of, toml_of};
use super::file::FileKind;
use super::key::{Declaration, KeyTable, ValueSchema};

/// A table of a file. All texts are Markdown.
pub struct DescribedTable {
    /// As in the file: `[reload]`. `None` means the keys at the top.
    pub header: Option<String>,
    /// The table's purpose; empty at the top.
    pub doc: String,
    /// Its keys, and those of the tables inside it.
    pub keys: Vec<DescribedKey>,
    /// Lines of the table in a file; empty at the top.
    pub example: String,
    /// What a reload does with changed keys; empty at the top.
    pub reload: &'static str,
}

/// A key of a table. All texts are Markdown.
pub struct DescribedKey {
    /// The name, behind those of the tables around it.
    pub name: String,
    /// Its values in words.
    pub values: String,
    /// `required`, the default, or `–` for none.
    pub default: String,
    /// Its meaning, with an example where the default is none.
    pub meaning: String,
}

impl FileKind {
    /// All tables of the file, those inside others after them.
    pub fn described(self) -> Vec<DescribedTable> {
        let root = self.root();
        let top = keys(root, |key| tables_of(key).is_empty());
        let (doc, example) = (String::new(), String::new());
        let mut all = vec![DescribedTable { header: None, doc, keys: top, example, reload: "" }];
        for key in root.declared() {
            let tables = tables_of(&key).into_iter();
            all.extend(tables.map(|(header, table)| described(&key, header, table)));
        }
        all
    }
}

fn described(key: &Declaration, header: String, table: &'static KeyTable) -> DescribedTable {
    // A table inside has its own sentence.
    let inner = header.split_once('.').map(|(_, name)| name.trim_matches(']'));
    let outer = match key.schema {
        ValueSchema::Table(outer) => inner.and_then(|name| outer.key(name)),
        _ => None,
    };
    let doc = marked(outer.map_or(key.doc, |inner| inner.doc));
    let (keys, example) = (keys(table, |_| true), example_of(key, table));
    DescribedTable { header: Some(header), doc, keys, example, reload: table.reload }
}

/// The keys of `table` that `is_wanted` takes, and those of the tables inside them.
fn keys(table: &KeyTable, is_wanted: impl Fn(&Declaration) -> bool) -> Vec<DescribedKey> {
    let mut all = Vec::new();
    for key in table.declared().filter(is_wanted) {
        add(&mut all, "", &key, table.inherits);
    }
    all
}

fn add(all: &mut Vec<DescribedKey>, above: &str, key: &Declaration, inherits: Option<&str>) {
    let name = format!("{above}{}", key.name);
    let default = match (&key.default, inherits) {
        _ if key.facts.is_required => "required".to_owned(),
        (_, Some(table)) => format!("as in `{table}`"),
        (Some(default), None) => format!("`{}`", toml_of(default)),
        (None, None) => "–".to_owned(),
    };
    let example = match example(key) {
        Some(example) if !key.facts.example.is_empty() => format!(" Example: `{example}`."),
        _ => String::new(),
    };
    let (meaning, values) = (marked(key.doc) + &example, key.words.clone());
    all.push(DescribedKey { name: name.clone(), values, default, meaning });
    let inside = match key.schema {
        ValueSchema::Table(table) | ValueSchema::OffOrTable(table) => table,
        _ => return,
    };
    // A table with a required key is replaced as a whole, so its keys inherit nothing.
    let is_whole = inside.declared().any(|key| key.facts.is_required);
    let inherits = inherits.or(inside.inherits).filter(|_| !is_whole);
    for key in inside.declared() {
        add(all, &format!("{name}."), &key, inherits);
    }
}

/// `text` with its strings as code: Markdown would read `*` and `_` in them.
fn marked(text: &str) -> String {
    let mut marked = String::new();
    let mut is_code = false;
    for (at, part) in text.split('"').enumerate() {
        let is_string = at % 2 == 1;
        match (is_string, is_code) {
            (true, false) => marked.push_str(&format!("`\"{part}\"`")),
            (true, true) => marked.push_str(&format!("\"{part}\"")),
            (false, _) => marked.push_str(part),
        }
        is_code ^= !is_string && part.matches('`').count() % 2 == 1;
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::marked;

    #[test]
    fn strings_are_code_unless_they_are_in_code_already() {
        assert_eq!(marked("\"*\" or \"off\""), "`\"*\"` or `\"off\"`");
        assert_eq!(marked("see `a = \"b\"` and \"c\""), "see `a = \"b\"` and `\"c\"`");
    }
}
