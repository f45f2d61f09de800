//! A whole agent in this process, over files in a temporary folder.
//!
//! It listens on free ports of 127.0.0.1, has one data-plane thread, an admin socket in its
//! folder, and revokes without a spread, unless a test says otherwise.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use sidegate::admin::wire::{
    self, Received, ReloadAnswer, ReloadRequest, StatusAnswer, StatusRequest,
};
use sidegate::control::config::StateSetting;
use sidegate::control::reload::{ReloadOutcome, Trigger};
use sidegate::control::resolve::Lookup;
use sidegate::control::state_dir::StateDir;
use sidegate::control::systemd::PassedSockets;
use sidegate::data::http::head::HeadReader;
use sidegate::{Agent, StartError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use toml::{Table, Value};

use crate::harness::backend::Backend;
use crate::harness::certificate;
use crate::harness::wire::{Answer, End, Wire};
use crate::harness::within;

/// The lines at the start of every test's `sidegate.toml`.
const BASE: &str = r#"
schema = 1
metrics.listen = "127.0.0.1:0"
admin.socket = "admin.sock"
process.threads = 1
reload.revoke_spread = "0s"
shutdown = { spread = "0s", deadline = "5s" }
"#;

/// Interval between two looks at a state that has no event.
const BETWEEN: Duration = Duration::from_millis(5);

const GENERATION: &str = "sidegate_generation";
const RELOADS: &str = "sidegate_reloads_total";
const REJECTED: [(&str, &str); 1] = [("outcome", "rejected")];

/// Builds an agent with one TLS listener, and a policy `default` that admits every client until
/// [`Builder::allow`] is called.
pub fn new() -> Builder {
    let mut config = toml(BASE);
    let listener = toml("name = 'public'\nlisten = '127.0.0.1:0'");
    config.insert("listener".into(), Value::Array(vec![listener.into()]));
    config.insert("route".into(), Value::Array(Vec::new()));
    let policies = vec![("default".to_owned(), Page::new())];
    Builder {
        config,
        policies,
        certificates: Vec::new(),
        tls: true,
        files: Vec::new(),
        passed: Vec::new(),
        heads: HeadReader::Direct,
        lookup: Lookup::default(),
    }
}

/// An agent that isn't started yet.
#[derive(Clone)]
pub struct Builder {
    config: Table,
    policies: Vec<(String, Page)>,
    certificates: Vec<Vec<String>>,
    tls: bool,
    files: Vec<(String, String)>,
    passed: Vec<(String, Arc<OwnedFd>)>,
    heads: HeadReader,
    lookup: Lookup,
}

impl Builder {
    /// Adds a route for any host, under the policy `default`. Its name is the path's letters
    /// ("/chat/" → `chat`), or `root`.
    pub fn route(self, path: &str, backend: &Backend) -> Self {
        self.route_to(path, &[backend])
    }

    /// Adds a route with several backends.
    pub fn route_to(mut self, path: &str, backends: &[&Backend]) -> Self {
        let letters = path.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let name = match letters.trim_matches('-') {
            "" => "root",
            name => name,
        };
        let mut route = toml("host = '*'\npolicy = 'default'");
        route.insert("name".into(), name.into());
        route.insert("path".into(), path.into());
        let backends: Vec<Value> =
            backends.iter().map(|backend| backend.address().into()).collect();
        route.insert(
            "backend".into(),
            if let [one] = &backends[..] { one.clone() } else { backends.into() },
        );
        self.tables("route").push(route.into());
        self
    }

    /// Sets the reader of first heads.
    pub fn heads(mut self, heads: HeadReader) -> Self {
        self.heads = heads;
        self
    }

    /// Resolves the names of backends with `lookup` instead of the system's resolver.
    pub fn lookup(mut self, lookup: Lookup) -> Self {
        self.lookup = lookup;
        self
    }

    /// Sets the last route's host: exact, `*.example.com`, or `*`.
    pub fn host(self, host: &str) -> Self {
        self.on_route(&format!("host = '{host}'"))
    }

    /// Adds keys to the last route: `http = 'forward'`, `name = 'other'`.
    pub fn on_route(mut self, keys: &str) -> Self {
        merge_into(self.tables("route").last_mut().expect("a route"), keys);
        self
    }

    /// Adds keys to the first listener: `max_connections = 3`.
    pub fn on_listener(mut self, keys: &str) -> Self {
        merge_into(&mut self.tables("listener")[0], keys);
        self
    }

    /// Merges any keys into `sidegate.toml`; `[[listener]]` and other arrays of tables are
    /// appended.
    pub fn toml(mut self, text: &str) -> Self {
        merge(&mut self.config, toml(text));
        self
    }

    /// Adds keys to `[timeouts]`: `head = '200ms'`.
    pub fn timeouts(self, keys: &str) -> Self {
        self.toml(&format!("[timeouts]\n{keys}"))
    }

    /// Sets the number of data-plane threads.
    pub fn threads(self, threads: u32) -> Self {
        self.toml(&format!("process.threads = {threads}"))
    }

    /// Serves `wss://`, the default.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Serves `ws://`, without TLS.
    pub fn clear(mut self) -> Self {
        self.tls = false;
        self
    }

    /// Adds a certificate for these names; the first one is the default. Without any, one is made
    /// for `localhost`, 127.0.0.1 and the routes' hosts.
    pub fn certificate(mut self, names: &[&str]) -> Self {
        self.certificates.push(names.iter().map(ToString::to_string).collect());
        self
    }

    /// Adds to the allowed networks and lists of the policy `default`.
    pub fn allow(self, network: &str) -> Self {
        self.policy(|page| page.allow(network))
    }

    /// Adds to the denied networks and lists of the policy `default`.
    pub fn deny(self, network: &str) -> Self {
        self.policy(|page| page.deny(network))
    }

    /// Sets the origins that the policy `default` admits.
    pub fn origins(self, origins: &[&str]) -> Self {
        self.policy(|page| page.origins(origins))
    }

    /// Sets the subprotocols that the policy `default` admits.
    pub fn subprotocols(self, subprotocols: &[&str]) -> Self {
        self.policy(|page| page.subprotocols(subprotocols))
    }

    /// Adds keys to `[limits]` of the policy `default`: `connections = { total = 1 }`.
    pub fn limits(self, keys: &str) -> Self {
        self.policy(|page| page.limits(keys))
    }

    /// Changes the policy `default`.
    pub fn policy(mut self, change: impl FnOnce(Page) -> Page) -> Self {
        self.policies[0].1 = change(self.policies[0].1.clone());
        self
    }

    /// Adds a policy, and puts the last route under it.
    pub fn under(mut self, name: &str, change: impl FnOnce(Page) -> Page) -> Self {
        self.policies.push((name.to_owned(), change(Page::new())));
        self.on_route(&format!("policy = '{name}'"))
    }

    /// Adds a file, at a path relative to `sidegate.toml`.
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    /// Adds a socket that systemd passes under this name.
    pub fn passed(mut self, name: &str, socket: impl Into<OwnedFd>) -> Self {
        self.passed.push((name.to_owned(), Arc::new(socket.into())));
        self
    }

    /// Writes the files and starts the agent; panics if it doesn't start.
    pub async fn run(self) -> Sidegate {
        match self.try_run().await {
            Ok(sidegate) => sidegate,
            Err(error) => panic!("not started:\n{error}"),
        }
    }

    /// Writes the files and starts the agent.
    pub async fn try_run(self) -> Result<Sidegate, StartError> {
        let (tls, heads, lookup) = (self.tls, self.heads, self.lookup.clone());
        let passed = PassedSockets::new(
            self.passed.iter().map(|(name, socket)| (name.clone(), socket.try_clone().unwrap())),
        );
        let folder = self.write();
        let agent = Agent::start(
            &folder.path().join("sidegate.toml"),
            passed,
            sidegate::observe::log::LogHandle::default(),
            heads,
            lookup,
        )?;
        let _kept = KeptState(folder.path().join("sidegate.toml"));
        Ok(Sidegate { agent, _kept, folder, tls })
    }

    /// Writes the files without starting an agent, for tests of the commands; `sidegate.toml` is in
    /// the folder.
    pub fn write(mut self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            write(&path, text.as_bytes());
        };
        let names = if self.tls { self.names() } else { Vec::new() };
        for (index, names) in names.iter().enumerate() {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let pair = certificate::signed(&names);
            put(&format!("certs/{index}.pem"), &pair.chain);
            put(&format!("certs/{index}.key"), &pair.key);
            self = self.toml(&format!(
                "[[certificate]]\nchain = 'certs/{index}.pem'\nkey = 'certs/{index}.key'"
            ));
        }
        let tls = self.tls;
        let listener = self.tables("listener")[0].as_table_mut().unwrap();
        listener.entry("tls").or_insert(tls.into());
        std::fs::create_dir_all(folder.path().join("policies/lists")).unwrap();
        for (name, page) in &self.policies {
            put(&format!("policies/{name}.toml"), &page.text());
        }
        if self.tables("route").is_empty() {
            self.config.remove("route");
        }
        put("sidegate.toml", &toml::to_string(&self.config).unwrap());
        for (path, text) in &self.files {
            put(path, text);
        }
        folder
    }

    /// Returns the names of each certificate.
    fn names(&mut self) -> Vec<Vec<String>> {
        if !self.certificates.is_empty() {
            return self.certificates.clone();
        }
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let routes = self.tables("route").iter();
        names.extend(
            routes
                .filter_map(|route| route["host"].as_str())
                .filter(|host| *host != "*")
                .map(str::to_owned),
        );
        names.dedup();
        vec![names]
    }

    fn tables(&mut self, name: &str) -> &mut Vec<Value> {
        self.config[name].as_array_mut().unwrap()
    }
}

/// A policy's file under construction.
#[derive(Debug, Clone)]
pub struct Page {
    policy: Table,
}

impl Page {
    /// A policy that admits every client.
    fn new() -> Self {
        Page { policy: toml("schema = 1\n[client]\nallow = ['any']") }
    }

    /// Allows this list or network too; the first one replaces `any`.
    pub fn allow(mut self, network: &str) -> Self {
        let allow = self.client("allow");
        allow.retain(|one| one.as_str() != Some("any"));
        allow.push(network.into());
        self
    }

    /// Allows this list or network alone.
    pub fn allow_only(mut self, network: &str) -> Self {
        *self.client("allow") = vec![network.into()];
        self
    }

    /// Denies this list or network too.
    pub fn deny(mut self, network: &str) -> Self {
        self.client("deny").push(network.into());
        self
    }

    /// Admits these origins alone.
    pub fn origins(mut self, origins: &[&str]) -> Self {
        *self.client("origins") = origins.iter().map(|origin| Value::from(*origin)).collect();
        self
    }

    /// Admits these subprotocols alone.
    pub fn subprotocols(mut self, subprotocols: &[&str]) -> Self {
        *self.client("subprotocols") = subprotocols.iter().map(|one| Value::from(*one)).collect();
        self
    }

    /// Adds an inline list: `list("office", &["192.0.2.0/24"])`.
    pub fn list(self, name: &str, lines: &[&str]) -> Self {
        self.toml(&format!("[lists]\n{name} = {lines:?}"))
    }

    /// Adds a list in the file `policies/lists/NAME.cidr`, to be written with [`Builder::file`].
    pub fn list_file(self, name: &str) -> Self {
        self.toml(&format!("[lists]\n{name} = {{ file = 'lists/{name}.cidr' }}"))
    }

    /// Adds keys to `[limits]`: `connections = { total = 1 }`.
    pub fn limits(self, keys: &str) -> Self {
        self.toml(&format!("[limits]\n{keys}"))
    }

    /// Merges any keys into the policy.
    pub fn toml(mut self, text: &str) -> Self {
        merge(&mut self.policy, toml(text));
        self
    }

    fn client(&mut self, key: &str) -> &mut Vec<Value> {
        let client = self.policy["client"].as_table_mut().unwrap();
        client.entry(key).or_insert(Value::Array(Vec::new())).as_array_mut().unwrap()
    }

    fn text(&self) -> String {
        toml::to_string(&self.policy).unwrap()
    }
}

/// A running agent; ended at once when dropped.
pub struct Sidegate {
    agent: Agent,
    // After the agent, which writes there to its end.
    _kept: KeptState,
    folder: TempDir,
    tls: bool,
}

/// The state folder of `auto` for this configuration, which is outside of the test's folder.
struct KeptState(PathBuf);

impl Drop for KeptState {
    fn drop(&mut self) {
        // A service that runs the tests has a folder of its own.
        if std::env::var_os("STATE_DIRECTORY").is_none()
            && let Ok(state) = StateDir::look(&StateSetting::Auto, &self.0)
        {
            // Missing where nothing was kept.
            let _ = std::fs::remove_dir_all(state.folder());
        }
    }
}

impl Sidegate {
    /// Returns the address of the first listener.
    pub fn address(&self) -> SocketAddr {
        self.listener("public")
    }

    /// Returns the address of the listener with this name.
    pub fn listener(&self, name: &str) -> SocketAddr {
        let bound = self.agent.listeners();
        let found = bound.iter().find(|one| *one.listener == *name);
        found.unwrap_or_else(|| panic!("no listener {name}")).address.tcp().unwrap()
    }

    /// Returns whether the first listener speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Returns the folder with its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the path of its `sidegate.toml`.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("sidegate.toml")
    }

    /// Edits the policy `default`, starting from its current file.
    pub fn policy(&self) -> Edit<'_> {
        self.policy_named("default")
    }

    /// Edits a policy, starting from its current file.
    pub fn policy_named(&self, name: &str) -> Edit<'_> {
        let path = format!("policies/{name}.toml");
        let page =
            Page { policy: toml(&std::fs::read_to_string(self.folder().join(&path)).unwrap()) };
        Edit { sidegate: self, path, page, allowed: false }
    }

    /// Replaces a file by a rename, as editors do, and waits until the agent runs it; returns the
    /// generation. Panics if it is rejected.
    pub async fn write(&self, path: &str, text: &str) -> u64 {
        let before = self.metrics().await;
        let (generation, rejected) =
            (sum(&before, GENERATION, &[]), sum(&before, RELOADS, &REJECTED));
        self.put(path, text);
        let reached = async {
            loop {
                let metrics = self.metrics().await;
                if sum(&metrics, RELOADS, &REJECTED) > rejected {
                    panic!("{path} was rejected: {}", self.readyz().await.1);
                }
                let now = sum(&metrics, GENERATION, &[]);
                if now > generation {
                    return now as u64;
                }
                tokio::time::sleep(BETWEEN).await;
            }
        };
        within(&format!("a generation with the new {path}"), reached).await
    }

    /// Replaces a file, waits until the agent has rejected it, and returns what `/readyz` then
    /// says.
    pub async fn write_rejected(&self, path: &str, text: &str) -> String {
        let rejected = self.metric(RELOADS, REJECTED).await;
        self.put(path, text);
        self.expect_metric(RELOADS, REJECTED, rejected + 1.0).await;
        self.readyz().await.1
    }

    /// Replaces a file by a rename, and waits for nothing.
    pub fn put(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let written = path.with_added_extension("new~");
        write(&written, text.as_ref());
        std::fs::rename(written, path).unwrap();
    }

    /// Changes `sidegate.toml`, and waits until the agent runs it.
    pub async fn reconfigure(&self, change: impl FnOnce(&mut Table)) -> u64 {
        let mut config = self.toml();
        change(&mut config);
        self.write("sidegate.toml", &toml::to_string(&config).unwrap()).await
    }

    /// Returns its `sidegate.toml`.
    pub fn toml(&self) -> Table {
        toml(&std::fs::read_to_string(self.config()).unwrap())
    }

    /// Reloads the files now, and returns the outcome.
    pub async fn reload(&self) -> ReloadOutcome {
        within("a reload", self.agent.reload(Trigger::Requested))
            .await
            .expect("an agent that isn't ending")
    }

    /// Returns the running generation.
    pub async fn generation(&self) -> u64 {
        self.metric(GENERATION, []).await as u64
    }

    /// Returns the sum of all series of `name` with these labels; 0 if there is none.
    pub async fn metric<const N: usize>(&self, name: &str, labels: [(&str, &str); N]) -> f64 {
        sum(&self.metrics().await, name, &labels)
    }

    /// Waits until the sum of all series of `name` with these labels is `value`.
    pub async fn expect_metric<const N: usize>(
        &self,
        name: &str,
        labels: [(&str, &str); N],
        value: impl Into<f64>,
    ) {
        let value = value.into();
        let began = std::time::Instant::now();
        loop {
            let metrics = self.metrics().await;
            let now = sum(&metrics, name, &labels);
            if now == value {
                return;
            }
            if began.elapsed() > crate::harness::PATIENCE {
                let all: Vec<_> = metrics.lines().filter(|line| line.starts_with(name)).collect();
                panic!("{name} {labels:?} is {now}, not {value}:\n{}", all.join("\n"));
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    /// Returns the text of `/metrics`.
    pub async fn metrics(&self) -> String {
        self.ask("/metrics").await.1
    }

    /// Returns status and body of `/readyz`.
    pub async fn readyz(&self) -> (u16, String) {
        self.ask("/readyz").await
    }

    /// Sends `GET path` to the metrics listener; returns status and body.
    pub async fn ask(&self, path: &str) -> (u16, String) {
        let asked = async {
            let mut stream = TcpStream::connect(self.agent.metrics().expect("a metrics listener"))
                .await
                .unwrap();
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = within(path, asked).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Connects to the admin socket.
    pub async fn admin(&self) -> Wire {
        let path = self.agent.admin().expect("an admin socket");
        Wire::new(UnixStream::connect(path).await.unwrap(), End::Client, None)
    }

    /// Returns the admin socket's answer to `request`; panics if the agent refuses it.
    pub async fn answer_to<R: wire::AdminRequest>(&self, request: &R) -> R::Answer {
        let answer = self.reply(&format!("{} {}", R::METHOD, request.target())).await;
        let (status, body) = (answer.status(), answer.text());
        let status = StatusCode::from_u16(status).unwrap();
        let received = Received { status, server: answer.header("server"), body: body.as_bytes() };
        wire::read(request, &received).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    /// Returns the admin socket's answer to a line such as `GET /v1/status`.
    pub async fn reply(&self, line: &str) -> Answer {
        let mut wire = self.admin().await;
        wire.send(format!("{line} HTTP/1.1\r\nHost: sidegate\r\nConnection: close\r\n\r\n")).await;
        wire.answer().await
    }

    /// Returns the agent's status.
    pub async fn status(&self) -> StatusAnswer {
        self.answer_to(&StatusRequest).await
    }

    /// Reloads through the admin socket, as `request` says.
    pub async fn ask_reload(&self, request: &ReloadRequest) -> ReloadAnswer {
        self.answer_to(request).await
    }

    /// Orders a drain; a second call ends the agent at once.
    pub async fn drain(&self) {
        self.agent.drain();
    }

    /// Waits until the agent has ended.
    pub async fn ended(&mut self) {
        within("the end of the agent", self.agent.ended()).await;
    }

    /// Returns the agent itself.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }
}

/// A policy that is being edited.
pub struct Edit<'s> {
    sidegate: &'s Sidegate,
    path: String,
    page: Page,
    allowed: bool,
}

impl Edit<'_> {
    /// Allows this list or network; the first call replaces everything allowed before.
    pub fn allow(mut self, network: &str) -> Self {
        self.page =
            if self.allowed { self.page.allow(network) } else { self.page.allow_only(network) };
        self.allowed = true;
        self
    }

    /// Denies this list or network too.
    pub fn deny(self, network: &str) -> Self {
        self.change(|page| page.deny(network))
    }

    /// Merges these keys into `[limits]`.
    pub fn limits(self, keys: &str) -> Self {
        self.change(|page| page.limits(keys))
    }

    /// Applies any change.
    pub fn change(mut self, change: impl FnOnce(Page) -> Page) -> Self {
        self.page = change(self.page);
        self
    }

    /// Writes the policy, and returns the new generation once it runs.
    pub async fn write(self) -> u64 {
        self.sidegate.write(&self.path, &self.page.text()).await
    }

    /// Writes the policy, and waits for nothing.
    pub fn put(self) {
        self.sidegate.put(&self.path, self.page.text());
    }
}

fn sum(metrics: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let of_name = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (own, value) = rest.rsplit_once(' ')?;
        (own.is_empty() || own.starts_with('{')).then_some((own, value))
    });
    let matching = of_name.filter(|(own, _)| {
        labels.iter().all(|(label, value)| {
            let wanted = format!("{label}=\"{value}\"");
            own.trim_matches(['{', '}']).split(',').any(|pair| pair == wanted)
        })
    });
    matching.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

/// Writes a file that only its owner may read, as keys require.
fn write(path: &Path, text: &[u8]) {
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    std::io::Write::write_all(&mut file, text).unwrap();
}

fn toml(text: &str) -> Table {
    text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn merge_into(table: &mut Value, keys: &str) {
    merge(table.as_table_mut().unwrap(), toml(keys));
}

/// Merges tables and joins arrays of tables; everything else is replaced.
fn merge(into: &mut Table, more: Table) {
    for (key, value) in more {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (Some(Value::Array(old)), Value::Array(new)) if new.iter().all(Value::is_table) => {
                old.extend(new);
            }
            (_, value) => drop(into.insert(key, value)),
        }
    }
}
