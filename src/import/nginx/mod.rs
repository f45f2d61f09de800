//! Interprets nginx' directives, as far as Sidegate has a counterpart.
//!
//! Reads as nginx does and decides nothing; `translate` chooses the counterpart.

pub mod backend;
mod constants;
pub mod context;
mod fixed;
mod import_context;
pub mod limit;
pub mod listen;
pub mod location;
pub mod location_pattern;
pub mod mapped;
pub mod model;
pub mod name;
pub mod real_ip;
pub mod regex;
pub mod rewrite;
pub mod server;
pub mod setting;
pub mod unit;
pub mod version;

use std::collections::HashMap;

use self::backend::Upstreams;
use self::context::ContextSettings;
pub use self::import_context::ImportContext;
use self::limit::Zones;
use self::server::Server;
use self::version::{KEEP_ALIVE_SINCE, Version};
use crate::import::report::DirectiveOutcome;
use crate::import::tree::Directive;

/// The `http` block of a configuration.
#[derive(Debug)]
pub struct HttpBlock {
    /// The `server` blocks in reading order.
    pub servers: Vec<Server>,
    /// The zones in which limits count.
    pub zones: Zones,
    /// The value that each variable of a `map $http_upgrade` has for a WebSocket attempt, by
    /// variable.
    pub upgrades: HashMap<String, String>,
    /// The nginx version whose defaults apply.
    pub version: Version,
}

/// Interprets the tree as nginx of this version would; faults are noted.
pub fn read(version: Version, context: &mut ImportContext<'_>) -> HttpBlock {
    let tree = context.tree;
    let https: Vec<_> =
        tree.directives.iter().filter(|directive| directive.name == "http").collect();
    // A site's own file holds only what belongs inside `http`.
    let is_piece =
        https.is_empty() && tree.directives.iter().any(|directive| directive.name == "server");
    let directives: Vec<&Directive> = if is_piece {
        tree.directives.iter().collect()
    } else {
        https.iter().flat_map(|http| http.inside()).collect()
    };
    if let Some(second) = https.get(1) {
        context.fault(second.id, "\"http\" directive is duplicate");
    }
    if is_piece
        && let Some(server) = tree.directives.iter().find(|directive| directive.name == "server")
    {
        let text = "there is no `http` around it: what the main file says of `allow`, `deny`, limits and headers is not known. \
                    Import the main file for that";
        context.notes.add(server.id, DirectiveOutcome::Differs, text);
    }
    for http in https {
        context.notes.add(
            http.id,
            DirectiveOutcome::Needless,
            "Sidegate speaks HTTP and WebSocket alone",
        );
    }
    for (id, files) in &tree.included {
        let text = match &files[..] {
            [] => "matches no file".to_owned(),
            [_] => "read".to_owned(),
            files => format!("{} files read", files.len()),
        };
        context.notes.add(*id, DirectiveOutcome::Carried, text);
    }
    http(version, &directives, context)
}

fn http(version: Version, directives: &[&Directive], context: &mut ImportContext<'_>) -> HttpBlock {
    // Upstreams are read before any server, which may name an upstream that comes later.
    let mut zones = Zones::default();
    let mut upstreams = Upstreams::default();
    let mut upgrades = HashMap::new();
    for directive in directives {
        match directive.name.as_str() {
            "limit_req_zone" | "limit_conn_zone" => zones.take(directive, context),
            "upstream" => upstreams.read(directive, context),
            "map" if directive.first() == "$http_upgrade" => {
                note_map(version, directive, context);
                if let Some(variable) = directive.words.get(1) {
                    upgrades.insert(variable.clone(), mapped(directive.inside(), "websocket"));
                }
            }
            _ => {}
        }
    }
    let settings = ContextSettings::default().inside(directives.iter().copied(), context);
    let servers: Vec<_> =
        directives.iter().filter(|directive| directive.name == "server").collect();
    let mut servers: Vec<_> = servers
        .into_iter()
        .map(|directive| Server::read(directive, &settings, &upstreams, context))
        .collect();
    mapped::add_rules(&mut servers);
    HttpBlock { servers, zones, upgrades, version }
}

/// Notes the `map` of the usual WebSocket recipe; its effect depends on nginx' defaults.
fn note_map(version: Version, directive: &Directive, context: &mut ImportContext<'_>) {
    let plain = mapped(directive.inside(), "");
    if version >= KEEP_ALIVE_SINCE && plain.eq_ignore_ascii_case("close") {
        let text = format!(
            "a route does it by itself. From nginx {KEEP_ALIVE_SINCE} on, connections to a backend are kept, and `close` \
             ended them after each plain request: Sidegate keeps them"
        );
        context.notes.add(directive.id, DirectiveOutcome::Differs, text);
    } else {
        context.notes.add(directive.id, DirectiveOutcome::Needless, "a route does it by itself");
    }
}

/// Returns the value that a map gives for `value`; empty if no entry matches.
fn mapped(entries: &[Directive], value: &str) -> String {
    let exact = entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(value));
    // Regular expressions are not evaluated: in this map, one is assumed to match `websocket`.
    let regex = || entries.iter().find(|entry| entry.name.starts_with('~') && !value.is_empty());
    let default = || entries.iter().find(|entry| entry.name == "default");
    // The order of `map`: exact values, then regular expressions, then `default`.
    exact.or_else(regex).or_else(default).map(|entry| entry.first().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::import::report::ReportNotes;
    use crate::import::tree;

    /// Asserts the faults of `text`: the line of each, and a part of its message.
    fn check(text: &str, expected: &[(usize, &str)]) {
        let tree = tree::parse(text).unwrap();
        let mut context =
            ImportContext { tree: &tree, notes: ReportNotes::default(), faults: Vec::new() };
        read(Version::default(), &mut context);
        let faults: Vec<_> =
            context.faults.iter().map(|fault| (fault.place.line, fault.what.as_str())).collect();
        let fits = |((line, what), (other, part)): (&(usize, &str), &(usize, &str))| {
            line == other && what.contains(part)
        };
        assert!(
            faults.len() == expected.len() && faults.iter().zip(expected).all(fits),
            "{text}: {faults:?}"
        );
    }

    /// The settings of the innermost location, the last one written.
    fn settings(text: &str) -> ContextSettings {
        let server = server::parse(text);
        server.locations.iter().max_by_key(|location| location.id).unwrap().settings.clone()
    }

    #[test]
    fn configuration_that_nginx_rejects_is_an_error_with_a_place() {
        check(
            "http {\n allow 1.2.3;\n deny all all;\n}",
            &[(2, "parameter \"1.2.3\""), (3, "parameter \"all all\"")],
        );
        check("http { proxy_read_timeout soon; }", &[(1, "invalid value \"soon\"")]);
        check(
            "http { client_max_body_size 1m;\n client_max_body_size 2m; }",
            &[(2, "is duplicate")],
        );
        check(
            "http { limit_req burst=1;\n limit_req zone=a burst=x; }",
            &[(1, "without a zone"), (2, "\"burst=x\"")],
        );
        check("http { proxy_read_timeout 10y; }", &[(1, "invalid value \"10y\"")]);
        check(
            "http { client_header_timeout 1M; keepalive_timeout x; }",
            &[(1, "\"1M\""), (1, "\"x\"")],
        );
        check(
            "http { large_client_header_buffers 4; proxy_buffer_size x; }",
            &[(1, "\"4\""), (1, "\"x\"")],
        );
        check("http { client_max_body_size 8589934592g; }", &[(1, "invalid value")]);
        check(
            "http { limit_req zone=a burst=0;\n limit_req zone=a delay=0; }",
            &[(1, "burst=0"), (2, "delay=0")],
        );
        check("http { limit_conn a 0; }", &[(1, "number of connections \"0\"")]);
        check("http { limit_req_zone $a zone=b:1m rate=5x; }", &[(1, "invalid rate")]);
        check("http { limit_conn_zone $a; }", &[(1, "no zone=NAME:SIZE")]);
        check("http { upstream a {} }", &[(1, "no servers are inside upstream \"a\"")]);
        check("server { location /a {}\n location /a {} }", &[(2, "duplicate location")]);
        check(
            "server { location /a {} location = /a {} location ^~ /b { location /c {} } location /c {} }",
            &[],
        );
        check("http {} http {}", &[(1, "\"http\" directive is duplicate")]);
        check(
            "server { location / { proxy_pass ftp://a; } }",
            &[(1, "invalid URL prefix in \"ftp://a\"")],
        );
        check("server { listen a.example; }", &[(1, "`a.example` is no address and port")]);
    }

    #[test]
    fn a_level_inherits_a_list_whole_or_not_at_all() {
        let outer = "allow 10.0.0.0/8; deny all; proxy_set_header Upgrade $http_upgrade; proxy_set_header X-A b;";
        assert_eq!(settings(&format!("{outer} location / {{}}")).access.len(), 2);
        let own = settings(&format!(
            "{outer} location / {{ allow 10.0.0.1; proxy_set_header Host $host; }}"
        ));
        assert_eq!((own.access.len(), own.headers.len()), (1, 1));
        assert_eq!(
            settings(&format!("{outer} location /a/ {{ deny all; location /a/b/ {{}} }}"))
                .access
                .len(),
            1
        );
    }

    #[test]
    fn a_guard_holds_until_it_is_off() {
        assert!(settings("auth_basic a; location / {}").guards["auth_basic"].is_some());
        assert!(
            settings("auth_basic a; location / { auth_basic off; }").guards["auth_basic"].is_none()
        );
    }

    #[test]
    fn map_is_evaluated_for_websocket() {
        for (entries, value) in [
            ("default upgrade; '' close;", "upgrade"),
            ("default close; WebSocket upgrade;", "upgrade"),
            ("'' close;", ""),
            ("~. up; default close;", "up"),
        ] {
            let tree = tree::parse(&format!("map $http_upgrade $c {{ {entries} }}")).unwrap();
            assert_eq!(mapped(tree.directives[0].inside(), "websocket"), value, "{entries}");
        }
    }
}
