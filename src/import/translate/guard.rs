//! Guards: directives by which nginx refuses and that Sidegate doesn't have. Finds where each
//! applies, and notes it.
//!
//! A location with such a guard is closed, or carried over without it if that was accepted. An
//! unknown directive counts as a guard.

use crate::import::nginx::context::{ContextSettings, is_guard};
use crate::import::nginx::limit::{ReqLimit, Zone, ZoneKey, Zones};
use crate::import::nginx::location::{Location, LocationHandler};
use crate::import::nginx::rewrite::AfterRewrite;
use crate::import::nginx::server::Server;
use crate::import::nginx::{HttpBlock, ImportContext};
use crate::import::report::{DirectiveOutcome, NoteScope, silent};
use crate::import::tree::{DirectiveId, Tree};

/// Returns the directives that may refuse a request at the location `place` and aren't carried
/// over.
pub fn guards(nginx: &HttpBlock, server: &Server, place: usize, tree: &Tree) -> Vec<DirectiveId> {
    let location = &server.locations[place];
    let mut ids = of_location(nginx, server, location, tree);
    // Before nginx looks for a location, a `rewrite … break` may still lead elsewhere.
    let leads = |id: &DirectiveId| refuses(*id, tree) || rewrites(*id, tree);
    ids.extend(server.hurdles.iter().filter(|id| leads(id)));
    if let LocationHandler::Named(_, name) = &location.serves
        && let Some(named) = server.named(name).map(|place| &server.locations[place])
    {
        ids.extend(of_location(nginx, server, named, tree));
        // nginx counts a request once, by the first limits that it meets.
        if location.settings.rates != named.settings.rates {
            ids.extend(named.settings.rates.iter().map(|rate| rate.id));
        }
        if location.settings.counts != named.settings.counts {
            ids.extend(named.settings.counts.iter().map(|count| count.id));
        }
    }
    // Both locations may inherit the same guard.
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn of_location(
    nginx: &HttpBlock,
    server: &Server,
    location: &Location,
    tree: &Tree,
) -> Vec<DirectiveId> {
    let settings = &location.settings;
    let mut ids = settings.binding_guards(server.has_users());
    ids.extend(&settings.unknown);
    // An `if` that holds is a location of its own, which inherits `proxy_pass` but no `try_files`.
    let tries = matches!(location.serves, LocationHandler::Named(..));
    ids.extend(location.hurdles.iter().filter(|id| tries || refuses(**id, tree)));
    ids.extend(uncarried_limits(settings, &nginx.zones));
    ids
}

/// Returns the limits of `settings` that its policy doesn't have.
fn uncarried_limits(settings: &ContextSettings, zones: &Zones) -> Vec<DirectiveId> {
    let mut ids = Vec::new();
    if settings.dry_rates != Some(true) {
        let known = settings.rates.iter().filter_map(|rate| Some((rate, zones.rate(&rate.zone)?)));
        let (own, other): (Vec<_>, Vec<_>) =
            known.partition(|(_, zone)| zone.key == ZoneKey::Client);
        ids.extend(other.iter().map(|(rate, _)| rate.id));
        // A policy keeps only the slowest rate. It covers a faster one, unless that has a smaller
        // burst.
        let kept = own.iter().min_by_key(|(_, zone)| zone.requests_per_hour());
        let stricter =
            |one: &(&ReqLimit, &Zone), other: &(&ReqLimit, &Zone)| one.0.burst <= other.0.burst;
        ids.extend(
            own.iter()
                .filter(|one| kept.is_some_and(|kept| !stricter(kept, one)))
                .map(|one| one.0.id),
        );
    }
    if settings.dry_counts != Some(true) {
        let is_other = |zone: &Zone| zone.key == ZoneKey::Other;
        let counts =
            settings.counts.iter().filter(|count| zones.count(&count.zone).is_some_and(is_other));
        ids.extend(counts.map(|count| count.id));
    }
    ids
}

/// Returns whether an `if`, a `limit_except` or a `try_files` may refuse a request or lead it
/// elsewhere.
fn refuses(id: DirectiveId, tree: &Tree) -> bool {
    tree.lines[id].name != "if" || inside(id, tree).any(|(name, text)| leads_away(name, text))
}

fn leads_away(name: &str, text: &str) -> bool {
    match name {
        "return" => !is_fine(text),
        "rewrite" => !text.ends_with(" break"),
        name => silent::leads_away(name),
    }
}

/// Returns whether a `return` answers with a 2xx.
fn is_fine(text: &str) -> bool {
    let code = text.split_whitespace().nth(1).unwrap_or_default();
    code.len() == 3 && code.starts_with('2')
}

/// Returns whether a condition of a server may lead a request elsewhere.
pub fn rewrites(id: DirectiveId, tree: &Tree) -> bool {
    inside(id, tree).any(|(name, _)| name == "rewrite")
}

/// Returns whether a condition of a server may answer a request.
pub fn returns(id: DirectiveId, tree: &Tree) -> bool {
    inside(id, tree).any(|(name, _)| name == "return")
}

/// Yields name and text of the directives in the block of the directive `id`.
fn inside(id: DirectiveId, tree: &Tree) -> impl Iterator<Item = (&str, &str)> {
    let lines = tree.lines.iter().filter(move |line| line.within.contains(&id));
    lines.map(|line| (line.name.as_str(), line.text.as_str()))
}

/// Notes the `guards` that the attempts `scopes` meet; `open` if they are carried over without
/// them.
pub fn note(
    guards: &[DirectiveId],
    open: bool,
    scopes: &[NoteScope],
    context: &mut ImportContext<'_>,
) {
    for id in guards {
        let what = describe_guard(*id, context.tree);
        let (word, then) = match open {
            true => (
                DirectiveOutcome::Opens,
                "clients that it refused are admitted, unless the backend checks as well",
            ),
            false => (
                DirectiveOutcome::Closes,
                "where it holds, all is closed; `--accept-opens` carries it over without it",
            ),
        };
        context.notes.add_scoped(*id, word, format!("{what}: {then}"), scopes.to_vec());
    }
}

/// Notes the remaining differences for the attempts `scopes`, which reach `location` of `server`
/// and meet `guards`.
pub fn note_rest(
    server: &Server,
    location: &Location,
    guards: &[DirectiveId],
    scopes: &[NoteScope],
    context: &mut ImportContext<'_>,
) {
    note_either(location, guards, scopes, context);
    let harmless =
        server.hurdles.iter().chain(&location.hurdles).filter(|id| !guards.contains(*id));
    for id in harmless {
        let differs =
            inside(*id, context.tree).any(|(name, _)| name == "return" || name == "proxy_pass");
        if differs {
            let text = "conditions are not carried over: what this one answered or led elsewhere \
                        goes where all others go";
            context.notes.add_scoped(*id, DirectiveOutcome::Differs, text, scopes.to_vec());
        } else {
            let text = "conditions are not carried over; this one refuses no request by itself";
            context.notes.add(*id, DirectiveOutcome::Dropped, text);
        }
    }
    for rewrite in &location.rewrites {
        let text = match rewrite.then {
            AfterRewrite::Break => {
                "paths are never rewritten: the backend gets the path as it came"
            }
            _ => {
                "paths are never rewritten: what it led elsewhere goes to this location's \
                 backend, by its own path"
            }
        };
        context.notes.add_scoped(rewrite.id, DirectiveOutcome::Differs, text, scopes.to_vec());
    }
}

/// Notes a `satisfy any` whose networks are enough, and the guards beside it.
fn note_either(
    location: &Location,
    guards: &[DirectiveId],
    scopes: &[NoteScope],
    context: &mut ImportContext<'_>,
) {
    let settings = &location.settings;
    let Some(any) = settings.satisfy.filter(|set| set.value) else { return };
    for id in settings.guards.values().flatten().filter(|id| !guards.contains(*id)) {
        let name = context.tree.lines[*id].name.clone();
        let text = format!(
            "either of `{name}` and the networks was enough; here the networks decide alone"
        );
        context.notes.add_scoped(any.id, DirectiveOutcome::Closes, text, scopes.to_vec());
        let text = "Sidegate asks for no such thing: the networks decide alone";
        context.notes.add_scoped(*id, DirectiveOutcome::Closes, text, scopes.to_vec());
    }
}

/// Describes a guard, as the beginning of a sentence.
fn describe_guard(id: DirectiveId, tree: &Tree) -> String {
    let line = &tree.lines[id];
    match line.name.as_str() {
        "if" if line.text.contains("$http_origin") => {
            "conditions are not carried over; write the origins into the policy's `[client] \
             origins`"
                .into()
        }
        "if" => "conditions are not carried over".into(),
        "limit_except" => "methods are not looked at".into(),
        "try_files" => "files are not looked for".into(),
        "limit_req" => "rates are counted by client, in one budget, not so".into(),
        "limit_conn" => "tunnels are counted by client or in all, not by this key".into(),
        "merge_slashes" => "paths with empty segments are made canonical, unless a route says \
                            `paths = \"as-is\"`"
            .into(),
        // rustls takes chains that are longer than `ssl_verify_depth`, and a listener asks the
        // clients of all its servers alike.
        "ssl_verify_client" => "a listener would verify chains of any depth, for all its servers: \
                                write `client_certificates = { ca = …, crl = […] }` by hand, with \
                                `ssl_client_certificate` as its `ca`"
            .into(),
        name if is_guard(name) => "Sidegate asks for no such thing".into(),
        _ => format!("`{}` is not known here, and may refuse", line.name),
    }
}

/// Notes the directives that led attempts from `location`, which passes nothing on, to a place that
/// did.
pub fn note_led_away(location: &Location, scopes: &[NoteScope], context: &mut ImportContext<'_>) {
    let leads = |id: &DirectiveId| {
        inside(*id, context.tree).any(|(name, _)| name == "proxy_pass" || name == "rewrite")
    };
    let conditions = location.hurdles.iter().filter(|id| leads(id)).copied();
    let rewrites = location.rewrites.iter().map(|rewrite| rewrite.id);
    for id in conditions.chain(rewrites).collect::<Vec<_>>() {
        let text = "not carried over: what it led elsewhere, perhaps to a backend, is refused";
        context.notes.add_scoped(id, DirectiveOutcome::Closes, text, scopes.to_vec());
    }
}
