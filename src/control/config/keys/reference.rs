//! `docs/reference.md`, from the declarations.

use super::described::{DescribedKey, DescribedTable};
use super::file::FileKind;

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
        page.push_str(&format!("\n## `{}`\n\n{}\n", file.title(), lines(file.doc())));
        page.extend(file.described().iter().map(section));
    }
    page
}

fn section(table: &DescribedTable) -> String {
    let DescribedTable { header, doc, keys, example, reload } = table;
    let rows = rows(keys);
    let Some(header) = header else { return format!("\n### At the top\n\n{rows}") };
    format!(
        "\n### `{header}`\n\n{}\n\n{rows}\n\
         ```toml\n{header}\n{example}```\n\nAt a reload: {}\n",
        lines(doc),
        lines(reload)
    )
}

/// The table of `keys`.
fn rows(keys: &[DescribedKey]) -> String {
    let mut text = "| key | value | default | meaning |\n|---|---|---|---|\n".to_owned();
    for DescribedKey { name, values, default, meaning } in keys {
        let row = format!("`{name}` | {values} | {default} | {meaning}").replace('\n', " ");
        text.push_str(&format!("| {row} |\n"));
    }
    text
}

/// `text` with one sentence on each line.
fn lines(text: &str) -> String {
    text.replace(". ", ".\n")
}
