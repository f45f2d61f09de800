//! `docs/reference.md`, from the declarations.

use super::complete::{example, example_of, tables_of, toml_of};
use super::file::FileKind;
use super::key::{Declaration, KeyTable, ValueSchema};

const INTRODUCTION: &str = "\
# Reference

Every key of [`sidegate.toml`](#sidegatetoml) and of a [policy](#policiesnametoml).
The page is made of the declarations in `src/control/config/keys/`; a test compares the two.
[formats.md](spec/formats.md) has the rules for files, values and units.
[wire.md](spec/wire.md) has those for the network.

`required` means that the key must be given.
`–` means that the key has no default, and its meaning says what an absent key does.
A key is changed by saving its file.
Each table ends with what the reload does then.
";

/// Writes the whole page.
pub fn reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    for file in [FileKind::Config, FileKind::Policy] {
        let root = file.root();
        page.push_str(&format!("\n## `{}`\n\n{}\n", file.title(), file.doc().replace(". ", ".\n")));
        page.push_str(&format!("\n### At the top\n\n{}", rows(root, RowFilter::Top)));
        for key in root.declared() {
            for (header, table) in tables_of(&key) {
                page.push_str(&section(&key, &header, table));
            }
        }
    }
    page
}

/// The keys that a table of the page has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RowFilter {
    /// Keys without a header of their own.
    Top,
    /// Every key of the table.
    All,
}

fn section(key: &Declaration, header: &str, table: &KeyTable) -> String {
    // A table inside has its own sentence.
    let inner = header.split_once('.').map(|(_, name)| name.trim_matches(']'));
    let outer = match key.schema {
        ValueSchema::Table(outer) => inner.and_then(|name| outer.key(name)),
        _ => None,
    };
    let doc = marked(outer.map_or(key.doc, |inner| inner.doc)).replace(". ", ".\n");
    let example = example_of(key, table);
    let reload = table.reload.replace(". ", ".\n");
    format!(
        "\n### `{header}`\n\n{doc}\n\n{}\n\
         ```toml\n{header}\n{example}```\n\nAt a reload: {reload}\n",
        rows(table, RowFilter::All)
    )
}

/// The table of the keys of `table`, and of the tables inside them.
fn rows(table: &KeyTable, which: RowFilter) -> String {
    let mut text = "| key | value | default | meaning |\n|---|---|---|---|\n".to_owned();
    for key in table.declared() {
        if which == RowFilter::Top && !tables_of(&key).is_empty() {
            continue;
        }
        add_rows(&mut text, "", &key, table.inherits);
    }
    text
}

fn add_rows(text: &mut String, above: &str, key: &Declaration, inherits: Option<&str>) {
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
    let row = [format!("`{name}`"), key.words.clone(), default, marked(key.doc) + &example];
    text.push_str(&format!("| {} |\n", row.join(" | ").replace('\n', " ")));
    let inside = match key.schema {
        ValueSchema::Table(table) | ValueSchema::OffOrTable(table) => table,
        _ => return,
    };
    // A table with a required key is replaced as a whole, so its keys inherit nothing.
    let is_whole = inside.declared().any(|key| key.facts.is_required);
    let inherits = inherits.or(inside.inherits).filter(|_| !is_whole);
    for key in inside.declared() {
        add_rows(text, &format!("{name}."), &key, inherits);
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
