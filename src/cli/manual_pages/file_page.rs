//! Pages of section 5: `sidegate.toml` and policies, by the declarations of their keys. Rules and
//! examples come from docs/spec/formats.md, which tests hold to the program.

use super::page::Page;
use crate::cli::manual::FILES;
use sidegate::control::config::keys::{DescribedKey, DescribedTable, FileKind};

const FORMATS: &str = include_str!("../../../docs/spec/formats.md");

/// The pages by their names.
pub fn all() -> Vec<(String, String)> {
    let config = FilePage {
        kind: FileKind::Config,
        name: "sidegate.toml",
        about: "configuration of the WebSocket sidecar sidegate(1)",
        synopsis: "/etc/sidegate/sidegate.toml",
        heading: "## `sidegate.toml`",
        lists: "",
        see_also: "`sidegate`(1), `sidegate-check`(1), `sidegate-schema`(1), `sidegate-policy`(5)",
    };
    let policy = FilePage {
        kind: FileKind::Policy,
        name: "sidegate-policy",
        about: "access policies of the WebSocket sidecar sidegate(1)",
        synopsis: "/etc/sidegate/policies/NAME.toml",
        heading: "## `policies/NAME.toml`",
        lists: "## `policies/lists/NAME.cidr`",
        see_also: "`sidegate`(1), `sidegate-check`(1), `sidegate-explain`(1), \
                   `sidegate-promote`(1), `sidegate.toml`(5)",
    };
    [config, policy].iter().map(|page| (format!("{}.5", page.name), page.write())).collect()
}

/// The parts of a page that its declarations lack.
struct FilePage {
    kind: FileKind,
    name: &'static str,
    about: &'static str,
    synopsis: &'static str,
    /// The heading of the file in the specification.
    heading: &'static str,
    /// The heading of lists. Empty means none.
    lists: &'static str,
    see_also: &'static str,
}

impl FilePage {
    fn write(&self) -> String {
        let mut page = Page::new(self.name, "5");
        page.section("NAME");
        page.text(&format!("{} - {}", self.name, self.about));
        page.section("SYNOPSIS");
        page.text(&format!("`{}`", self.synopsis));
        page.section("DESCRIPTION");
        page.text(self.kind.doc());
        page.markdown(&without_code(part(self.heading)));
        page.subsection("Rules for all files");
        page.markdown(part("## Rules for all files"));
        page.section("KEYS");
        page.text(
            "Behind each key are its values and, in parentheses, its default. A key without a \
             default is off or has no effect if left out, unless its meaning says otherwise.",
        );
        // The very texts of docs/reference.md: a key is described once.
        self.kind.described().iter().for_each(|table| add_table(&mut page, table));
        if !self.lists.is_empty() {
            page.section("LISTS");
            page.markdown(part(self.lists));
            page.subsection("Users of this host");
            page.markdown(part("### Users of this host"));
        }
        page.section("FILES");
        FILES[..4].iter().for_each(|(file, what)| page.term(&format!("`{file}`"), what));
        page.section("EXAMPLES");
        page.markdown(&code(part(self.heading)));
        page.section("SEE ALSO");
        page.text(self.see_also);
        page.finish()
    }
}

fn add_table(page: &mut Page, table: &DescribedTable) {
    page.subsection(table.header.as_deref().unwrap_or("At the top"));
    if !table.doc.is_empty() {
        page.text(&table.doc);
    }
    for DescribedKey { name, values, default, meaning } in &table.keys {
        let default = match &**default {
            "–" => String::new(),
            default => format!(" ({default})"),
        };
        page.term(&format!("`{name}` = {values}{default}"), meaning);
    }
    if !table.reload.is_empty() {
        page.paragraph(&format!("At a reload: {}", table.reload));
    }
}

/// The part of the specification below `heading`, up to the next heading.
fn part(heading: &str) -> &'static str {
    let (_, rest) = FORMATS
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("docs/spec/formats.md has no {heading}"));
    let end = rest.find("\n## ").into_iter().chain(rest.find("\n### ")).min();
    &rest[..end.unwrap_or(rest.len())]
}

/// The blocks of code in `markdown`.
fn code(markdown: &str) -> String {
    let blocks = markdown.split("```").skip(1).step_by(2);
    blocks.map(|block| format!("```{block}```\n")).collect()
}

/// `markdown` without its blocks of code.
fn without_code(markdown: &str) -> String {
    markdown.split("```").step_by(2).collect()
}
