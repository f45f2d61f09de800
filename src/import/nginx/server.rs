//! A `server`: its names, its sockets and its locations.

use crate::import::nginx::backend::{PassTarget, Upstreams};
use crate::import::nginx::constants::Constants;
use crate::import::nginx::context::ContextSettings;
use crate::import::nginx::import_context::ImportContext;
use crate::import::nginx::listen::Listen;
use crate::import::nginx::location::{Location, LocationHandler};
use crate::import::nginx::location_pattern::LocationPattern;
use crate::import::nginx::name::ServerName;
use crate::import::nginx::rewrite::{Redirect, Rewrite, cuts_off};
use crate::import::report::DirectiveOutcome;
use crate::import::tree::{Directive, DirectiveId};

/// One `server` block, its settings inherited and resolved.
#[derive(Debug)]
pub struct Server {
    /// Number of the `server` directive.
    pub id: DirectiveId,
    /// `server_name`: each name with its directive.
    pub names: Vec<(DirectiveId, ServerName)>,
    /// The sockets of its `listen` directives, or the implied one.
    pub listens: Vec<Listen>,
    /// The settings in force outside its locations.
    pub settings: ContextSettings,
    /// All locations, nested ones included.
    pub locations: Vec<Location>,
    /// Indices of the locations that are not nested.
    pub outermost: Vec<usize>,
    /// The `return` or `rewrite` that answers every request.
    pub answer: Option<DirectiveId>,
    /// Each `if`, which may refuse a request and isn't carried over.
    pub hurdles: Vec<DirectiveId>,
    /// Each `rewrite` that runs before nginx looks for a location.
    pub rewrites: Vec<Rewrite>,
    /// The directive that redirects clients to https.
    pub to_https: Option<DirectiveId>,
    /// `ssl_reject_handshake on`: unknown names get no certificate.
    pub strict_sni: Option<DirectiveId>,
}

/// What the locations of a server are read with.
#[derive(Clone, Copy)]
struct LocationContext<'s> {
    /// The `server` directive, whose `set` directives run first.
    server: &'s Directive,
    upstreams: &'s Upstreams,
}

impl Server {
    /// Reads a `server` inside the level `http`.
    pub fn read(
        directive: &Directive,
        http: &ContextSettings,
        upstreams: &Upstreams,
        context: &mut ImportContext<'_>,
    ) -> Server {
        let settings = http.inside(directive.inside(), context);
        let id = directive.id;
        let mut server = Server {
            id,
            names: Vec::new(),
            listens: Vec::new(),
            settings,
            locations: Vec::new(),
            outermost: Vec::new(),
            answer: None,
            hurdles: Vec::new(),
            rewrites: Vec::new(),
            to_https: None,
            strict_sni: None,
        };
        let mut has_listen = false;
        let mut tls = None;
        for inner in directive.inside() {
            match inner.name.as_str() {
                "listen" => {
                    has_listen = true;
                    server.listens.extend(Listen::read(inner, context));
                }
                "ssl" if inner.first() == "on" => tls = Some(inner.id),
                "ssl_reject_handshake" if inner.first() == "on" => {
                    server.strict_sni = Some(inner.id);
                }
                "server_name" => {
                    let names = inner.words.iter().map(|word| ServerName::parse(word));
                    server.names.extend(names.map(|name| (inner.id, name)));
                }
                "location" => {
                    let settings = server.settings.clone();
                    let around = LocationContext { server: directive, upstreams };
                    let place = server.location(inner, &settings, around, context);
                    server.outermost.extend(place);
                }
                "if" => {
                    server.hurdles.push(inner.id);
                    let redirect = inner.inside().iter().find(|inner| is_https(inner));
                    server.to_https = server.to_https.or(redirect.map(|redirect| redirect.id));
                }
                "return" | "rewrite" => server.answers(inner),
                _ => {}
            }
        }
        // nginx listens at port 80 where a server has no `listen`.
        if !has_listen {
            server.listens.push(Listen::implied(id));
        }
        // `ssl on` is of the server, so it concerns all its addresses, those after it included.
        if let Some(id) = tls {
            context.notes.add(id, DirectiveOutcome::Carried, "its listeners speak TLS");
            server.listens.iter_mut().for_each(|listen| listen.tls = true);
        }
        server
    }

    /// Returns whether any location passes requests on.
    pub fn proxies(&self) -> bool {
        let passes = |location: &Location| {
            matches!(location.serves, LocationHandler::Proxy(_) | LocationHandler::Named(..))
        };
        self.answer.is_none() && self.locations.iter().any(passes)
    }

    /// Returns whether users of this host reach it by a Unix socket.
    pub fn has_users(&self) -> bool {
        self.listens.iter().any(|listen| listen.address.is_unix())
    }

    /// Returns the index of the location `@name`.
    pub fn named(&self, name: &str) -> Option<usize> {
        self.locations.iter().position(
            |location| matches!(&location.matches, LocationPattern::Named(own) if own == name),
        )
    }

    fn answers(&mut self, directive: &Directive) {
        match Rewrite::read(directive) {
            Some(rewrite) if !rewrite.ends() => self.rewrites.push(rewrite),
            _ => self.answer = self.answer.or(Some(directive.id)),
        }
        if is_https(directive) {
            self.to_https = self.to_https.or(Some(directive.id));
        }
    }

    /// Reads a `location` and those nested in it; returns its index.
    fn location(
        &mut self,
        directive: &Directive,
        outer: &ContextSettings,
        around: LocationContext<'_>,
        context: &mut ImportContext<'_>,
    ) -> Option<usize> {
        let matches = match LocationPattern::parse(&directive.words) {
            Ok(matches) => matches,
            Err(what) => {
                context.fault(directive.id, what);
                return None;
            }
        };
        let settings = outer.inside(directive.inside(), context);
        let serves = self.serves(directive, &matches, around, context);
        let serves = settings.internal.map_or(serves, LocationHandler::Answer);
        // A `break` before the `return` would keep it from being reached.
        let may_skip =
            |inner: &Directive| ["if", "rewrite", "break"].contains(&inner.name.as_str());
        let fine = |id| directive.inside().iter().any(|inner| inner.id == id && is_fine(inner));
        let answers_all = matches!(serves, LocationHandler::Answer(id) if fine(id))
            && !directive.inside().iter().any(may_skip);
        let tries = matches!(serves, LocationHandler::Proxy(_));
        let redirect = redirect(directive, &serves);
        let hurdle = |inner: &&Directive| match inner.name.as_str() {
            "if" | "limit_except" => true,
            "try_files" => tries,
            _ => false,
        };
        let hurdles = directive.inside().iter().filter(hurdle).map(|inner| inner.id).collect();
        let rewrites = directive
            .inside()
            .iter()
            .filter(|inner| !cuts_off(inner, &matches))
            .filter_map(Rewrite::read);
        let rewrites = rewrites.filter(|rewrite| !rewrite.ends()).collect();
        let passes = directive.inside().iter().any(|inner| inner.name.ends_with("_pass"));
        let mut inside = Vec::new();
        for inner in directive.inside().iter().filter(|inner| inner.name == "location") {
            inside.extend(self.location(inner, &settings, around, context));
        }
        self.check_twins(directive.id, &matches, context);
        self.locations.push(Location {
            id: directive.id,
            matches,
            settings,
            serves,
            answers_all,
            redirect,
            passes,
            hurdles,
            rewrites,
            inside,
        });
        Some(self.locations.len() - 1)
    }

    fn check_twins(
        &self,
        id: DirectiveId,
        matches: &LocationPattern,
        context: &mut ImportContext<'_>,
    ) {
        let around = |id: DirectiveId| context.tree.lines[id].within.last().copied();
        let plain = |matches: &LocationPattern| match matches {
            LocationPattern::Prefix(path, _) => Some((0, path.clone())),
            LocationPattern::Exact(path) => Some((1, path.clone())),
            LocationPattern::Named(path) => Some((2, path.clone())),
            // Equal regular expressions are no fault in nginx: the first match wins.
            LocationPattern::Regex(_) => None,
        };
        let same = |other: &&Location| {
            around(other.id) == around(id) && plain(&other.matches) == plain(matches)
        };
        if plain(matches).is_some()
            && let Some(twin) = self.locations.iter().find(same)
        {
            let first = context.tree.place(twin.id).clone();
            context.fault(id, format!("duplicate location, the first is {first}"));
        }
    }

    fn serves(
        &mut self,
        directive: &Directive,
        matches: &LocationPattern,
        around: LocationContext<'_>,
        context: &mut ImportContext<'_>,
    ) -> LocationHandler {
        let constants = Constants::new(around.server, directive);
        let mut serves = LocationHandler::Other;
        let mut cut_by = None;
        for inner in directive.inside() {
            match inner.name.as_str() {
                "return" => {
                    if is_https(inner) {
                        self.to_https = self.to_https.or(Some(inner.id));
                    }
                    return LocationHandler::Answer(inner.id);
                }
                // Directives of the rewrite module run in their order, before any handler: the
                // first to end the request decides.
                "rewrite" => {
                    if is_https(inner) {
                        self.to_https = self.to_https.or(Some(inner.id));
                    }
                    if Rewrite::read(inner).is_some_and(|rewrite| rewrite.ends()) {
                        return LocationHandler::Answer(inner.id);
                    }
                    if cuts_off(inner, matches) {
                        cut_by = Some(inner.id);
                    }
                }
                "proxy_pass" => {
                    if let Some(pass) = around.upstreams.pass(inner, &constants, context) {
                        if let PassTarget::Unknown(why) = &pass.to {
                            let text = format!("{why}; until then no request reaches a backend");
                            context.notes.add(inner.id, DirectiveOutcome::Closes, text);
                        }
                        // `try_files` changes the location before `proxy_pass` would be the
                        // handler.
                        serves = match serves {
                            LocationHandler::Named(..) => serves,
                            _ => LocationHandler::Proxy(pass),
                        };
                    }
                }
                "try_files" => {
                    if let Some(name) = inner.words.last().filter(|name| name.starts_with('@')) {
                        serves = LocationHandler::Named(inner.id, name.clone());
                    }
                }
                _ => {}
            }
        }
        if let LocationHandler::Proxy(pass) = &mut serves {
            pass.cut_by = cut_by;
        }
        serves
    }
}

/// Returns the redirect that answers every request of a location that `serves` nothing else.
fn redirect(location: &Directive, serves: &LocationHandler) -> Option<Redirect> {
    let LocationHandler::Answer(id) = serves else { return None };
    let answers = |inner: &&Directive| inner.id == *id;
    let before: Vec<_> = location.inside().iter().take_while(|inner| !answers(inner)).collect();
    if before.iter().any(|inner| ["if", "rewrite", "break"].contains(&inner.name.as_str())) {
        return None;
    }
    let by = location.inside().iter().find(answers)?;
    Redirect::read(by).or_else(|| Rewrite::read(by)?.redirect())
}

/// Returns whether a `return` answers with a 2xx: it neither refuses nor redirects.
fn is_fine(directive: &Directive) -> bool {
    directive.name == "return" && directive.first().len() == 3 && directive.first().starts_with('2')
}

/// Returns whether a `return` or `rewrite` redirects to https.
fn is_https(directive: &Directive) -> bool {
    let to = match directive.name.as_str() {
        "return" => directive.words.last(),
        "rewrite" => directive.words.get(1),
        _ => None,
    };
    to.is_some_and(|to| to.starts_with("https://"))
}

/// Parses a server with `text` in its block and nothing around it.
#[cfg(test)]
pub fn parse(text: &str) -> Server {
    let tree = crate::import::tree::parse(&format!("server {{ listen 80; {text} }}")).unwrap();
    let mut context = ImportContext { tree: &tree, notes: Default::default(), faults: Vec::new() };
    let nginx = crate::import::nginx::read(Default::default(), &mut context);
    assert!(context.faults.is_empty(), "{:?}", context.faults);
    nginx.servers.into_iter().next().unwrap()
}
