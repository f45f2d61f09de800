//! `sidegate demo`: a temporary agent with a backend and a page to open.
//!
//! All files are in one temporary folder, which is removed at the end. Nothing listens beyond the
//! loopback, and no other file is touched.

mod echo;
mod environment;

use crate::cli::demo::environment::{DemoEnvironment, DemoPorts};
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_error, shell_quoted};
use crate::cli::run::{serve, start_failed};
use sidegate::control::resolve::Lookup;
use sidegate::control::systemd::PassedSockets;
use sidegate::data::http::head::HeadReader;
use sidegate::observe::log::{Log, LogFormat};
use sidegate::{Agent, StartError};

/// Attempts to find ports: another process may take one between the look and the bind.
const MAX_PORT_ATTEMPTS: usize = 5;

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
            Ok(agent) => return serve(agent, || print(greeting(&stage, &ports))),
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

/// The text that says what runs and what to try.
fn greeting(stage: &DemoEnvironment, ports: &DemoPorts) -> String {
    let DemoPorts { https, metrics, .. } = ports;
    let folder = stage.folder().display();
    let backend = stage.backend();
    let (authority, list) = (shell_quoted(&stage.authority()), shell_quoted(&stage.list()));
    let taken = ports.taken_notice();
    let policy = indented(&ports.policy());
    let entries = indented(environment::LIST);
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "\
{taken}Sidegate {version}, a demo:

  page       https://localhost:{https}/
  WebSocket  wss://localhost:{https}/websocket, an echo: the backend is at http://{backend}
  metrics    http://127.0.0.1:{metrics}/metrics
  files      {folder} (removed at the end)

Try this:

  1. Open https://localhost:{https}/ in a browser. It warns, because it doesn't know the demo's own
     authority. Go on all the same, or have it trust {authority}
     (made a moment ago; its key was never written down, so it signs nothing else).

  2. Talk to the echo from another terminal (`pip install websockets`; or any client that trusts that file):

     SSL_CERT_FILE={authority} python3 -m websockets wss://localhost:{https}/websocket

  3. Lock yourself out while a tunnel is open: add these two lines to the list, in an editor or like this:

     printf '!127.0.0.1\\n!::1\\n' >> {list}

     The tunnel is closed with 1008 at once, and the log below says why; new ones are refused with 403.
     Take the lines out again, and you are let in again.

  4. Break that file, or {folder}/policies/demo.toml:
     what runs is kept, and the log says where the mistake is.

  Ctrl-C drains: open tunnels are closed with 1001, then it ends.

The policy, policies/demo.toml:

{policy}
and its list, policies/lists/demo.cidr:

{entries}
The log:
"
    )
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") })
        .collect()
}
