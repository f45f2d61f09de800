//! `rewrite`: the paths that it matches, and their replacement.
//!
//! Doesn't know what the new location admits.

use crate::import::nginx::location_pattern::LocationPattern;
use crate::import::nginx::regex::Regex;
use crate::import::tree::{Directive, DirectiveId};

/// A `rewrite` with pattern, replacement and flag.
#[derive(Debug, Clone)]
pub struct Rewrite {
    /// Number of the `rewrite` directive.
    pub id: DirectiveId,
    /// The pattern for the paths.
    pub regex: Regex,
    /// The replacement as written, with its variables.
    pub to: String,
    /// The step after a match, set by the flag.
    pub then: AfterRewrite,
}

/// The step after a matching `rewrite`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterRewrite {
    /// A redirect to the client: `redirect`, `permanent`, or a replacement with a scheme.
    Redirect,
    /// A search for the location of the new path: `last`.
    Last,
    /// No further directive of the rewrite module: `break`.
    Break,
    /// The next directive, then a search for the location of the new path: no flag.
    Continue,
}

impl Rewrite {
    /// Parses a directive. `None` means that it isn't a valid `rewrite`.
    pub fn read(directive: &Directive) -> Option<Rewrite> {
        let [pattern, to, rest @ ..] = &directive.words[..] else { return None };
        // nginx redirects for these beginnings, whatever the flag says.
        let outside = ["http://", "https://", "$scheme"].iter().any(|start| to.starts_with(start));
        let then = match rest.first().map(String::as_str) {
            Some("redirect" | "permanent") => AfterRewrite::Redirect,
            _ if outside => AfterRewrite::Redirect,
            Some("last") => AfterRewrite::Last,
            Some("break") => AfterRewrite::Break,
            _ => AfterRewrite::Continue,
        };
        let regex = Regex::parse(pattern, false);
        let is_rewrite = directive.name == "rewrite";
        is_rewrite.then(|| Rewrite { id: directive.id, regex, to: to.clone(), then })
    }

    /// Returns whether it redirects every request.
    pub fn ends(&self) -> bool {
        self.then == AfterRewrite::Redirect && self.regex.is_always()
    }

    /// Returns the literal beginning of every new path. `None` means not known.
    pub fn beginning(&self) -> Option<&str> {
        let end = self.to.find(['$', '?']).unwrap_or(self.to.len());
        Some(&self.to[..end])
            .filter(|text| self.then != AfterRewrite::Continue && text.starts_with('/'))
    }

    /// Returns its redirect. `None` means that it doesn't redirect, or not certainly to the same
    /// host.
    pub fn redirect(&self) -> Option<Redirect> {
        // nginx appends the query by itself, unless the replacement ends with `?`.
        let to = self.to.strip_suffix('?').unwrap_or(&self.to);
        if self.then == AfterRewrite::Redirect { Redirect::parse(to) } else { None }
    }

    /// Returns whether the new path is always the same.
    pub fn is_fixed(&self) -> bool {
        !self.to.split('?').next().is_some_and(|path| path.contains('$'))
    }
}

/// A redirect to a path of the same host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// To this fixed path.
    To(String),
    /// To the path of the request, with a slash appended.
    Slash,
}

impl Redirect {
    /// Parses a `return`. `None` means that it answers by itself or leads to another host.
    pub fn read(directive: &Directive) -> Option<Redirect> {
        let [code, to] = &directive.words[..] else { return None };
        let redirects = ["301", "302", "303", "307", "308"].contains(&code.as_str());
        if directive.name == "return" && redirects { Redirect::parse(to) } else { None }
    }

    fn parse(to: &str) -> Option<Redirect> {
        let hosts = ["$host", "$http_host", "$host:$server_port"];
        let own = hosts.map(|host| format!("$scheme://{host}"));
        let rests = own.iter().filter_map(|own| to.strip_prefix(own.as_str()));
        let path = rests.min_by_key(|rest| rest.len()).unwrap_or(to);
        let queries = ["$is_args$args", "$is_args$query_string", "?$args", "?$query_string"];
        let path = queries.iter().find_map(|query| path.strip_suffix(query)).unwrap_or(path);
        match path {
            "$uri/" => Some(Redirect::Slash),
            path if path.starts_with('/')
                && !path.starts_with("//")
                && !path.contains(['$', '?', '#']) =>
            {
                Some(Redirect::To(path.to_owned()))
            }
            _ => None,
        }
    }

    /// Returns whether a request for `path` is sent to the same path with a slash appended.
    pub fn adds_slash(&self, path: &str) -> bool {
        match self {
            Redirect::To(to) => to.strip_suffix('/') == Some(path),
            Redirect::Slash => true,
        }
    }
}

/// Returns whether a `rewrite` strips the location's own path and does nothing else: `rewrite
/// ^/a/(.*)$ /$1 break`.
pub fn cuts_off(directive: &Directive, matches: &LocationPattern) -> bool {
    let (Some(path), [regex, to, flag]) = (matches.path(), &directive.words[..]) else {
        return false;
    };
    let rest = regex.strip_prefix('^').and_then(|regex| regex.strip_prefix(path));
    let rest = rest.map(|rest| rest.trim_end_matches('$'));
    path.ends_with('/') && rest == Some("(.*)") && to == "/$1" && flag == "break"
}
