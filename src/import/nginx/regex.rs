//! nginx' regular expressions, as far as a route can express what they match.
//!
//! A pattern becomes branches: a literal beginning, and how much of the following text it matches.
//! Alternatives and small classes are expanded. Everything else of PCRE (look-around, back
//! references, wide classes) leaves the branch at `Suffix::Unknown`, which decides nothing: a
//! reading may be vague, but must not be wrong.

use std::fmt;

/// Most branches of one pattern; beyond that, the pattern stays vague.
const MAX_BRANCHES: usize = 64;

/// Largest character class that is expanded into branches.
const MAX_CLASS: usize = 8;

/// Paths for which nginx and Sidegate each give one answer, vague patterns aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathCell {
    /// This one path and no other.
    Exact(String),
    /// All paths that begin so and are longer, except where they begin with a longer text of the
    /// configuration.
    Beyond(String),
}

impl PathCell {
    /// Returns the path, or the common beginning of the paths.
    pub fn text(&self) -> &str {
        match self {
            PathCell::Exact(text) | PathCell::Beyond(text) => text,
        }
    }
}

/// Whether the paths of a cell match a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CellMatch {
    /// No path of the cell matches.
    No,
    /// Some paths of the cell match, or it isn't known.
    Maybe,
    /// Every path of the cell matches.
    Yes,
}

/// A regular expression for paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regex {
    /// The pattern with its modifier, as a `location` writes it.
    written: String,
    caseless: bool,
    branches: Vec<Branch>,
}

/// A literal beginning, and what may follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// The beginning of every path of the branch, from its slash on.
    pub text: String,
    /// The part of the paths with this beginning that it matches.
    pub rest: Suffix,
}

/// What may follow a literal beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suffix {
    /// Only the empty rest: `^/a$`.
    Nothing,
    /// Any rest, the empty one included: `^/a`.
    Anything,
    /// Any rest but the empty one: `^/a.`.
    More,
    /// An unknown part of the rests; decides nothing.
    Unknown,
}

impl Regex {
    /// Parses a pattern; `caseless` for `~*`. Never fails: unreadable parts become vague.
    pub fn parse(pattern: &str, caseless: bool) -> Regex {
        let sign = if caseless { "~*" } else { "~" };
        let (body, inline) = match pattern.strip_prefix("(?i)") {
            Some(body) => (body, true),
            None => (pattern, false),
        };
        // It is not anchored, but every path has a slash.
        let branches = if body == "/" {
            vec![Branch { text: "/".into(), rest: Suffix::Anything }]
        } else {
            branches(body)
        };
        let caseless = caseless || inline;
        Regex { written: format!("{sign} {pattern}"), caseless, branches }
    }

    /// Returns a branch for each literal beginning; empty if no path can match.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// Returns whether every path matches.
    pub fn is_always(&self) -> bool {
        self.branches.iter().any(|branch| branch.text == "/" && branch.rest == Suffix::Anything)
    }

    /// Returns whether the paths of `cell` match. The text of every branch must be a text of the
    /// cells.
    pub fn matches(&self, cell: &PathCell) -> CellMatch {
        // `CellMatch` is ordered by certainty: the surest branch decides.
        let all = self.branches.iter().map(|branch| branch.matches(cell, self.caseless));
        all.max().unwrap_or(CellMatch::No)
    }
}

impl fmt::Display for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Branch {
    fn matches(&self, cell: &PathCell, caseless: bool) -> CellMatch {
        let begins = |text: &str, start: &str| match text.as_bytes().get(..start.len()) {
            Some(own) if caseless => own.eq_ignore_ascii_case(start.as_bytes()),
            Some(own) => own == start.as_bytes(),
            None => false,
        };
        let inside = begins(cell.text(), &self.text);
        let same_length = cell.text().len() == self.text.len();
        // Another spelling of a longer beginning isn't a text of the configuration, so its paths
        // are in this cell.
        let has_other = !self.text.starts_with(cell.text())
            || self.text.bytes().skip(cell.text().len()).any(|byte| byte.is_ascii_alphabetic());
        let spelled = caseless && begins(&self.text, cell.text()) && has_other;
        match (cell, self.rest) {
            (_, Suffix::Unknown) if inside => CellMatch::Maybe,
            (PathCell::Exact(_), Suffix::Nothing) if inside && same_length => CellMatch::Yes,
            (PathCell::Exact(_), Suffix::Anything) if inside => CellMatch::Yes,
            (PathCell::Exact(_), Suffix::More) if inside && !same_length => CellMatch::Yes,
            (PathCell::Exact(_), _) => CellMatch::No,
            (PathCell::Beyond(_), Suffix::Anything | Suffix::More) if inside => CellMatch::Yes,
            (PathCell::Beyond(_), _) if spelled && !same_length => CellMatch::Maybe,
            (PathCell::Beyond(_), _) => CellMatch::No,
        }
    }
}

/// A node of the parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Char(char),
    Class(Vec<char>),
    Dot,
    Start,
    End,
    Group(Vec<Vec<Node>>),
    /// Minimum and maximum count; `None` means unlimited.
    Repeat(Box<Node>, u32, Option<u32>),
    /// Anything that isn't expanded.
    Unknown,
}

struct Parser {
    chars: Vec<char>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn take(&mut self, wanted: &str) -> bool {
        let found =
            wanted.chars().enumerate().all(|(n, c)| self.chars.get(self.at + n) == Some(&c));
        self.at += if found { wanted.chars().count() } else { 0 };
        found
    }

    /// Parses up to the `)` that closes the group, or to the end.
    fn alternatives(&mut self) -> Vec<Vec<Node>> {
        let mut all = vec![Vec::new()];
        while let Some(c) = self.peek().filter(|c| *c != ')') {
            if c == '|' {
                self.at += 1;
                all.push(Vec::new());
                continue;
            }
            let node = self.atom();
            let node = self.repeated(node);
            if let Some(last) = all.last_mut() {
                last.push(node);
            }
        }
        all
    }

    fn atom(&mut self) -> Node {
        let c = self.peek().unwrap_or_default();
        self.at += 1;
        match c {
            '^' => Node::Start,
            '$' => Node::End,
            '.' => Node::Dot,
            '[' => self.class(),
            '(' => self.group(),
            '\\' => {
                let escaped = self.peek().unwrap_or('\\');
                self.at += 1;
                let plain = escaped.is_ascii_punctuation();
                if plain { Node::Char(escaped) } else { Node::Unknown }
            }
            plain => Node::Char(plain),
        }
    }

    fn group(&mut self) -> Node {
        let named = ["?<", "?P<", "?'"].iter().any(|start| {
            let look_behind = self.chars.get(self.at + 2).is_some_and(|c| "=!".contains(*c));
            !(*start == "?<" && look_behind) && self.take(start)
        });
        if named {
            while self.peek().is_some_and(|c| c != '>' && c != '\'') {
                self.at += 1;
            }
            self.at += 1;
        }
        // Look-arounds, options and verbs, which are not expanded.
        let odd = !named && !self.take("?:") && self.peek().is_some_and(|c| "?*".contains(c));
        let inside = self.alternatives();
        self.at += 1;
        if odd { Node::Unknown } else { Node::Group(inside) }
    }

    /// Parses a class after its `[`; `Unknown` if it has many characters or doesn't list them.
    fn class(&mut self) -> Node {
        let (mut chars, mut plain) = (Vec::new(), !self.take("^"));
        let first = self.at;
        // A `]` in the first place is a character of the class.
        while let Some(c) = self.peek().filter(|c| *c != ']' || self.at == first) {
            self.at += 1;
            match c {
                '\\' => {
                    plain &= self.peek().is_some_and(|c| c.is_ascii_punctuation());
                    chars.extend(self.peek());
                    self.at += 1;
                }
                '[' if self.peek() == Some(':') => {
                    plain = false;
                    while self.peek().is_some() && !self.take(":]") {
                        self.at += 1;
                    }
                }
                '-' if !chars.is_empty() && self.peek() != Some(']') => {
                    let to = self.peek().unwrap_or_default();
                    plain &= to != '\\' && to != '[';
                    let from = chars.pop().unwrap_or_default();
                    // One more than is expanded shows that a range is too large, whatever its
                    // length.
                    chars.extend((from..=to).take(MAX_CLASS + 1));
                    self.at += 1;
                }
                c => chars.push(c),
            }
        }
        self.at += 1;
        plain &= chars.len() <= MAX_CLASS && chars.iter().all(char::is_ascii);
        if plain && !chars.is_empty() { Node::Class(chars) } else { Node::Unknown }
    }

    fn repeated(&mut self, node: Node) -> Node {
        let (least, max) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => match self.counted() {
                Some(counts) => counts,
                None => return node,
            },
            _ => return node,
        };
        self.at += 1;
        if self.peek().is_some_and(|c| "?+".contains(c)) {
            self.at += 1; // lazy or possessive
        }
        Node::Repeat(Box::new(node), least, max)
    }

    /// Parses `{2}`, `{2,}`, `{2,3}` and leaves `at` on the `}`. `None` means that the brace is
    /// literal.
    fn counted(&mut self) -> Option<(u32, Option<u32>)> {
        let rest = self.chars.get(self.at + 1..)?;
        let end = rest.iter().position(|c| *c == '}')?;
        let text: String = rest.get(..end)?.iter().collect();
        let counts = match text.split_once(',') {
            None => text.parse().ok().map(|count| (count, Some(count))),
            Some((least, "")) => least.parse().ok().map(|least| (least, None)),
            Some((least, max)) => least.parse().ok().zip(max.parse().ok().map(Some)),
        };
        self.at += if counts.is_some() { end + 1 } else { 0 };
        counts
    }
}

/// A branch under construction.
#[derive(Debug, Clone)]
struct PartialBranch {
    text: String,
    anchored: bool,
    /// `None` means that the text may still grow.
    rest: Option<Suffix>,
}

impl PartialBranch {
    fn vague(mut self) -> PartialBranch {
        self.rest = Some(Suffix::Unknown);
        self
    }

    fn then(self, node: &Node) -> Vec<PartialBranch> {
        let any = |node: &Node| *node == Node::Dot;
        match (self.rest, node) {
            (Some(_), Node::End) => vec![self],
            // More follows an open rest, as in `^/a.*b`.
            (Some(_), _) => vec![self.vague()],
            (None, Node::Start) if self.text.is_empty() => {
                vec![PartialBranch { anchored: true, ..self }]
            }
            (None, Node::Group(all)) => {
                all.iter().flat_map(|nodes| sequence(vec![self.clone()], nodes)).collect()
            }
            (None, Node::Repeat(one, 0, Some(1))) if one.is_short() => {
                let with = self.clone().then(one);
                with.into_iter().chain([self]).collect()
            }
            (None, Node::Repeat(one, 0, None)) if any(one) => {
                vec![PartialBranch { rest: Some(Suffix::Anything), ..self }]
            }
            // Without `^` the text may be anywhere in a path.
            (None, _) if !self.anchored => vec![self.vague()],
            (None, Node::Repeat(one, 1, None)) if any(one) => {
                vec![PartialBranch { rest: Some(Suffix::More), ..self }]
            }
            (None, Node::Char(c)) => {
                vec![PartialBranch { text: format!("{}{c}", self.text), ..self }]
            }
            (None, Node::Class(chars)) => {
                let grown = |c| PartialBranch { text: format!("{}{c}", self.text), ..self.clone() };
                chars.iter().map(grown).collect()
            }
            (None, Node::End) => vec![PartialBranch { rest: Some(Suffix::Nothing), ..self }],
            (None, Node::Start | Node::Dot | Node::Repeat(..) | Node::Unknown) => {
                vec![self.vague()]
            }
        }
    }
}

impl Node {
    /// Returns whether nginx, which matches bytes, takes the node as one unit: a multi-byte
    /// character is several.
    fn is_short(&self) -> bool {
        match self {
            Node::Char(c) => c.is_ascii(),
            Node::Class(_) | Node::Group(_) => true,
            _ => false,
        }
    }
}

fn sequence(mut states: Vec<PartialBranch>, nodes: &[Node]) -> Vec<PartialBranch> {
    for node in nodes {
        let before = states.clone();
        states = states.into_iter().flat_map(|state| state.then(node)).collect();
        if states.len() > MAX_BRANCHES {
            return before.into_iter().map(PartialBranch::vague).collect();
        }
    }
    states
}

fn branches(pattern: &str) -> Vec<Branch> {
    let mut parser = Parser { chars: pattern.chars().collect(), at: 0 };
    let mut nodes = parser.alternatives();
    if parser.at < parser.chars.len() {
        nodes = vec![vec![Node::Unknown]]; // an unbalanced `)`
    }
    let start = PartialBranch { text: String::new(), anchored: false, rest: None };
    let states = sequence(vec![start], &[Node::Group(nodes)]);
    let mut branches = Vec::new();
    for PartialBranch { text, rest, .. } in states {
        let rest = rest.unwrap_or(Suffix::Anything);
        let (text, rest) = match (text.is_empty(), rest) {
            // `^$` matches no path: each has a slash at least.
            (true, Suffix::Nothing) => continue,
            // No path is empty, so `^.+` matches all.
            (true, Suffix::More) => ("/".to_owned(), Suffix::Anything),
            (true, rest) => ("/".to_owned(), rest),
            (false, rest) => (text, rest),
        };
        if !text.starts_with('/') {
            continue; // no path begins so
        }
        // PCRE's `$` also matches before a line feed at the end.
        let line = (rest == Suffix::Nothing).then(|| Branch { text: format!("{text}\n"), rest });
        branches.extend([Branch { text, rest }].into_iter().chain(line));
    }
    branches.dedup();
    branches
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The branches as `TEXT$`, `TEXT*`, `TEXT+` and `TEXT?`; those for a line feed left out.
    fn read(pattern: &str) -> String {
        let regex = Regex::parse(pattern, false);
        let plain = regex.branches.iter().filter(|branch| !branch.text.ends_with('\n'));
        let shown = plain.map(|Branch { text, rest }| match rest {
            Suffix::Nothing => format!("{text}$"),
            Suffix::Anything => format!("{text}*"),
            Suffix::More => format!("{text}+"),
            Suffix::Unknown => format!("{text}?"),
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn plain_patterns_are_read_whole() {
        for (pattern, expected) in [
            ("^/ws/", "/ws/*"),
            ("^/ws/.*$", "/ws/*"),
            ("^/ws/(.*)", "/ws/*"),
            ("^/ws/.+", "/ws/+"),
            (r"^/v1\.0/a\-b$", "/v1.0/a-b$"),
            (r"^/a\$", "/a$*"),
            ("^", "/*"),
            (".*", "/*"),
            ("", "/*"),
            ("/", "/*"),
            ("^admin", ""),
            ("^$", ""),
        ] {
            assert_eq!(read(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn alternatives_are_branches() {
        for (pattern, expected) in [
            ("^/reports/(daily|weekly)$", "/reports/daily$ /reports/weekly$"),
            ("^/(?:a|b)/x", "/a/x* /b/x*"),
            ("^/(?<who>a|b[12])$", "/a$ /b1$ /b2$"),
            ("^/a/?$", "/a/$ /a$"),
            ("^/a(/b)?/c", "/a/b/c* /a/c*"),
            ("^/a|^/b$", "/a* /b$"),
            ("^(/a|/b)/", "/a/* /b/*"),
            ("(^/a|^/b)/", "/a/* /b/*"),
            ("^/v[1-3]/", "/v1/* /v2/* /v3/*"),
        ] {
            assert_eq!(read(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn unparsed_pattern_keeps_its_literal_prefix() {
        for (pattern, expected) in [
            (r"\.php$", "/?"),
            ("internal", "/?"),
            (r"/\.ht", "/?"),
            (r"^/a/[0-9]+/b", "/a/?"),
            (r"^/a/(b|c.d)/e", "/a/b/e* /a/c?"),
            (r"^/a\d", "/a?"),
            ("^/a.*b", "/a?"),
            ("^/w.s", "/w?"),
            ("^/a+", "/?"),
            ("^/(?!public/)", "/?"),
            ("^(?!/public/)", "/?"),
            ("^/a(?=b)", "/a?"),
            ("^/a|/b", "/a* /?"),
            ("^/a$|b", "/a$ /?"),
            ("^/[^/]+/x", "/?"),
            ("^/[]a]/", "/]/* /a/*"),
            ("^/a{2}/", "/?"),
            ("^/a{x", "/a{x*"),
            ("^/é?x", "/?"),
            ("^/(a|b|c|d)(a|b|c|d)(a|b|c|d)(a|b|c|d)", ""),
        ] {
            let found = read(pattern);
            let crowded = expected.is_empty() && found.split(' ').all(|one| one.ends_with('?'));
            assert!(found == expected || crowded, "{pattern}: {found}");
        }
    }

    #[test]
    fn cell_matches_fully_partly_or_not() {
        let (exact, beyond) =
            (|p: &str| PathCell::Exact(p.into()), |p: &str| PathCell::Beyond(p.into()));
        for (pattern, caseless, cell, expected) in [
            ("^/a$", false, exact("/a"), CellMatch::Yes),
            ("^/a$", false, exact("/a\n"), CellMatch::Yes),
            ("^/a$", false, beyond("/a"), CellMatch::No),
            ("^/a/", false, beyond("/a/"), CellMatch::Yes),
            ("^/a/", false, beyond("/"), CellMatch::No),
            ("^/a/", true, beyond("/"), CellMatch::Maybe),
            ("^/a/", true, beyond("/b"), CellMatch::No),
            ("^/a/", true, beyond("/a"), CellMatch::No),
            ("^/a/", true, beyond("/A"), CellMatch::Maybe),
            ("^/a/", true, exact("/A/"), CellMatch::Yes),
            ("^/a/.+", false, exact("/a/"), CellMatch::No),
            (r"\.php$", false, exact("/a"), CellMatch::Maybe),
            (r"^/a/x.y", false, beyond("/a/"), CellMatch::No),
            (r"^/a/x.y", false, beyond("/a/x"), CellMatch::Maybe),
        ] {
            let regex = Regex::parse(pattern, caseless);
            assert_eq!(regex.matches(&cell), expected, "{regex} on {cell:?}");
        }
    }
}
