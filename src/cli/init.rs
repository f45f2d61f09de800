//! `sidegate init`: a configuration to begin with, commented, that runs as it is.
//!
//! It writes all of its files or none, and never over a file that is there.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::ValueEnum;

use crate::cli::certificate::self_signed;
use crate::cli::pages::{self, Page};
use crate::cli::{Exit, complain, quoted, say};
use sidegate::control::config::{self, schema};
use sidegate::policy::route::HostPattern;

const CONFIG: &str = include_str!("init/sidegate.toml");
const POLICY: &str = include_str!("init/main.toml");
const LIST: &str = include_str!("init/office.cidr");

/// What a listener with TLS may say besides.
const TLS: &str = r#"#tls                = true              # false: plain ws://
#tls_min            = "1.2"             # or "1.3"
#strict_sni         = false             # true: no certificate for the name, no TLS handshake
#handshakes_per_client = { rate = "500/s", burst = 10000 } # TLS handshakes of one client; over it they wait; or "off""#;

const CERTIFICATE: &str = r#"
[[certificate]]                         # the names come from the certificate; the first one is the default
chain = "certs/dev.pem"                 # for development: replace it before others come
key   = "certs/dev.key"
"#;

/// For how long the certificate is valid: as long as any client accepts (Apple's: 825 days).
const DAYS: i32 = 820;

/// The arguments.
#[derive(clap::Args)]
pub struct Init {
    /// The server behind: http://HOST:PORT on this machine, https://HOST:PORT, or unix:/PATH.
    #[arg(long, value_name = "URL", value_parser = config::backend)]
    backend: String,
    /// Where to write; made if it isn't there.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443", value_parser = listen)]
    listen: SocketAddr,
    /// The host that clients ask for: ws.example.com, *.example.com (one label), or * for any, which it is if left out.
    #[arg(long, value_name = "NAME", value_parser = config::host)]
    host: Option<HostPattern>,
    /// What happens to plain HTTP.
    #[arg(long, value_enum, default_value = "refuse")]
    http: Http,
    /// Listen without TLS, for a proxy in front that ends it, or for this machine alone.
    #[arg(long)]
    plain: bool,
}

/// What happens to plain HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Http {
    /// It is refused: WebSockets alone go through.
    Refuse,
    /// It goes through as well.
    Forward,
}

/// Writes a configuration.
pub fn init(verb: &Init) -> Exit {
    let host = match host(verb) {
        Ok(host) => host,
        Err(sentence) => {
            complain(sentence);
            return Exit::Usage;
        }
    };
    let site = Site { verb, host };
    let pages = match made(&site) {
        Ok(pages) => pages,
        Err(error) => {
            complain(format_args!("no certificate: {error}"));
            return Exit::No;
        }
    };
    if pages::write(&pages, "--dir").is_none() {
        return Exit::No;
    }
    say(next(&site, &pages));
    Exit::Yes
}

/// What is to be served, and for which host.
struct Site<'v> {
    verb: &'v Init,
    host: HostPattern,
}

impl Site<'_> {
    /// One of the names that it is for.
    fn name(&self) -> String {
        match &self.host {
            HostPattern::Exact(name) => name.to_string(),
            HostPattern::Wildcard(parent) => format!("www.{parent}"),
            HostPattern::Any => "localhost".into(),
        }
    }

    /// That name, and the port where it isn't the scheme's own, or not yet known.
    fn authority(&self) -> String {
        let own = if self.verb.plain { 80 } else { 443 };
        match self.verb.listen.port() {
            port if port == own || port == 0 => self.name(),
            port => format!("{}:{port}", self.name()),
        }
    }

    /// `scheme` or its secret sister, and where the site is.
    fn url(&self, scheme: &str) -> String {
        let s = if self.verb.plain { "" } else { "s" };
        format!("{scheme}{s}://{}", self.authority())
    }

    /// What the certificate is for, besides this machine.
    fn certified(&self) -> Vec<String> {
        let host = Some(self.host.to_string()).filter(|host| host != "*").map(|host| host.replace(['[', ']'], ""));
        let ip = self.verb.listen.ip();
        let address = (!ip.is_unspecified() && !ip.is_loopback()).then(|| ip.to_string());
        let mut all: Vec<_> = host.into_iter().chain(address).filter(|name| name != "localhost").collect();
        all.dedup();
        all
    }

    fn config(&self) -> String {
        let Init { backend, listen, http, plain, .. } = self.verb;
        let reaches = match listen.ip().is_loopback() {
            true => "this machine only; \"0.0.0.0:8443\" for everybody whom the policy admits",
            false => "\"127.0.0.1:8443\" for this machine only",
        };
        let tls = match plain {
            true => line("tls    = false", "plain ws://; a proxy in front may end TLS"),
            false => TLS.to_owned(),
        };
        let http = match http {
            Http::Refuse => line("#http         = \"refuse\"", "or \"forward\": plain HTTP goes through as well"),
            Http::Forward => line("http    = \"forward\"", "plain HTTP goes through as well; \"refuse\": WebSockets alone"),
        };
        let host = line(&format!("host    = \"{}\"", self.host), "\"ws.example.com\", \"*.example.com\" (one label), or \"*\"");
        let filled = CONFIG
            .replace("{listen}", &line(&format!("listen = \"{listen}\""), reaches))
            .replace("{tls}", &tls)
            .replace("{certificate}", if *plain { "" } else { CERTIFICATE })
            .replace("{host}", &host)
            .replace("{http}", &http);
        // The last one, so that nothing in it is taken for one of them.
        filled.replace("{backend}", &toml::Value::from(backend.as_str()).to_string())
    }

    fn policy(&self) -> String {
        let off = if self.verb.http == Http::Refuse { "#" } else { "" };
        let requests = format!("{off}requests    = {{ rate = \"50/s\", burst = 200 }}");
        let requests = format!("{requests:<52}# plain HTTP, where the route forwards it");
        let filled = POLICY.replace("{requests}", &requests).replace("{url}", &format!("{}/", self.url("ws")));
        filled.replace("{origin}", &self.url("http"))
    }
}

/// A line of the configuration with its comment.
fn line(text: &str, comment: &str) -> String {
    format!("{text:<40}# {comment}")
}

/// The host of the route. Without TLS it is written out: nothing else would keep pages of names
/// that lead here (DNS rebinding) from being of the same origin.
fn host(verb: &Init) -> Result<HostPattern, String> {
    let ip = verb.listen.ip();
    match (&verb.host, verb.plain) {
        (Some(host), _) => Ok(host.clone()),
        (None, false) => Ok(HostPattern::Any),
        (None, true) if ip.is_loopback() => Ok(HostPattern::Exact("localhost".into())),
        (None, true) if ip.is_unspecified() => {
            Err("--plain listens at every address, so it has to be said for which host: add --host NAME".into())
        }
        (None, true) => config::host(&bracketed(ip)),
    }
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "not an address with a port: write one like 0.0.0.0:8443 or [::]:8443".to_owned())
}

fn made(site: &Site<'_>) -> Result<Vec<Page>, rcgen::Error> {
    let page = |path: &str, text: String, mode| Page { path: site.verb.dir.join(path), text, mode };
    let mut pages = vec![
        page("sidegate.toml", site.config(), 0o644),
        page("policies/main.toml", site.policy(), 0o644),
        page("policies/lists/office.cidr", LIST.into(), 0o644),
        // Where the files' first lines say.
        page(".schema/config.json", schema::CONFIG.into(), 0o644),
        page(".schema/policy.json", schema::POLICY.into(), 0o644),
    ];
    if !site.verb.plain {
        let pair = self_signed("Sidegate development", DAYS, &site.certified())?;
        pages.push(page("certs/dev.pem", pair.chain, 0o644));
        pages.push(page("certs/dev.key", pair.key, 0o600));
    }
    Ok(pages)
}

/// What was written, and what to do with it.
fn next(site: &Site<'_>, pages: &[Page]) -> String {
    let Init { backend, dir, listen, http, plain, .. } = site.verb;
    let at = |path: &str| quoted(&dir.join(path));
    let files: String = pages.iter().map(|page| format!("  {}\n", page.path.display())).collect();
    let (config, certificate) = (at("sidegate.toml"), at("certs/dev.pem"));
    let (trusting, trusted) = match plain {
        true => (String::new(), String::new()),
        false => (format!("--cacert {certificate} "), format!("SSL_CERT_FILE={certificate} ")),
    };
    let target = if listen.ip().is_unspecified() { "127.0.0.1".into() } else { bracketed(listen.ip()) };
    let resolving = match site.name() == "localhost" || site.name() == bracketed(listen.ip()) {
        true => String::new(),
        false => format!("--resolve {}:{}:{target} ", site.name(), listen.port()),
    };
    let answer = match http {
        Http::Refuse => "426: alive, and only WebSockets are served",
        Http::Forward => "what the backend answers",
    };
    let mut next = format!(
        "\
Written:
{files}
Next, with your backend running at {backend}:

  sidegate check --config {config}
  sidegate run --config {config}
  curl {trusting}{resolving}{}/     # {answer}
  {trusted}python3 -m websockets {}/

It listens at {listen} and admits only this machine: see `listen` in sidegate.toml, and policies/lists/office.cidr.",
        site.url("http"),
        site.url("ws"),
    );
    if !plain {
        next.push_str("\nThe certificate is for development: it vouches for itself.");
    }
    next
}
