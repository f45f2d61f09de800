//! The comments of the files that `init` writes, from the declarations of their keys.

use super::complete::{example, table_of};
use super::key::{Declaration, KeyTable};

/// Longest key that others are aligned with.
const MAX_ALIGNED: usize = 18;

/// A line of the template.
enum TemplateLine<'t> {
    /// A key that is set, with its value.
    Set(Declaration, String),
    /// A key that is off, with its default or an example.
    Off(Declaration, String),
    /// Any other line, left as it is.
    Other(&'t str),
}

/// Completes `template` as [`FileKind::commented`](super::FileKind::commented) says.
pub fn commented(template: &str, root: &KeyTable, column: usize) -> String {
    let (mut text, mut seen) = (String::new(), Vec::new());
    let lines: Vec<_> = template.lines().collect();
    for section in lines.chunk_by(|_, next| !next.starts_with('[')) {
        let Some(header) = section.first().filter(|line| line.starts_with('[')) else {
            write(&mut text, &lines_of(section, Some(root)), Some(column));
            continue;
        };
        let name = header.trim_matches(['[', ']']);
        let key = find(root, name);
        // A table that is there several times is explained once.
        let doc = key.as_ref().map(|key| key.doc).filter(|_| !seen.contains(&name));
        seen.push(name);
        text.push_str(&with_comment(header, doc, column));
        let lines = lines_of(&section[1..], key.as_ref().and_then(table_of));
        write(&mut text, &lines, doc.map(|_| column));
    }
    text
}

/// The key of the table with this header: `limits.for` is in `limits`.
fn find(root: &KeyTable, name: &str) -> Option<Declaration> {
    match name.split_once('.') {
        Some((outer, inner)) => table_of(&root.key(outer)?)?.key(inner),
        None => root.key(name),
    }
}

fn lines_of<'t>(section: &[&'t str], table: Option<&KeyTable>) -> Vec<TemplateLine<'t>> {
    let named: Vec<_> = section.iter().map(|line| name_in(line)).collect();
    let mut lines = Vec::new();
    for line in section {
        let key = table.and_then(|table| table.key(name_in(line)));
        match (key.filter(|key| key.facts.is_offered), line.split_once('=')) {
            _ if *line == "#*" => {
                let keys = table.into_iter().flat_map(KeyTable::declared);
                let others = keys.filter(|key| key.facts.is_offered && !named.contains(&key.name));
                lines.extend(others.filter_map(off));
            }
            (Some(key), None) => lines.extend(off(key)),
            (Some(key), Some((_, value))) if !line.starts_with('#') => {
                lines.push(TemplateLine::Set(key, value.trim().to_owned()));
            }
            _ => lines.push(TemplateLine::Other(line)),
        }
    }
    lines
}

/// The key that a line of a template sets, `key = value`, or names to be off, `#key`.
fn name_in(line: &str) -> &str {
    let name = line.split_once('=').map_or(line, |(name, _)| name);
    name.trim_start_matches('#').trim()
}

/// The line of a key that is off. `None` means that there is no value to show.
fn off<'t>(key: Declaration) -> Option<TemplateLine<'t>> {
    let value = example(&key)?;
    Some(TemplateLine::Off(key, value))
}

/// Writes a section. `column` is that of its comments; `None` means without comments.
fn write(text: &mut String, lines: &[TemplateLine<'_>], column: Option<usize>) {
    let aligned = |key: &Declaration| Some(key.name.len()).filter(|width| *width <= MAX_ALIGNED);
    let set = lines.iter().filter_map(|line| match line {
        TemplateLine::Set(key, _) => aligned(key),
        TemplateLine::Off(..) | TemplateLine::Other(_) => None,
    });
    let off = lines.iter().filter_map(|line| match line {
        TemplateLine::Off(key, _) => aligned(key),
        TemplateLine::Set(..) | TemplateLine::Other(_) => None,
    });
    let (set, off) = (set.max().unwrap_or_default(), off.max().unwrap_or_default());
    // A key that is enabled later, by removing its `#`, is then still aligned with the others.
    let off = off.max(set);
    for line in lines {
        let (line, doc) = match line {
            TemplateLine::Set(key, value) => {
                (format!("{:<set$} = {value}", key.name), Some(key.doc))
            }
            TemplateLine::Off(key, value) => {
                (format!("#{:<off$} = {value}", key.name), Some(key.doc))
            }
            TemplateLine::Other(line) => ((*line).to_owned(), None),
        };
        text.push_str(&with_comment(&line, column.and(doc), column.unwrap_or_default()));
    }
}

/// `line`, and the first sentence of `doc` as a comment.
fn with_comment(line: &str, doc: Option<&str>, column: usize) -> String {
    // A long line has one space before its comment.
    let column = column.max(line.chars().count() + 1);
    match doc {
        Some(doc) => format!("{line:<column$}# {}\n", first_sentence(doc)),
        None => format!("{line}\n"),
    }
}

/// The first sentence of `doc`, without the point at its end.
fn first_sentence(doc: &str) -> &str {
    doc.split_once(". ").map_or(doc.trim_end_matches('.'), |(first, _)| first)
}

#[cfg(test)]
mod tests {
    use crate::control::config::keys::FileKind;

    #[track_caller]
    fn check(template: &str, expected: &str) {
        assert_eq!(FileKind::Config.commented(template, 30), expected);
    }

    #[test]
    fn keys_that_a_template_leaves_out_are_off_with_their_defaults() {
        check(
            "[shutdown]\nspread = \"1s\"\n#*\n",
            "[shutdown]                    # How the process ends\n\
             spread = \"1s\"                 # Tunnels are closed over this time\n\
             #delay            = \"0s\"      # /readyz says 503 for this time before accepting \
             stops\n\
             #deadline         = \"30s\"     # After this time the rest is cut\n\
             #deadline_upgrade = \"24h\"     # After an upgrade, the former process drains once \
             this time is over\n\
             #code             = 1001      # Close code: 1001 (going away) or 1012 (service \
             restart)\n",
        );
    }

    #[test]
    fn a_table_is_explained_once_and_other_lines_are_kept() {
        check(
            "# x = 1\n[[certificate]]\nchain = \"a\"\n\n[[certificate]]\nchain = \"b\"\n[other]\ny = 2\n",
            "# x = 1\n\
             [[certificate]]               # Chosen by SNI, by the names in the certificate; the \
             first is the default\n\
             chain = \"a\"                   # A PEM file: the certificate, then its intermediates\n\
             \n\
             [[certificate]]\nchain = \"b\"\n[other]\ny = 2\n",
        );
    }

    #[test]
    fn a_key_is_off_where_the_template_names_it() {
        check(
            "[process]\n#threads\n#*\n",
            "[process]                     # A change of this \
             table needs a restart\n#threads = \"auto\"             # Number of data-plane threads; \
             \"auto\": as many as the CPUs that the process may use\n\
             #state   = \"auto\"             # Folder for what outlasts a restart, such as bans\n",
        );
    }
}
