//! `sidegate init`: writes a commented configuration that runs as it is.
//!
//! It writes all of its files or none, and never over an existing file.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;

use crate::cli::certificate::{self, self_signed};
use crate::cli::check;
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_diagnostics, print_error, shell_quoted};
use crate::cli::output_files::{self, OutputFile};
use sidegate::control::config::keys::FileKind;
use sidegate::control::config::{self, schema};
use sidegate::policy::route::HostPattern;

const CONFIG_TEMPLATE: &str = include_str!("init/sidegate.toml");
const POLICY_TEMPLATE: &str = include_str!("init/main.toml");
const LIST_TEMPLATE: &str = include_str!("init/office.cidr");

/// The keys of a listener that mean nothing without TLS.
const OF_TLS: [&str; 3] = ["#tls_min", "#strict_sni", "#handshakes_per_client"];

/// The keys of a listener that only a Unix socket has.
const UNIX_KEYS: &str = r#"
#mode   = "0660"                        # Permissions of the socket: who may connect
#group  = ""                            # Its group; "": that of the process
"#;

/// Entries of the list for a listener with an address.
const LOCAL_ENTRIES: &str = "\
127.0.0.0/8     # this machine, to try it; take it out, and its test, when others come in
::1
";

/// Entry of the list for a Unix socket.
const UNIX_ENTRY: &str = "\
unix            # users of this host, as `mode` and `group` let them; one: unix:uid=33
";

/// The example of `from`, and one of the same length for a Unix socket.
const ADDRESS_FROM: &str = "from = [\"10.20.0.0/24\"] }";
const UNIX_FROM: &str = "from = [\"unix\"] }        ";

/// A user of this host, for the policy's tests: any user is admitted by `unix`.
const SOME_USER: &str = "unix:uid=33";

const CERTIFICATE_TABLE: &str = r#"
# For development: replace it before others come.
[[certificate]]
chain = "certs/dev.pem"
key = "certs/dev.key"
"#;

/// Columns of the comments in the two files.
const COMMENTS: (usize, usize) = (40, 52);

/// The default port of `[metrics]`.
const METRICS_PORT: u16 = 10464;

/// Validity of the certificate, in days: below the strictest client's limit (Apple: 825).
const CERTIFICATE_DAYS: i32 = 820;

/// Arguments of `sidegate init`.
#[derive(clap::Args)]
pub struct InitArgs {
    /// The backend server: http://HOST:PORT on this machine, https://HOST:PORT, or unix:/PATH.
    #[arg(long, value_name = "URL", value_parser = config::backend)]
    backend: String,
    /// The directory to write to; created if missing.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The address and port to listen on, or unix:/PATH.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443", value_parser = listen)]
    listen: ListenArg,
    /// The host name that clients request: ws.example.com, *.example.com (one label), or * for any.
    /// Default: *; with --plain, the address of --listen, or localhost.
    #[arg(long, value_name = "NAME", value_parser = config::host)]
    host: Option<HostPattern>,
    /// What to do with plain HTTP requests.
    #[arg(long, value_enum, default_value = "refuse")]
    http: PlainHttpArg,
    /// Listen without TLS: behind a proxy that terminates it, or for local use only.
    #[arg(long)]
    plain: bool,
}

/// Where to listen. Displays as the `listen` of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ListenArg {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(Arc<Path>),
}

impl ListenArg {
    /// Address and port, an IPv4-mapped IPv6 address as IPv4. `None` means a Unix socket.
    fn tcp(&self) -> Option<SocketAddr> {
        match self {
            ListenArg::Tcp(at) => Some(SocketAddr::new(at.ip().to_canonical(), at.port())),
            ListenArg::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenArg::Tcp(address) => address.fmt(f),
            ListenArg::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What to do with plain HTTP requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PlainHttpArg {
    /// Refuse them: only WebSockets are relayed.
    Refuse,
    /// Forward them to the backend.
    Forward,
}

/// Writes the configuration, prints the next steps, and checks what it wrote.
pub fn init(verb: &InitArgs) -> Exit {
    let host = match check_backend_differs(verb).and_then(|()| host(verb)) {
        Ok(host) => host,
        Err(sentence) => {
            print_error(sentence);
            return Exit::Usage;
        }
    };
    let site = InitSite { verb, host };
    let pages = match output_files(&site) {
        Ok(pages) => pages,
        Err(error) => {
            print_error(format_args!("the certificate cannot be created: {error}"));
            return Exit::Failure;
        }
    };
    if output_files::write_all(&pages, "--dir").is_none() {
        return Exit::Failure;
    }
    print(next_steps(&site, &pages));
    // Findings do not fail `init`: the files exist now, and a second run would refuse to write.
    let found = check::found(&verb.dir);
    if !found.is_empty() {
        print("\n`sidegate check` reports:\n");
        print_diagnostics(&found);
    }
    Exit::Success
}

/// The arguments, and the host that follows from them.
struct InitSite<'v> {
    verb: &'v InitArgs,
    host: HostPattern,
}

impl InitSite<'_> {
    /// The address to listen on. `None` means a Unix socket.
    fn ip(&self) -> Option<IpAddr> {
        self.verb.listen.tcp().map(|at| at.ip())
    }

    /// The address at which this machine reaches the listener. `None` means a Unix socket.
    fn target(&self) -> Option<IpAddr> {
        self.ip().map(|ip| match ip {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        })
    }

    /// The source address of connections from this machine. `None` means a loopback address or a
    /// Unix socket.
    fn source_address(&self) -> Option<IpAddr> {
        self.target().filter(|ip| !ip.is_loopback())
    }

    /// Whether `localhost` resolves to the listener, or is as good as any name at a Unix socket.
    fn is_localhost(&self) -> bool {
        self.ip().is_none_or(|ip| ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST)
    }

    /// A name that the route's host pattern matches.
    fn name(&self) -> String {
        match &self.host {
            HostPattern::Exact(name) => name.to_string(),
            HostPattern::Wildcard(parent) => format!("www.{parent}"),
            HostPattern::Any => match self.ip().filter(|_| !self.is_localhost()) {
                Some(ip) => bracketed(ip),
                None => "localhost".into(),
            },
        }
    }

    /// Whether the site's name resolves to the listener on this machine.
    fn is_reached(&self) -> bool {
        let name = self.name();
        self.target().map(bracketed).as_ref() == Some(&name)
            || name == "localhost" && self.is_localhost()
    }

    /// The site's name, with the port unless it is the scheme's default.
    fn authority(&self) -> String {
        // Browsers leave the default port of a scheme out of `Origin` (RFC 6454 §6.2).
        let own = if self.verb.plain { 80 } else { 443 };
        match self.verb.listen.tcp().map(|at| at.port()) {
            Some(port) if port != own => format!("{}:{port}", self.name()),
            _ => self.name(),
        }
    }

    /// The site's URL; `scheme` becomes its secure form (`wss`, `https`) with TLS.
    fn url(&self, scheme: &str) -> String {
        let s = if self.verb.plain { "" } else { "s" };
        format!("{scheme}{s}://{}", self.authority())
    }

    /// The certificate's names besides `localhost` and the loopback addresses.
    fn certificate_names(&self) -> Vec<String> {
        // The brackets of an IPv6 host belong to URLs (RFC 3986 §3.2.2), not to certificates.
        let host = Some(self.host.to_string())
            .filter(|host| host != "*")
            .map(|host| host.replace(['[', ']'], ""));
        let address = self.ip().filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
        let is_new = |name: &String| !certificate::LOCAL_NAMES.contains(&&**name);
        let mut all: Vec<_> = host.into_iter().chain(address).filter(is_new).collect();
        // Host and address may be the same text, and they are neighbours here.
        all.dedup();
        all
    }

    /// A port for `[metrics]` that neither the listener nor the backend uses.
    fn metrics(&self) -> u16 {
        let backend = authority(&self.verb.backend).map(|at| at.port());
        let own = self.verb.listen.tcp().map(|at| at.port());
        // Ports alone are compared: a listener at a wildcard address has that of loopback as well.
        let is_free = |port: &u16| Some(*port) != own && Some(*port) != backend;
        (METRICS_PORT..).find(is_free).unwrap_or(METRICS_PORT)
    }

    fn config(&self) -> String {
        let InitArgs { backend, listen, http, plain, .. } = self.verb;
        // A key that is left out here becomes a line of `#*`.
        let tls = if *plain { "tls = false" } else { "" };
        let http = if *http == PlainHttpArg::Forward { "http = \"forward\"" } else { "" };
        let metrics = match self.metrics() {
            METRICS_PORT => String::new(),
            port => format!("listen = \"127.0.0.1:{port}\""),
        };
        let listen_keys = match listen {
            ListenArg::Tcp(_) => "",
            ListenArg::Unix(_) => UNIX_KEYS.trim_start(),
        };
        let filled = CONFIG_TEMPLATE
            .replace("{metrics}\n", &line(&metrics))
            .replace("{unix}\n", listen_keys)
            .replace("{tls}\n", &line(tls))
            .replace("{certificate}", if *plain { "" } else { CERTIFICATE_TABLE })
            .replace("{host}", &self.host.to_string())
            .replace("{http}\n", &line(http));
        // Replaced last, so that a placeholder within the URL stays as it is.
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let filled = filled.replace("{listen}", &quoted(&listen.to_string()));
        let filled = filled.replace("{backend}", &quoted(backend));
        let text = FileKind::Config.commented(&filled, COMMENTS.0);
        let is_kept = |line: &&str| !(*plain && OF_TLS.iter().any(|off| line.starts_with(off)));
        let is_unix = matches!(listen, ListenArg::Unix(_));
        // No peer of a Unix socket has an address, which the examples of `from` have.
        let fitting = |line: &str| match is_unix && line.contains(ADDRESS_FROM) {
            true => line.replace(ADDRESS_FROM, UNIX_FROM),
            false => line.to_owned(),
        };
        text.lines().filter(is_kept).map(|line| format!("{}\n", fitting(line))).collect()
    }

    fn policy(&self) -> String {
        let requests = match self.verb.http {
            PlainHttpArg::Refuse => "#requests",
            PlainHttpArg::Forward => "requests = { rate = \"50/s\", burst = 200 }",
        };
        let filled = POLICY_TEMPLATE
            .replace("{requests}", requests)
            .replace("{url}", &format!("{}/", self.url("ws")))
            .replace("{client}", &self.target().map_or(SOME_USER.into(), |ip| ip.to_string()))
            .replace(
                "{who}",
                if self.ip().is_some() { "this machine" } else { "a user of this host" },
            )
            .replace("{origin}", &self.url("http"));
        FileKind::Policy.commented(&filled, COMMENTS.1)
    }

    fn list(&self) -> String {
        let own = self
            .source_address()
            .map(|ip| format!("{ip:<16}# this machine as well\n"))
            .unwrap_or_default();
        let entries = if self.ip().is_some() { LOCAL_ENTRIES } else { UNIX_ENTRY };
        LIST_TEMPLATE.replace("{entries}\n", entries).replace("{own}\n", &own)
    }
}

/// `text` as a line; nothing of an empty text.
fn line(text: impl AsRef<str>) -> String {
    match text.as_ref() {
        "" => String::new(),
        text => format!("{text}\n"),
    }
}

/// The host of the route. Without TLS it defaults to a name, not to `*`: an attacker's page under a
/// name that resolves here (DNS rebinding) would be same-origin.
fn host(verb: &InitArgs) -> Result<HostPattern, String> {
    let ip = match (&verb.host, verb.plain) {
        (Some(host), _) => return Ok(host.clone()),
        (None, false) => return Ok(HostPattern::Any),
        (None, true) => verb.listen.tcp().map(|at| at.ip()),
    };
    match ip {
        // No client sends a wildcard address as its `Host`, so no default would match.
        Some(ip) if ip.is_unspecified() => {
            Err("--plain on a wildcard address needs a host name: add --host NAME".into())
        }
        Some(ip) if ip != Ipv4Addr::LOCALHOST => config::host(&bracketed(ip)),
        Some(_) | None => Ok(HostPattern::Exact("localhost".into())),
    }
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn listen(text: &str) -> Result<ListenArg, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return config::listener_path(path).map(ListenArg::Unix);
    }
    let address: SocketAddr = text.parse().map_err(|_| {
        "not an address with a port: write one like 0.0.0.0:8443 or [::]:8443, or unix:/PATH"
            .to_owned()
    })?;
    // A link-local address means nothing without its zone (RFC 4007 §6), which URLs do not carry.
    let is_of_a_link = matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    match address.port() {
        0 => Err("port 0 is a different port at each start: name one, like 8443".to_owned()),
        _ if is_of_a_link => {
            Err("a link-local address holds on one link alone: name another, or [::]".to_owned())
        }
        _ => Ok(ListenArg::Tcp(address)),
    }
}

/// The address in a backend's URL. `None` means a Unix socket.
fn authority(backend: &str) -> Option<SocketAddr> {
    let (scheme, at) = backend.split_once("://")?;
    let port = if scheme == "https" { 443 } else { 80 };
    // `init` resolves no other name, so that its result does not depend on the network.
    let at = at.replace("localhost", "127.0.0.1");
    at.parse()
        .ok()
        .or_else(|| Some(SocketAddr::new(at.trim_matches(['[', ']']).parse().ok()?, port)))
}

/// Fails if the backend is the listener itself.
fn check_backend_differs(verb: &InitArgs) -> Result<(), String> {
    let Some(own) = verb.listen.tcp() else {
        // Compared as written: loading the files finds links and other spellings (`socket_paths`).
        return match verb.listen.to_string() == verb.backend {
            true => Err(format!(
                "the listener and the backend would both use {}: name another path with --listen",
                verb.backend
            )),
            false => Ok(()),
        };
    };
    let is_itself = |at: SocketAddr| {
        // Other addresses of this host are not known here: interfaces come and go.
        let is_here = own.ip() == at.ip() || own.ip().is_unspecified() && at.ip().is_loopback();
        at.port() == own.port() && is_here
    };
    match authority(&verb.backend).filter(|at| is_itself(*at)) {
        Some(at) => Err(format!(
            "the listener and the backend would both use {at}: name another port with --listen"
        )),
        None => Ok(()),
    }
}

fn output_files(site: &InitSite<'_>) -> Result<Vec<OutputFile>, rcgen::Error> {
    let page =
        |path: &str, text: String, mode| OutputFile { path: site.verb.dir.join(path), text, mode };
    let mut pages = vec![
        page("sidegate.toml", site.config(), 0o644),
        page("policies/main.toml", site.policy(), 0o644),
        page("policies/lists/office.cidr", site.list(), 0o644),
        // The path that the first lines of the files name (`#:schema`).
        page(".schema/config.json", schema::CONFIG.into(), 0o644),
        page(".schema/policy.json", schema::POLICY.into(), 0o644),
    ];
    if !site.verb.plain {
        let pair =
            self_signed("Sidegate development", CERTIFICATE_DAYS, &site.certificate_names())?;
        pages.push(page("certs/dev.pem", pair.chain, 0o644));
        pages.push(page("certs/dev.key", pair.key, 0o600));
    }
    Ok(pages)
}

/// The files written, and the commands to run next.
fn next_steps(site: &InitSite<'_>, pages: &[OutputFile]) -> String {
    let InitArgs { backend, dir, http, plain, .. } = site.verb;
    let at = |path: &str| shell_quoted(&dir.join(path));
    let files: String = pages.iter().map(|page| format!("  {}\n", page.path.display())).collect();
    let (config, certificate) = (at("sidegate.toml"), at("certs/dev.pem"));
    let (trusting, trusted) = match plain {
        true => (String::new(), String::new()),
        false => (format!("--cacert {certificate} "), format!("SSL_CERT_FILE={certificate} ")),
    };
    let answer = match http {
        PlainHttpArg::Refuse => "426: alive, and only WebSockets are served",
        PlainHttpArg::Forward => "what the backend answers",
    };
    let mut next = format!(
        "\
Written:
{files}
Next, with your backend running at {backend}:

  sidegate check --config {config}
  sidegate run --config {config}
  curl {trusting}{}{}     # {answer}
{}
{}",
        curl_address_options(site),
        shell_quoted(format!("{}/", site.url("http")).as_ref()),
        websocket_step(site, &trusted),
        reach(site),
    );
    if !plain {
        next.push_str("\nThe certificate is for development: it is self-signed.");
    }
    next
}

/// The command that opens a WebSocket; empty at a Unix socket, which the client can't reach.
fn websocket_step(site: &InitSite<'_>, trusted: &str) -> String {
    if site.ip().is_none() {
        return String::new();
    }
    let reached = if site.is_reached() {
        String::new()
    } else {
        format!("     # once {} leads here", site.name())
    };
    let url = shell_quoted(format!("{}/", site.url("ws")).as_ref());
    format!("  {trusted}python3 -m websockets {url}{reached}\n")
}

/// Where it listens and who may connect, and why it can't listen there as things are.
fn reach(site: &InitSite<'_>) -> String {
    let listen = &site.verb.listen;
    let files = "see `listen` in sidegate.toml, and policies/lists/office.cidr.";
    match listen {
        ListenArg::Unix(path) => {
            let mut text = format!(
                "It listens at {listen} and admits only users of this host, as `mode` and `group` \
                 of the socket let them: {files}"
            );
            let folder = path.parent().unwrap_or(path);
            if !folder.is_dir() {
                text.push_str(&format!(
                    "\n{} is no folder of this machine: `sidegate run` fails here.",
                    folder.display()
                ));
            }
            text
        }
        ListenArg::Tcp(address) => {
            let own = match site.source_address() {
                Some(own) => format!("127.0.0.0/8, ::1 and {own}"),
                None => "127.0.0.0/8 and ::1".to_owned(),
            };
            let mut text = format!(
                "It listens at {listen} and admits only this machine, by the addresses {own}: \
                 {files}"
            );
            // Port 0 tests the address alone: the port may be taken now and free later, or need
            // root.
            if TcpListener::bind((address.ip(), 0)).is_err() {
                text.push_str(&format!(
                    "\n{} is no address of this machine: `sidegate run` fails here.",
                    address.ip()
                ));
            }
            text
        }
    }
}

/// curl's options to reach the listener: its socket, or this machine under a name that doesn't
/// resolve to it.
fn curl_address_options(site: &InitSite<'_>) -> String {
    let quoted = |text: String| shell_quoted(text.as_ref());
    let (port, target) = match (&site.verb.listen, site.target()) {
        (ListenArg::Unix(path), _) => {
            return format!("--unix-socket {} ", shell_quoted(path));
        }
        (ListenArg::Tcp(_), _) if site.is_reached() => return String::new(),
        (ListenArg::Tcp(_), None) => return String::new(),
        (ListenArg::Tcp(address), Some(target)) => (address.port(), bracketed(target)),
    };
    // `--resolve` fills curl's DNS cache, which curl does not consult for a literal address.
    match site.name().trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(_) => format!("--connect-to {} ", quoted(format!("::{target}:{port}"))),
        Err(_) => format!("--resolve {} ", quoted(format!("{}:{port}:{target}", site.name()))),
    }
}
