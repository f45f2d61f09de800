//! nginx' grammar: turns the bytes of one file into statements, each with its line.
//!
//! The lexer follows `ngx_conf_read_token`, oddities included: a quote is special only at the start
//! of a word, a `}` ends a block only where a word could begin, and `${name}` opens no block. The
//! lexer knows no directives, except that a `…_by_lua_block` holds Lua.

/// One statement: its words and the character that ended it.
#[derive(Debug, PartialEq, Eq)]
pub struct Statement {
    /// Line on which the first word begins, counted from 1.
    pub line: usize,
    /// The words, with quotes and escapes removed; empty for a `}`.
    pub words: Vec<String>,
    /// The character that ended the statement.
    pub end: Terminator,
}

/// What ends a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminator {
    /// `;`: a simple directive.
    Semicolon,
    /// `{`: a directive that opens a block.
    Open,
    /// `}`: the end of a block.
    Close,
}

/// A syntax error and its line.
#[derive(Debug, PartialEq, Eq)]
pub struct LexError {
    /// Line number, counted from 1.
    pub line: usize,
    /// Description of the error, in nginx' words where nginx has a message for it.
    pub what: String,
}

/// Returns all statements of a file; fails at the first syntax error.
pub fn statements(bytes: &[u8]) -> Result<Vec<Statement>, LexError> {
    let mut lexer = Lexer { bytes, at: 0, line: 1 };
    let mut statements = Vec::new();
    let mut open = Vec::new();
    while let Some(statement) = lexer.statement()? {
        match statement.end {
            Terminator::Semicolon => {}
            Terminator::Open => open.push(statement.line),
            Terminator::Close if open.pop().is_none() => {
                return Err(fault(statement.line, "unexpected \"}\": no block is open"));
            }
            Terminator::Close => {}
        }
        // Lua has a grammar of its own, in which nginx' rules for quotes and braces don't hold.
        let is_raw = statement.end == Terminator::Open
            && statement.words.first().is_some_and(|name| name.ends_with("_by_lua_block"));
        statements.push(statement);
        if is_raw {
            lexer.skip_lua()?;
        }
    }
    match open.pop() {
        Some(line) => Err(fault(
            lexer.line,
            &format!(
                "unexpected end of file, expecting \"}}\" for the block that begins on line {line}"
            ),
        )),
        None => Ok(statements),
    }
}

fn fault(line: usize, what: &str) -> LexError {
    LexError { line, what: what.to_owned() }
}

struct Lexer<'b> {
    bytes: &'b [u8],
    at: usize,
    line: usize,
}

impl Lexer<'_> {
    /// Reads the next statement. `None` means the end of the file.
    fn statement(&mut self) -> Result<Option<Statement>, LexError> {
        let mut words = Vec::new();
        let mut first = self.line;
        loop {
            self.skip_blanks();
            let Some(&byte) = self.bytes.get(self.at) else {
                return if words.is_empty() {
                    Ok(None)
                } else {
                    Err(fault(self.line, "unexpected end of file, expecting \";\" or \"}\""))
                };
            };
            if words.is_empty() {
                first = self.line;
            }
            let end = match byte {
                b';' => Terminator::Semicolon,
                b'{' => Terminator::Open,
                b'}' => Terminator::Close,
                _ => {
                    words.push(self.word()?);
                    continue;
                }
            };
            if words.is_empty() != (end == Terminator::Close) {
                return Err(fault(self.line, &format!("unexpected \"{}\"", char::from(byte))));
            }
            self.at += 1;
            return Ok(Some(Statement { line: first, words, end }));
        }
    }

    fn skip_blanks(&mut self) {
        let mut comment = false;
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'\n' => {
                    self.line += 1;
                    comment = false;
                }
                // A comment begins between words only; inside a word, `#` is a character.
                b'#' => comment = true,
                b' ' | b'\t' | b'\r' => {}
                _ if comment => {}
                _ => return,
            }
            self.at += 1;
        }
    }

    fn word(&mut self) -> Result<String, LexError> {
        let quote = Some(self.bytes[self.at]).filter(|byte| matches!(byte, b'"' | b'\''));
        if quote.is_some() {
            self.at += 1;
        }
        let (start, first) = (self.at, self.line);
        let end = match quote {
            Some(quote) => self.closing(quote)?,
            None => self.bare_end(),
        };
        let Ok(text) = std::str::from_utf8(&self.bytes[start..end]) else {
            return Err(fault(first, "this is not UTF-8: save the file as UTF-8"));
        };
        if let Some(quote) = quote {
            self.at += 1;
            match self.bytes.get(self.at) {
                // nginx takes a `)` as well, for a condition with a quoted end: `if ($a = "b")`.
                Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' | b')') | None => {}
                Some(other) => {
                    let (quote, other) = (char::from(quote), char::from(*other));
                    return Err(fault(
                        self.line,
                        &format!("unexpected \"{other}\" right after the closing {quote}"),
                    ));
                }
            }
        }
        Ok(unescaped(text))
    }

    /// Advances to the closing quote and returns its position.
    fn closing(&mut self, quote: u8) -> Result<usize, LexError> {
        let first = self.line;
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                _ if byte == quote => return Ok(self.at),
                // The character after the backslash cannot close the quote.
                b'\\' => self.step(),
                _ => {}
            }
            self.step();
        }
        Err(fault(
            first,
            &format!(
                "unexpected end of file: the {} that opens here is never closed",
                char::from(quote)
            ),
        ))
    }

    /// Advances to the end of an unquoted word and returns that position.
    fn bare_end(&mut self) -> usize {
        let mut variable = false; // a `$` came right before
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'{' if variable => {}
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' => break,
                // An escaped blank or `;` does not end the word.
                b'\\' => self.step(),
                _ => {}
            }
            // `${` keeps the state: nginx also takes any `{` that follows as part of the word.
            variable = byte == b'$' || (variable && byte == b'{');
            self.step();
        }
        // A backslash at the end of the file makes `step` go one byte too far.
        self.at.min(self.bytes.len())
    }

    fn step(&mut self) {
        if self.bytes.get(self.at) == Some(&b'\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    /// Advances to the `}` that ends a Lua block. Braces within Lua strings and `--` comments don't
    /// count.
    fn skip_lua(&mut self) -> Result<(), LexError> {
        let (first, mut depth, mut quote) = (self.line, 0_usize, None);
        while let Some(&byte) = self.bytes.get(self.at) {
            match (quote, byte) {
                (Some(_), b'\\') => self.step(),
                (Some(open), _) if byte == open => quote = None,
                (Some(_), _) => {}
                (None, b'"' | b'\'') => quote = Some(byte),
                (None, b'-') if self.bytes[self.at..].starts_with(b"--") => {
                    while self.bytes.get(self.at).is_some_and(|byte| *byte != b'\n') {
                        self.at += 1;
                    }
                    continue;
                }
                (None, b'{') => depth += 1,
                (None, b'}') if depth == 0 => return Ok(()),
                (None, b'}') => depth -= 1,
                _ => {}
            }
            self.step();
        }
        Err(fault(first, "unexpected end of file: this block of Lua is never closed"))
    }
}

/// Resolves escapes: `\"`, `\'` and `\\` become the second character; `\t`, `\r` and `\n` have
/// their C meaning. Any other backslash stays.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let next = if c == '\\' { rest.clone().next() } else { None };
        let meant = match next {
            Some(quoted @ ('"' | '\'' | '\\')) => quoted,
            Some('t') => '\t',
            Some('r') => '\r',
            Some('n') => '\n',
            _ => {
                out.push(c);
                continue;
            }
        };
        out.push(meant);
        rest.next();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The statements as `line:word|word` and their end, or the fault as `line! what`.
    fn check(text: &str, expected: &[&str]) {
        let shown = match statements(text.as_bytes()) {
            Ok(statements) => statements.iter().map(shown).collect(),
            Err(LexError { line, what }) => vec![format!("{line}! {what}")],
        };
        assert_eq!(shown, expected, "{text}");
    }

    fn shown(Statement { line, words, end }: &Statement) -> String {
        let end = match end {
            Terminator::Semicolon => ';',
            Terminator::Open => '{',
            Terminator::Close => '}',
        };
        format!("{line}:{}{end}", words.join("|"))
    }

    #[test]
    fn statements_end_with_a_semicolon_or_a_block() {
        check(
            "user www;\nhttp {\n  gzip on; }\n",
            &["1:user|www;", "2:http{", "3:gzip|on;", "3:}"],
        );
        check("a\n  b\n  c;d;", &["1:a|b|c;", "3:d;"]);
        check("location /{}", &["1:location|/{", "1:}"]);
        check("", &[]);
    }

    #[test]
    fn comments_end_with_the_line() {
        check("# a; {\nb 1; # c;\nd#e;", &["2:b|1;", "3:d#e;"]);
        check("a b # c\n d;", &["1:a|b|d;"]);
        check("# caf\u{e9}", &[]);
        assert_eq!(statements(b"# \xff\na;").unwrap().len(), 1);
    }

    #[test]
    fn quotes_count_at_the_start_of_a_word() {
        check(r#"a "b c" 'd;{}' e"f;"#, &[r#"1:a|b c|d;{}|e"f;"#]);
        check(r#"a ""; b '' {}"#, &["1:a|;", "1:b|{", "1:}"]);
        check(r#"if ($x ~ "b{2}") {}"#, &["1:if|($x|~|b{2}|){", "1:}"]);
        check("a \"b\nc\" d;e;", &["1:a|b\nc|d;", "2:e;"]);
    }

    #[test]
    fn escaped_characters_are_literal() {
        check(r#"a "b\"c" d\;e f\ g \.php$ h\\i \t;"#, &["1:a|b\"c|d\\;e|f\\ g|\\.php$|h\\i|\t;"]);
    }

    #[test]
    fn a_variable_in_braces_is_no_block() {
        check("a ${b}c $d; e $f{}", &["1:a|${b}c|$d;", "1:e|$f{", "1:}"]);
        check("a b$c {}", &["1:a|b$c{", "1:}"]);
        check("a b}c;", &["1:a|b}c;"]);
    }

    #[test]
    fn lua_is_skipped_to_its_brace() {
        check(
            "access_by_lua_block {\n local t = {a = '}'} -- }\n}\nb;",
            &["1:access_by_lua_block{", "3:}", "4:b;"],
        );
    }

    #[test]
    fn syntax_error_has_its_line() {
        check("a;\n}", &["2! unexpected \"}\": no block is open"]);
        check(
            "a {\n b;",
            &["2! unexpected end of file, expecting \"}\" for the block that begins on line 1"],
        );
        check("a\nb", &["2! unexpected end of file, expecting \";\" or \"}\""]);
        check("a;\n;", &["2! unexpected \";\""]);
        check("{}", &["1! unexpected \"{\""]);
        check("a }", &["1! unexpected \"}\""]);
        check("a \"b\"c;", &["1! unexpected \"c\" right after the closing \""]);
        check("a\n 'b;\n", &["2! unexpected end of file: the ' that opens here is never closed"]);
        assert_eq!(statements(b"a\n \xff;").unwrap_err().line, 2);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_lex_without_a_panic(bytes in proptest::collection::vec(proptest::sample::select(b"ab {};#\"'\\$\n\xff-".to_vec()), 0..40)) {
            let _ = statements(&bytes);
        }
    }
}
