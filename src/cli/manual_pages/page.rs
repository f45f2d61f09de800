//! A manual page in the macros of man(7), and the Markdown that becomes part of one.

use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::{PROGRAM, RELEASE};

/// A page, from its first line on.
pub struct Page(String);

impl Page {
    /// A page with its title line, and nothing else.
    pub fn new(title: &str, section: &str) -> Page {
        let mut roff = Roff::new();
        let source = format!("{PROGRAM} {}", RELEASE.version);
        roff.control("TH", [&title.to_uppercase(), section, RELEASE.date, &source, "Sidegate"]);
        // Names such as SIDEGATE_CONFIG are searched for and copied, and must not be split.
        roff.control("nh", []);
        Page(roff.render())
    }

    /// The page as text, in the form that the linters of man(7) accept.
    pub fn finish(self) -> String {
        tidied(&self.0)
    }

    /// Adds what `write` writes about a command.
    pub fn add_of(&mut self, man: &Man, write: impl Fn(&Man, &mut Vec<u8>) -> std::io::Result<()>) {
        let mut text = Vec::new();
        write(man, &mut text).expect("a vector takes all");
        self.push(&String::from_utf8(text).expect("a page is text"));
    }

    /// Begins a section, whose title is in capitals.
    pub fn section(&mut self, title: &str) {
        self.add(|roff| _ = roff.control("SH", [title]));
    }

    /// Begins a part of a section.
    pub fn subsection(&mut self, title: &str) {
        self.add(|roff| _ = roff.control("SS", [title]));
    }

    /// Adds a line of text in Markdown.
    pub fn text(&mut self, markdown: &str) {
        self.add(|roff| _ = roff.text(inlines(markdown)));
    }

    /// Adds a paragraph in Markdown.
    pub fn paragraph(&mut self, markdown: &str) {
        self.add(|roff| _ = roff.control("PP", []).text(inlines(markdown)));
    }

    /// Adds a term and its meaning, in Markdown.
    pub fn term(&mut self, term: &str, meaning: &str) {
        self.add(|roff| _ = roff.control("TP", []).text(inlines(term)).text(inlines(meaning)));
    }

    /// Adds lines as they are.
    pub fn literal(&mut self, lines: &str) {
        self.add(|roff| {
            roff.control("PP", []).control("RS", ["4"]).control("nf", []);
            for line in lines.lines() {
                // A blank line ends a paragraph, even between `nf` and `fi`.
                match line.is_empty() {
                    true => roff.control("sp", []),
                    false => roff.text([roman(line)]),
                };
            }
            roff.control("fi", []).control("RE", []);
        });
    }

    /// Adds Markdown: paragraphs, tables whose first column has terms, items and code.
    pub fn markdown(&mut self, markdown: &str) {
        let mut lines = markdown.lines().peekable();
        while let Some(line) = lines.next() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // Code first: its lines may look like a table or an item.
            if line.starts_with("```") {
                let code: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
                self.literal(&code.join("\n"));
            } else if line.starts_with('|') {
                let rows = std::iter::from_fn(|| lines.next_if(|line| line.starts_with('|')));
                // The first row has the heads of columns, the second one dashes.
                rows.skip(1).for_each(|row| self.row(row));
            } else {
                let more = std::iter::from_fn(|| lines.next_if(|line| is_continued(line)));
                let more = more.map(|line| format!(" {}", line.trim()));
                let whole = line.to_owned() + &more.collect::<String>();
                match whole.strip_prefix("- ") {
                    Some(item) => self.add(|roff| {
                        roff.control("IP", ["\\(bu", "2"]).text(inlines(item));
                    }),
                    None => self.paragraph(&whole),
                }
            }
        }
    }

    fn row(&mut self, row: &str) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [term, meanings @ ..] = &cells[..] else { return };
        let meanings: Vec<_> = meanings.iter().copied().filter(|cell| !cell.is_empty()).collect();
        let meaning = meanings.join("; ");
        self.term(term, &(meaning.trim_end_matches('.').to_owned() + "."));
    }

    fn add(&mut self, write: impl FnOnce(&mut Roff)) {
        let mut roff = Roff::new();
        write(&mut roff);
        self.push(&roff.render());
    }

    /// Adds `text` without the definitions that each text of roff begins with: the page has them.
    fn push(&mut self, text: &str) {
        // Each rendering begins with the string `Aq`, which keeps an apostrophe from being curled.
        let definitions = Roff::new().render();
        self.0.push_str(text.strip_prefix(&definitions).unwrap_or(text));
    }
}

/// `page` without the blank lines, spaces at ends and breaks that clap_mangen leaves, and without
/// paragraphs that begin a section. Text is wrapped.
fn tidied(page: &str) -> String {
    let (mut tidy, mut before) = (String::new(), "");
    let (mut is_literal, mut follows_break) = (false, false);
    for line in page.lines().map(str::trim_end) {
        let begins_section = before.starts_with(".SH") || before.starts_with(".SS");
        let is_break = line == ".br";
        if line.is_empty() || (is_break && follows_break) || (line == ".PP" && begins_section) {
            continue;
        }
        is_literal = line == ".nf" || (is_literal && line != ".fi");
        // The line behind `TP` is the term as a whole.
        match is_literal || line.starts_with('.') || before == ".TP" {
            true => tidy.extend([line, "\n"]),
            false => wrap(&mut tidy, line),
        }
        (before, follows_break) = (line, is_break);
    }
    tidy
}

/// Adds `text` in lines of at most 80 bytes where spaces allow it.
fn wrap(page: &mut String, text: &str) {
    const MAX_LINE_BYTES: usize = 80;
    let mut length = 0;
    for word in text.split(' ') {
        if length > 0 && length + 1 + word.len() > MAX_LINE_BYTES {
            page.push('\n');
            length = 0;
            // A point or an apostrophe in front of a line would make it a request.
            if word.starts_with(['.', '\'']) {
                page.push_str("\\&");
            }
        } else if length > 0 {
            page.push(' ');
            length += 1;
        }
        page.push_str(word);
        length += word.len();
    }
    page.push('\n');
}

fn is_continued(line: &str) -> bool {
    !line.is_empty() && !line.starts_with("- ") && !line.starts_with(['|', '`', '#'])
}

/// The parts of a line of Markdown: code is bold, and links are their texts.
fn inlines(markdown: &str) -> Vec<Inline> {
    let text = without_links(markdown);
    let parts = text.split('`').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(at, part)| if at % 2 == 1 { bold(part) } else { roman(part) }).collect()
}

/// `markdown` with the texts of links in their places.
fn without_links(markdown: &str) -> String {
    let (mut text, mut rest) = (String::new(), markdown);
    while let Some((before, link)) = rest.split_once("](") {
        let Some((behind, (before, shown))) =
            link.split_once(')').map(|(_, behind)| behind).zip(before.rsplit_once('['))
        else {
            break;
        };
        text.extend([before, shown]);
        rest = behind;
    }
    text + rest
}

#[test]
fn text_is_wrapped_and_terms_are_not() {
    let long = "word ".repeat(20);
    let page = tidied(&format!(".SH A\n.PP\n{long}.x\n.br\n\n.br\n.TP\n{long}\n"));
    let (first, rest) = (["word"; 16].join(" "), ["word"; 4].join(" "));
    let term = long.trim();
    assert_eq!(page, format!(".SH A\n{first}\n{rest} .x\n.br\n.TP\n{term}\n"));
    assert!(tidied(&format!("{} .x", "y".repeat(79))).ends_with("\n\\&.x\n"));
}

#[test]
fn markdown_becomes_bold_code_and_texts_of_links() {
    let parts = inlines("see [the page](a.md#b) of `a = \"b\"`.");
    assert_eq!(parts, [roman("see the page of "), bold("a = \"b\""), roman(".")]);
    assert_eq!(inlines("`[[x]]`"), [bold("[[x]]")]);
    let mut page = Page(String::new());
    page.markdown(
        "One\ntwo.\n\n| a | b |\n|---|---|\n| `x` | y | z |\n\n- i\n  j\n\n```\n.k\n```\n",
    );
    let page = page.finish();
    let text = ".PP\nOne two.\n.TP\n\\fBx\\fR\ny; z.\n.IP \\(bu 2\ni j\n";
    assert_eq!(page, text.to_owned() + ".PP\n.RS 4\n.nf\n\\&.k\n.fi\n.RE\n");
}
