//! What nginx refused by, and Sidegate doesn't know: a note for each, at each place where it held.

use crate::cli::import::nginx::Reading;
use crate::cli::import::nginx::level::Level;
use crate::cli::import::nginx::location::Location;
use crate::cli::import::nginx::server::Server;
use crate::cli::import::report::{Scope, Word};
use crate::cli::import::tree::Id;

/// Notes what else may have refused the attempts `scopes`, which came to `location` of `server`, where `level` holds.
pub fn note(server: &Server, location: &Location, level: &Level, scopes: &[Scope], reading: &mut Reading<'_>) {
    for id in level.guards.values().flatten() {
        let name = reading.tree.lines[*id].name.clone();
        let keeps_out = !level.access.is_empty() && level.access.iter().any(|rule| !rule.admits);
        match (level.satisfy_any, keeps_out) {
            (Some(any), true) => {
                let text = format!("either of `{name}` and the networks was enough; here the networks decide alone");
                reading.notes.say_of(any, Word::Differs, text, scopes.to_vec());
                reading.notes.say_of(
                    *id,
                    Word::Differs,
                    "Sidegate asks for no such thing: the networks decide alone",
                    scopes.to_vec(),
                );
            }
            _ => {
                let text = "Sidegate asks for no such thing: whoever was refused by it is admitted, unless the backend asks";
                reading.notes.say_of(*id, Word::Opens, text, scopes.to_vec());
            }
        }
    }
    for id in server.hurdles.iter().chain(&location.hurdles) {
        let (word, text, asks) = hurdle(*id, reading);
        reading.notes.say_of(*id, word, text, if asks { scopes.to_vec() } else { Vec::new() });
    }
    for id in &location.rewrites {
        let text = "paths are never rewritten: what it led elsewhere goes to this location's backend, by its own path";
        reading.notes.say_of(*id, Word::Differs, text, scopes.to_vec());
    }
}

/// Notes what led some of the attempts `scopes` from `location`, which passes nothing on, to where they were passed on.
pub fn note_led_away(location: &Location, scopes: &[Scope], reading: &mut Reading<'_>) {
    let leads = |id: &Id| is_inside(*id, "proxy_pass", reading) || is_inside(*id, "rewrite", reading);
    let conditions: Vec<_> = location.hurdles.iter().filter(|id| leads(id)).copied().collect();
    for id in conditions.iter().chain(&location.rewrites) {
        reading.notes.say_of(
            *id,
            Word::Closes,
            "not carried over: what it led elsewhere, perhaps to a backend, is refused",
            scopes.to_vec(),
        );
    }
}

/// Whether a directive called `name` stands in the block of the directive `id`.
fn is_inside(id: Id, name: &str, reading: &Reading<'_>) -> bool {
    reading.tree.lines.iter().any(|line| line.within.last() == Some(&id) && line.name == name)
}

/// What to say of an `if` or a `limit_except`, and whether it may have refused an attempt.
fn hurdle(id: Id, reading: &Reading<'_>) -> (Word, String, bool) {
    let line = &reading.tree.lines[id];
    if line.name == "limit_except" {
        let gets = line.text.split_whitespace().skip(1).any(|method| method == "GET");
        let text = "methods are not looked at: those that it refused reach the backend, where plain HTTP is forwarded";
        return (Word::Opens, text.into(), !gets);
    }
    let inside = |name: &str| is_inside(id, name, reading);
    if line.text.contains("$http_origin") {
        return (
            Word::Opens,
            "conditions are not carried over: write the origins into the policy's `[client] origins`".into(),
            true,
        );
    }
    if inside("return") || inside("deny") {
        return (
            Word::Opens,
            "conditions are not carried over: whom this one refused or sent elsewhere is let through".into(),
            true,
        );
    }
    if inside("proxy_pass") || inside("rewrite") {
        return (
            Word::Differs,
            "conditions are not carried over: what this one led elsewhere goes where all others go".into(),
            true,
        );
    }
    (Word::Dropped, "conditions are not carried over; this one refuses nobody by itself".into(), false)
}
