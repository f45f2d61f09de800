//! `rewrite`: for which paths, and where to.
//!
//! Says nothing about what the other place admits.

use crate::import::nginx::matches::Matches;
use crate::import::nginx::regex::Regex;
use crate::import::tree::{Directive, Id};

/// A `rewrite`.
#[derive(Debug, Clone)]
pub struct Rewrite {
    /// The directive.
    pub id: Id,
    /// For which paths.
    pub regex: Regex,
    /// The replacement, variables and all.
    pub to: String,
    /// What follows it.
    pub then: Then,
}

/// What follows a `rewrite`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// A redirect.
    Redirect,
    /// The location for the new path: `last`.
    Last,
    /// No other directive of the rewrite module: `break`.
    Break,
    /// The next directive, then the location for the new path.
    On,
}

impl Rewrite {
    /// Reads a directive; `None` where it is no `rewrite` that nginx takes.
    pub fn read(directive: &Directive) -> Option<Rewrite> {
        let [pattern, to, rest @ ..] = &directive.words[..] else { return None };
        let outside = ["http://", "https://", "$scheme"].iter().any(|start| to.starts_with(start));
        let then = match rest.first().map(String::as_str) {
            Some("redirect" | "permanent") => Then::Redirect,
            _ if outside => Then::Redirect,
            Some("last") => Then::Last,
            Some("break") => Then::Break,
            _ => Then::On,
        };
        let regex = Regex::parse(pattern, false);
        let is_rewrite = directive.name == "rewrite";
        is_rewrite.then(|| Rewrite { id: directive.id, regex, to: to.clone(), then })
    }

    /// Whether it answers every request.
    pub fn ends(&self) -> bool {
        self.then == Then::Redirect && self.regex.is_always()
    }

    /// What every new path begins with; `None` means that nothing is known of it.
    pub fn beginning(&self) -> Option<&str> {
        let end = self.to.find(['$', '?']).unwrap_or(self.to.len());
        Some(&self.to[..end]).filter(|text| self.then != Then::On && text.starts_with('/'))
    }

    /// Where it sends clients; `None`: it doesn't redirect, or not to the same host for certain.
    pub fn redirect(&self) -> Option<Redirect> {
        // nginx appends the query by itself, unless a `?` ends the replacement.
        let to = self.to.strip_suffix('?').unwrap_or(&self.to);
        if self.then == Then::Redirect { Redirect::parse(to) } else { None }
    }

    /// Whether the new path is always the same.
    pub fn is_fixed(&self) -> bool {
        !self.to.split('?').next().is_some_and(|path| path.contains('$'))
    }
}

/// A redirect to a path of the same host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// To this path.
    To(String),
    /// To the path of the request, with a slash behind it.
    Slash,
}

impl Redirect {
    /// Reads a `return`; `None`: it answers otherwise, or leads elsewhere.
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

    /// Whether it sends a request for `path` to the same path with a slash behind it.
    pub fn adds_slash(&self, path: &str) -> bool {
        match self {
            Redirect::To(to) => to.strip_suffix('/') == Some(path),
            Redirect::Slash => true,
        }
    }
}

/// Whether a `rewrite` takes the location's own path off and does nothing else:
/// `rewrite ^/a/(.*)$ /$1 break`.
pub fn cuts_off(directive: &Directive, matches: &Matches) -> bool {
    let (Some(path), [regex, to, flag]) = (matches.path(), &directive.words[..]) else {
        return false;
    };
    let rest = regex.strip_prefix('^').and_then(|regex| regex.strip_prefix(path));
    let rest = rest.map(|rest| rest.trim_end_matches('$'));
    path.ends_with('/') && rest == Some("(.*)") && to == "/$1" && flag == "break"
}
