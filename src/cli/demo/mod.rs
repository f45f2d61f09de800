//! `sidegate demo`: a temporary agent with a backend and a page to open.
//!
//! All files are in one temporary folder, which is removed at the end. Nothing listens beyond the
//! loopback, and no other file is touched.

mod echo;
mod environment;

use std::path::Path;

use crate::cli::demo::environment::{DemoEnvironment, DemoPorts};
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_error, shell_quoted};
use crate::cli::run::{serve, start_failed};
use sidegate::control::resolve::Lookup;
use sidegate::control::systemd::PassedSockets;
use sidegate::data::http::head::HeadReader;
use sidegate::observe::log::{Log, LogFormat};
use sidegate::{Agent, StartError};

/// Attempts to find ports: another process may take one between the look and the bind. Several
/// demos that start at once want the same three.
const MAX_PORT_ATTEMPTS: usize = 30;

/// Arguments of `sidegate demo`: none.
#[derive(clap::Args)]
pub struct DemoArgs {}

/// Runs the demo until Ctrl-C.
pub fn demo(_: &DemoArgs) -> Exit {
    let log = match Log::start(LogFormat::Text) {
        Ok(log) => log,
        Err(error) => return fail(format_args!("the log cannot be opened: {error}")),
    };
    let stage = match DemoEnvironment::create() {
        Ok(stage) => stage,
        Err(error) => return fail(format_args!("the demo cannot be set up: {error}")),
    };
    for _ in 0..MAX_PORT_ATTEMPTS {
        let ports = match stage.write() {
            Ok(ports) => ports,
            Err(error) => return fail(format_args!("the demo cannot be set up: {error}")),
        };
        match Agent::start(
            &stage.config(),
            PassedSockets::default(),
            log.handle(),
            HeadReader::Direct,
            Lookup::default(),
        ) {
            Ok(agent) => return serve(agent, |_| print(greeting(&stage, &ports))),
            // Mostly a port that was taken since `write` found it free: the next turn finds others.
            Err(StartError::Unavailable(what)) => {
                tracing::debug!(error = what, "looking for other ports");
            }
            Err(error) => return start_failed(&error),
        }
    }
    fail("no free ports: other programs bind them as fast as they are found")
}

fn fail(what: impl std::fmt::Display) -> Exit {
    print_error(what);
    Exit::Unavailable
}

/// The text that says what runs and what to try. Its end, the page and the next steps, fits on a
/// screen of 80×24.
fn greeting(stage: &DemoEnvironment, ports: &DemoPorts) -> String {
    let facts = facts(stage, ports);
    let DemoPorts { https, status, .. } = ports;
    let (folder, list) = (shell_quoted(stage.folder()), shell_quoted(&stage.list()));
    let (program, version) = (program(), env!("CARGO_PKG_VERSION"));
    format!(
        "\
{facts}
Sidegate {version}, a demo. Open its page (the browser warns: go on) and its status:

  https://localhost:{https}/
  http://127.0.0.1:{status}/status   live and read-only: tunnels, refusals, files

Next steps, to paste into another terminal:

  export SIDEGATE_CONFIG={folder}
  {program} status
  {program} explain --live --client ::1 --url wss://localhost:{https}/websocket

Lock yourself out while the page is connected. Its tunnel ends with 1008, and
the log below names the line. Ask `explain` again; then take the lines out:

  printf '!127.0.0.1\\n!::1\\n' >> {list}
  sed -i '/^!/d' {list}

Ctrl-C drains: open tunnels are closed with 1001, then the demo ends.
The log:
"
    )
}

/// The files, addresses and policy of the demo, above the next steps.
fn facts(stage: &DemoEnvironment, ports: &DemoPorts) -> String {
    let DemoPorts { https, metrics, status } = ports;
    let (folder, list, backend) =
        (stage.folder().display(), stage.list().display().to_string(), stage.backend());
    let authority = shell_quoted(&stage.authority());
    let taken = ports.taken_notice();
    let policy = indented(&ports.policy());
    let entries = indented(environment::LIST);
    format!(
        "\
{taken}  page       https://localhost:{https}/
  WebSocket  wss://localhost:{https}/websocket, an echo: the backend is at http://{backend}
  metrics    http://127.0.0.1:{metrics}/metrics
  status     http://127.0.0.1:{status}/status
  files      {folder} (removed at the end)
  list       {list}
  authority  made a moment ago; its key was never written down, so it signs nothing else

The browser warns because it does not know that authority. Another client trusts it like this
(`pip install websockets`):

  SSL_CERT_FILE={authority} python3 -m websockets wss://localhost:{https}/websocket

The policy of the WebSocket, policies/demo.toml. Break it, and what runs is kept; the log says where
the mistake is:

{policy}
and its list, policies/lists/demo.cidr:

{entries}"
    )
}

/// The name of this program, as another terminal finds it.
fn program() -> String {
    // A name without a slash was found by PATH (execvp(3)).
    let name = std::env::args_os().next().unwrap_or_default();
    let is_named = Path::new(&name).components().count() == 1;
    match std::env::current_exe() {
        Ok(path) if !is_named => shell_quoted(&path),
        _ => "sidegate".into(),
    }
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") })
        .collect()
}
