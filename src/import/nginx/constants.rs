//! Variables that have the same value for each request of a location, so that a `proxy_pass` by
//! them names a backend.
//!
//! A value counts as constant only if nothing that nginx may run could give another. Decides
//! nothing about access.

use crate::import::nginx::import_context::ImportContext;
use crate::import::report::DirectiveOutcome;
use crate::import::tree::{Directive, DirectiveId};

/// Most variables that one value may be made of.
const MAX_EXPANSIONS: usize = 32;

/// The `set` directives that run for the requests of a location: those of its server, then its own
/// (nginx inherits none of a location around it).
pub struct Constants<'d> {
    server: &'d Directive,
    location: &'d Directive,
}

/// A text whose constant variables are replaced.
pub struct ExpandedText {
    /// The text, in which other variables stay as they are.
    pub text: String,
    /// The `set` directives whose values it has.
    by: Vec<DirectiveId>,
}

impl ExpandedText {
    /// Notes for each `set` that its value was used.
    pub fn note(&self, context: &mut ImportContext<'_>) {
        for id in &self.by {
            context.notes.add(*id, DirectiveOutcome::Carried, "a constant, part of `backend`");
        }
    }
}

impl<'d> Constants<'d> {
    /// The variables of `location`, which lies somewhere in `server`.
    pub fn new(server: &'d Directive, location: &'d Directive) -> Self {
        Constants { server, location }
    }

    /// Replaces each variable of `text` that is constant here.
    pub fn expand(&self, text: &str) -> ExpandedText {
        let mut expanded = ExpandedText { text: text.to_owned(), by: Vec::new() };
        let mut from = 0;
        while let Some(at) = expanded.text[from..].find('$').map(|at| from + at) {
            let (name, end) = variable_at(&expanded.text, at);
            // A value may have variables itself, which are looked at next. The bound ends a circle.
            match self.value(name).filter(|_| expanded.by.len() < MAX_EXPANSIONS) {
                Some(set) => {
                    let value = set.words.get(1).cloned().unwrap_or_default();
                    expanded.by.push(set.id);
                    expanded.text.replace_range(at..end, &value);
                    from = at;
                }
                None => from = end,
            }
        }
        expanded
    }

    /// The `set` that gives the variable its value. `None` means that it is not constant here.
    fn value(&self, name: &str) -> Option<&'d Directive> {
        if name.is_empty() || may_be_set_otherwise(self.server, name) {
            return None;
        }
        let own: Vec<_> = sets_of(self.location, name).collect();
        if let Some(last) = own.last() {
            return runs_always(self.location, last).then_some(*last);
        }
        let last = sets_of(self.server, name).last()?;
        // A request may come from another location, by `rewrite`, `try_files` or `error_page`.
        let is_other = |set: &Directive| set.words.get(1) != last.words.get(1);
        let differs = any_inside(self.server, &mut |inner| is_set(inner, name) && is_other(inner));
        let is_certain = runs_always(self.server, last) && !differs;
        is_certain.then_some(last)
    }
}

/// The name of the variable whose `$` is at `at`, and the end of its reference.
fn variable_at(text: &str, at: usize) -> (&str, usize) {
    let rest = &text[at + 1..];
    if let Some(braced) = rest.strip_prefix('{') {
        return match braced.find('}') {
            Some(end) => (&braced[..end], at + 2 + end + 1),
            None => ("", text.len()),
        };
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    (&rest[..length], at + 1 + length)
}

/// The `set` directives of the variable directly in `block`, without those of inner blocks.
fn sets_of<'d>(block: &'d Directive, name: &str) -> impl DoubleEndedIterator<Item = &'d Directive> {
    block.inside().iter().filter(move |inner| is_set(inner, name))
}

fn is_set(directive: &Directive, name: &str) -> bool {
    directive.name == "set" && directive.first().strip_prefix('$') == Some(name)
}

/// Whether `set` runs for each request of `block`, and gives the variable its last value there: no
/// `if` sets it too, and nothing before it ends the directives of the rewrite module.
fn runs_always(block: &Directive, set: &Directive) -> bool {
    let name = set.first().trim_start_matches('$');
    let ends = |inner: &Directive| matches!(inner.name.as_str(), "break" | "rewrite" | "return");
    let before = block.inside().iter().take_while(|inner| inner.id != set.id);
    // A `return` of an `if` ends the request, which then reaches no backend.
    let may_end = |inner: &Directive| {
        inner.name == "if"
            && any_inside(inner, &mut |one| matches!(one.name.as_str(), "break" | "rewrite"))
    };
    let is_cut = before.into_iter().any(|inner| ends(inner) || may_end(inner));
    let mut ifs = block.inside().iter().filter(|inner| inner.name == "if");
    let is_conditional = ifs.any(|one| any_inside(one, &mut |inner| is_set(inner, name)));
    !is_cut && !is_conditional
}

/// Whether a directive other than `set` may give the variable a value: a capture of a regular
/// expression, a module that sets variables, or a script.
fn may_be_set_otherwise(server: &Directive, name: &str) -> bool {
    let (capture, reference) = (format!("<{name}>"), format!("${name}"));
    any_inside(server, &mut |inner| {
        let is_script = ["_by_lua", "js_", "perl"].iter().any(|part| inner.name.contains(part));
        let assigns = inner.name.ends_with("_set") && inner.first() == reference;
        is_script || assigns || inner.words.iter().any(|word| word.contains(&capture))
    })
}

/// Whether `is` holds for a directive in the block, at any depth.
fn any_inside(block: &Directive, is: &mut dyn FnMut(&Directive) -> bool) -> bool {
    block.inside().iter().any(|inner| is(inner) || any_inside(inner, is))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts what a `proxy_pass` in the first location of a server becomes; `SET` is
    /// short for `set $a`.
    fn check(server: &str, text: &str, expected: &str) {
        let server = server.replace("SET", "set $a");
        let tree = crate::import::tree::parse(&format!("server {{ {server} }}")).unwrap();
        let server = &tree.directives[0];
        let location = server.inside().iter().find(|inner| inner.name == "location").unwrap();
        let expanded = Constants::new(server, location).expand(text);
        assert_eq!(expanded.text, expected, "{text} in {server:?}");
    }

    #[test]
    fn constants_of_a_location_and_its_server_are_expanded() {
        check("location / { SET app; }", "http://$a:80", "http://app:80");
        check("SET app; location / { }", "http://${a}_1", "http://app_1");
        check("SET x; location / { SET app; }", "$a", "app");
        check("location / { SET x; SET app; }", "$a$a", "appapp");
        check("location / { set $p 80; SET app:$p; }", "http://$a", "http://app:80");
        check("SET app; location / { if ($b) { return 403; } }", "$a", "app");
        check("SET app; location / { } location /b { SET app; }", "$a", "app");
        check("location / { SET app; } location /b { SET other; }", "$a", "app");
    }

    #[test]
    fn variables_that_may_differ_are_not_expanded() {
        for server in [
            "location / { }",
            "location / { } location /b { SET app; }",
            "location / { if ($b) { SET app; } }",
            "location / { SET app; if ($b) { SET other; } }",
            "location / { if ($b) { break; } SET app; }",
            "location / { break; SET app; }",
            "location / { rewrite ^ /x break; SET app; }",
            "if ($b) { SET other; } SET app; location / { }",
            "SET app; location / { } location /b { SET other; }",
            "SET app; location / { } location ~ ^/(?<a>x) { }",
            "location / { SET app; if ($uri ~ (?<a>x)) { } }",
            "location / { SET app; auth_request_set $a $upstream_http_x; }",
            "location / { SET app; access_by_lua_file x.lua; }",
            "location / { location /b { SET app; } }",
        ] {
            check(server, "http://$a:80", "http://$a:80");
        }
    }

    #[test]
    fn other_variables_stay_and_circles_end() {
        check("location / { SET app; }", "http://$a$request_uri", "http://app$request_uri");
        check("location / { SET $b; }", "$a", "$b");
        check("location / { SET app; }", "$ab ${a $ $1", "$ab ${a $ $1");
        let tree = crate::import::tree::parse("server { location / { set $a $a$a; } }").unwrap();
        let server = &tree.directives[0];
        let expanded = Constants::new(server, &server.inside()[0]).expand("$a");
        assert_eq!(expanded.by.len(), MAX_EXPANSIONS);
    }
}
