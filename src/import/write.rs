//! Renders `sidegate.toml`, policies and lists as text.
//!
//! Decides nothing: every value comes from `translate`.

use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::import::access::{NetworkDecision, all_v4, all_v6};
use crate::import::nginx::unit::format_duration;
use crate::import::translate::policy::{OutputPolicy, TokenBucket};
use crate::import::translate::route::{MaxBody, OutputRoute, RouteTarget, Timeouts};
use crate::import::translate::{OutputConfig, OutputListener, OutputProtocol};
use crate::import::tree::{DirectiveId, Tree};
use crate::output_file::OutputFile;
use sidegate::policy::peers::PeerPattern;

/// Most networks that are written into the policy itself; more get a list in a file of its own.
const MAX_INLINE_NETWORKS: usize = 8;

/// Port of `[metrics]`; each further configuration gets the next port.
const METRICS_PORT: u16 = 10464;

/// Placeholder backend of closed routes and of unknown backends; never dialled.
const PLACEHOLDER_BACKEND: &str = "http://127.0.0.1:9";

/// Returns the files of all configurations, with paths relative to the output directory.
pub fn pages(configs: &[OutputConfig], tree: &Tree) -> Vec<OutputFile> {
    let mut pages = Vec::new();
    for (number, config) in (0..).zip(configs) {
        let folder = config.folder.as_ref().map(|folder| format!("{folder}/")).unwrap_or_default();
        let mut page = |path: String, text: String| {
            pages.push(OutputFile { path: format!("{folder}{path}").into(), text, mode: 0o644 });
        };
        page("sidegate.toml".into(), settings(config, METRICS_PORT.saturating_add(number), tree));
        for policy in &config.policies {
            let clients = ClientTable::from_policy(policy);
            if let Some(entries) = clients.in_file() {
                page(format!("policies/lists/{}.cidr", policy.name), list(policy, entries, tree));
            }
            page(format!("policies/{}.toml", policy.name), self::policy(policy, &clients, tree));
        }
    }
    pages
}

fn settings(config: &OutputConfig, metrics: u16, tree: &Tree) -> String {
    let main = tree.lines.first().map(|line| line.place.file.to_string()).unwrap_or_default();
    let mut out =
        format!("# Imported from {main}; its report has the result for each line.\nschema = 1\n");
    if config.folder.is_some() {
        push_line(&mut out, format_args!("\n[metrics]\nlisten = \"127.0.0.1:{metrics}\""));
    }
    for one in &config.listeners {
        listener(one, &mut out);
    }
    for (chain, key) in &config.certificates {
        let (chain, key) = (quoted(&chain.to_string_lossy()), quoted(&key.to_string_lossy()));
        push_line(&mut out, format_args!("\n[[certificate]]\nchain = {chain}\nkey = {key}"));
    }
    for route in &config.routes {
        push_line(&mut out, self::route(route, tree).trim_end());
    }
    out
}

fn listener(listener: &OutputListener, out: &mut String) {
    let (name, listen) = (quoted(&listener.name), quoted(&listener.address.to_string()));
    push_line(out, format_args!("\n[[listener]]\nname = {name}\nlisten = {listen}"));
    if listener.address.is_unix() {
        push_line(out, "mode = \"0666\"   # as in nginx: every user of this host may connect");
    }
    match listener.speaks {
        OutputProtocol::Plain => push_line(out, "tls = false"),
        OutputProtocol::Redirect => push_line(out, "tls = false\nredirect = \"https\""),
        OutputProtocol::Tls { only_13, strict_sni } => {
            if only_13 {
                push_line(out, "tls_min = \"1.3\"");
            }
            if strict_sni {
                push_line(out, "strict_sni = true");
            }
        }
    }
    if !listener.proxies.is_empty() {
        let from = peers(&listener.proxies);
        push_line(out, format_args!("proxy_protocol = {{ from = [{from}] }}"));
    }
    if !listener.forwarders.is_empty() {
        let from = peers(&listener.forwarders);
        push_line(
            out,
            format_args!("forwarded = {{ header = \"x-forwarded-for\", from = [{from}] }}"),
        );
    }
}

fn peers(peers: &[PeerPattern]) -> String {
    let all: Vec<_> = peers.iter().map(|peer| quoted(&peer.to_string())).collect();
    all.join(", ")
}

fn route(
    OutputRoute { name, host, path, leads, policy, from }: &OutputRoute,
    tree: &Tree,
) -> String {
    let mut out = String::from("\n");
    match from {
        Some(id) => {
            push_line(&mut out, format_args!("# {}: {}", tree.place(*id), tree.lines[*id].text));
        }
        None => push_line(&mut out, "# nginx passed nothing on here."),
    }
    push_line(
        &mut out,
        format_args!(
            "[[route]]\nname = {}\nhost = {}\npath = {}",
            quoted(name),
            quoted(host),
            quoted(path)
        ),
    );
    match leads {
        RouteTarget::Closed => {
            push_line(
                &mut out,
                format_args!("backend = {}   # never dialled", quoted(PLACEHOLDER_BACKEND)),
            );
        }
        RouteTarget::Backends { backends, unknown, strip_prefix, max_body, timeouts } => {
            push_backends(&mut out, backends, unknown.as_deref());
            push_line(
                &mut out,
                "http = \"forward\"   # nginx passed plain HTTP on as well: leave it out where \
                 only WebSockets are meant",
            );
            if *strip_prefix {
                push_line(&mut out, "strip_prefix = true");
            }
            if let Some(max_body) = max_body {
                let max = match max_body {
                    MaxBody::Bytes(bytes) => size(*bytes),
                    MaxBody::Off => "off".into(),
                };
                push_line(&mut out, format_args!("max_body = {}", quoted(&max)));
            }
            push_timeouts(&mut out, timeouts);
        }
    }
    push_line(&mut out, format_args!("policy = {}", quoted(policy)));
    out
}

/// Adds `backend`; `unknown` says why there is only a placeholder.
fn push_backends(out: &mut String, backends: &[String], unknown: Option<&str>) {
    let all: Vec<_> = backends.iter().map(|backend| quoted(backend)).collect();
    match (&all[..], unknown) {
        (_, Some(why)) => {
            let placeholder = quoted(PLACEHOLDER_BACKEND);
            // A line feed would end the comment, and the rest would be read as TOML.
            push_line(out, format_args!("# {}", on_one_line(why)));
            push_line(
                out,
                format_args!(
                    "backend = {placeholder}   # nothing listens there: write the backend's address"
                ),
            );
        }
        ([one], None) => push_line(out, format_args!("backend = {one}")),
        (all, None) => push_line(out, format_args!("backend = [{}]", all.join(", "))),
    }
}

/// Adds the timeouts that are not those of the defaults, if there are any.
fn push_timeouts(out: &mut String, timeouts: &Timeouts) {
    let Timeouts { dial, response, body_stall, write_stall } = timeouts;
    let timeouts = [
        ("dial", dial),
        ("response", response),
        ("body_stall", body_stall),
        ("write_stall", write_stall),
    ];
    let set = timeouts.iter().filter_map(|(key, time)| {
        time.map(|time| format!("{key} = {}", quoted(&format_duration(time))))
    });
    let set: Vec<_> = set.collect();
    if !set.is_empty() {
        push_line(out, format_args!("timeouts = {{ {} }}", set.join(", ")));
    }
}

/// The `[client]` table: the list that decides, and the entries that it holds.
enum ClientTable<'p> {
    /// Admits everyone but these entries, which may be empty. The first field has all decisions.
    Any(&'p [NetworkDecision], Vec<NetworkDecision>),
    /// Admits these entries alone.
    Only(Vec<NetworkDecision>),
}

impl<'p> ClientTable<'p> {
    fn from_policy(policy: &'p OutputPolicy) -> ClientTable<'p> {
        let is_root = |one: &&NetworkDecision| one.network == all_v4() || one.network == all_v6();
        let admits_all = policy.access.iter().filter(is_root).all(|one| one.admits);
        if admits_all {
            let rest = policy.access.iter().filter(|one| !is_root(one)).copied().collect();
            return ClientTable::Any(&policy.access, rest);
        }
        ClientTable::Only(
            policy.access.iter().filter(|one| one.admits || !is_root(one)).copied().collect(),
        )
    }

    fn entries(&self) -> &[NetworkDecision] {
        match self {
            ClientTable::Any(_, entries) | ClientTable::Only(entries) => entries,
        }
    }

    /// Returns the entries if they are more than `MAX_INLINE_NETWORKS` and go to a file.
    fn in_file(&self) -> Option<&[NetworkDecision]> {
        Some(self.entries()).filter(|entries| entries.len() > MAX_INLINE_NETWORKS)
    }

    /// Formats an entry for a list; `!` marks an exception.
    fn entry(&self, one: &NetworkDecision) -> String {
        let holds = matches!(self, ClientTable::Only(_)) == one.admits;
        format!("{}{}", if holds { "" } else { "!" }, network(one.network))
    }
}

fn policy(policy: &OutputPolicy, clients: &ClientTable<'_>, tree: &Tree) -> String {
    let mut out = String::new();
    let users = policy.users.and_then(|users| users.by);
    let ids = policy.access.iter().filter_map(|one| one.by).chain(users);
    if *policy == OutputPolicy::closed() {
        push_line(
            &mut out,
            "# For requests that nginx does not forward; without these routes, broader ones would.",
        );
    } else {
        push_line(&mut out, format_args!("# {}", origin(ids, tree)));
    }
    push_line(&mut out, "schema = 1");
    if clients.in_file().is_some() {
        push_line(
            &mut out,
            format_args!(
                "\n[lists]\nclients = {{ file = {} }}",
                quoted(&format!("lists/{}.cidr", policy.name))
            ),
        );
    }
    let entries = entries(policy, clients);
    push_line(&mut out, "\n[client]");
    match clients {
        ClientTable::Any(all, _) => {
            let by_rule = all.iter().any(|one| one.by.is_some() && one.network.prefix_len() == 0);
            let why =
                if by_rule { "`allow all`" } else { "no rule of nginx' keeps the others out" };
            push_line(&mut out, format_args!("allow = [\"any\"]   # {why}"));
            if !entries.is_empty() {
                push_line(&mut out, format_args!("deny = [{}]", entries.join(", ")));
            }
        }
        ClientTable::Only(_) if entries.is_empty() => {
            push_line(&mut out, "allow = []   # no client");
        }
        ClientTable::Only(_) => {
            push_line(&mut out, format_args!("allow = [{}]", entries.join(", ")));
        }
    }
    limits(policy, &mut out);
    out
}

/// Returns the entries of `allow` or, beside `["any"]`, of `deny`.
fn entries(policy: &OutputPolicy, clients: &ClientTable<'_>) -> Vec<String> {
    let mut entries: Vec<_> = if clients.in_file().is_some() {
        vec![quoted("clients")]
    } else {
        clients.entries().iter().map(|one| quoted(&clients.entry(one))).collect()
    };
    // `any` admits users of this host too, and a network none of them.
    let admits_by_default = matches!(clients, ClientTable::Any(..));
    if policy.users.is_some_and(|users| users.admits != admits_by_default) {
        entries.push(quoted("unix"));
    }
    entries
}

fn limits(policy: &OutputPolicy, out: &mut String) {
    let mut lines = Vec::new();
    if let Some(TokenBucket { tokens, per, burst, zone }) = &policy.rate {
        let unit = if per.as_secs() == 60 { "m" } else { "s" };
        let rate = format!("{{ rate = \"{tokens}/{unit}\", burst = {burst} }}");
        lines.push(format!("upgrades = {rate}   # limit_req zone={}", on_one_line(zone)));
        lines.push(format!("requests = {rate}"));
    }
    let counts = [
        ("per_client", policy.per_client.as_ref().map(|(_, max)| max)),
        ("total", policy.total.as_ref().map(|(.., max)| max)),
    ];
    let counts: Vec<_> =
        counts.iter().filter_map(|(key, max)| max.map(|max| format!("{key} = {max}"))).collect();
    if !counts.is_empty() {
        lines.push(format!("connections = {{ {} }}", counts.join(", ")));
    }
    if let Some(idle) = policy.idle {
        let why = if policy.idle_by_default {
            "nginx' default; Sidegate finds dead clients by itself, so it may be longer, or left \
             out"
        } else {
            "proxy_read_timeout"
        };
        lines.push(format!("idle = {}   # {why}", quoted(&format_duration(idle))));
    }
    if !lines.is_empty() {
        push_line(out, format_args!("\n[limits]\n{}", lines.join("\n")));
    }
}

fn list(policy: &OutputPolicy, entries: &[NetworkDecision], tree: &Tree) -> String {
    let clients = ClientTable::from_policy(policy);
    let mut out =
        format!("# The networks of policies/{}.toml: the longest prefix decides.\n", policy.name);
    for one in entries {
        let place = one.by.map(|id| format!("   # {}", tree.place(id))).unwrap_or_default();
        push_line(&mut out, format_args!("{}{place}", clients.entry(one)));
    }
    out
}

/// Says in a comment where the rules of a policy come from.
fn origin(ids: impl Iterator<Item = DirectiveId>, tree: &Tree) -> String {
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    let mut places: Vec<_> = ids.iter().map(|id| tree.place(*id).to_string()).collect();
    places.dedup();
    match &places[..] {
        [] => "Imported: nginx has no `allow` and no `deny` there.".into(),
        [all @ .., _] if all.len() >= MAX_INLINE_NETWORKS => {
            format!("Imported: {} and {} more rules.", places[0], all.len())
        }
        all => format!("Imported: {}.", all.join(", ")),
    }
}

fn network(network: IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        IpAddr::to_string(&network.addr())
    } else {
        network.to_string()
    }
}

fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")];
    let (unit, name) =
        units.into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit)).unwrap_or((1, "B"));
    format!("{}{name}", bytes / unit)
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn on_one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

fn push_line(out: &mut String, line: impl std::fmt::Display) {
    let _ = writeln!(out, "{line}"); // a String takes everything
}
