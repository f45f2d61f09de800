//! What nginx' directives mean, as far as Sidegate has a counterpart.
//!
//! It reads as nginx does and decides nothing: what becomes of it is `translate`'s to say.

pub mod backend;
pub mod level;
pub mod limit;
pub mod listen;
pub mod location;
pub mod name;
pub mod server;
mod unit;

use std::collections::HashMap;

use self::backend::Upstreams;
use self::level::Level;
use self::limit::Zones;
use self::server::Server;
use crate::cli::import::report::{Notes, Word};
use crate::cli::import::tree::{Directive, Fault, Id, Tree};

/// The `http` of a configuration.
#[derive(Debug)]
pub struct Nginx {
    /// In the order read.
    pub servers: Vec<Server>,
    /// What limits count in.
    pub zones: Zones,
    /// What `map $http_upgrade` makes of an attempt, by the variable it sets.
    pub upgrades: HashMap<String, String>,
}

/// One pass over the tree.
#[derive(Debug)]
pub struct Reading<'t> {
    /// What is read.
    pub tree: &'t Tree,
    /// What is noted about it.
    pub notes: Notes,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

impl Reading<'_> {
    /// Notes that `what` is wrong with the directive `id`.
    pub fn fault(&mut self, id: Id, what: impl Into<String>) {
        self.faults.push(self.tree.fault(id, what));
    }
}

/// Reads what the tree means; faults are noted.
pub fn read(reading: &mut Reading<'_>) -> Nginx {
    let tree = reading.tree;
    let https: Vec<_> = tree.directives.iter().filter(|directive| directive.name == "http").collect();
    // A site's own file holds what stands inside `http`.
    let is_piece = https.is_empty() && tree.directives.iter().any(|directive| directive.name == "server");
    let directives: Vec<&Directive> =
        if is_piece { tree.directives.iter().collect() } else { https.iter().flat_map(|http| http.inside()).collect() };
    if let Some(second) = https.get(1) {
        reading.fault(second.id, "\"http\" directive is duplicate");
    }
    if is_piece && let Some(server) = tree.directives.iter().find(|directive| directive.name == "server") {
        let text = "there is no `http` around it: what the main file says of `allow`, `deny`, limits and headers is not known. \
                    Import the main file for that";
        reading.notes.say(server.id, Word::Differs, text);
    }
    for http in https {
        reading.notes.say(http.id, Word::Needless, "Sidegate speaks HTTP and WebSocket alone");
    }
    for (id, files) in &tree.included {
        let text = match &files[..] {
            [] => "matches no file".to_owned(),
            [_] => "read".to_owned(),
            files => format!("{} files read", files.len()),
        };
        reading.notes.say(*id, Word::Carried, text);
    }
    http(&directives, reading)
}

fn http(directives: &[&Directive], reading: &mut Reading<'_>) -> Nginx {
    let mut zones = Zones::default();
    let mut upstreams = Upstreams::default();
    let mut upgrades = HashMap::new();
    for directive in directives {
        match directive.name.as_str() {
            "limit_req_zone" | "limit_conn_zone" => zones.take(directive, reading),
            "upstream" => upstreams.take(directive, reading),
            "map" if directive.first() == "$http_upgrade" => {
                reading.notes.say(directive.id, Word::Needless, "a route does it by itself");
                if let Some(variable) = directive.words.get(1) {
                    upgrades.insert(variable.clone(), mapped(directive.inside(), "websocket"));
                }
            }
            _ => {}
        }
    }
    let level = Level::default().inside(directives.iter().copied(), reading);
    let servers: Vec<_> = directives.iter().filter(|directive| directive.name == "server").collect();
    let servers = servers.into_iter().map(|directive| Server::read(directive, &level, &upstreams, reading)).collect();
    Nginx { servers, zones, upgrades }
}

/// What a map makes of `value`.
fn mapped(entries: &[Directive], value: &str) -> String {
    let exact = entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(value));
    // A regular expression is not read; who writes one here means WebSockets.
    let regex = || entries.iter().find(|entry| entry.name.starts_with('~'));
    let default = || entries.iter().find(|entry| entry.name == "default");
    exact.or_else(regex).or_else(default).map(|entry| entry.first().to_owned()).unwrap_or_default()
}
