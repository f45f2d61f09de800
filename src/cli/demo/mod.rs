//! `sidegate demo`: a temporary agent with a backend and a page to open.
//!
//! All files are in one temporary folder, which is removed at the end. Nothing listens beyond the
//! loopback, and no other file is touched.

mod echo;
mod stage;

use crate::cli::demo::stage::{Ports, Stage};
use crate::cli::exit::Exit;
use crate::cli::output::{complain, quoted, say};
use crate::cli::run::{refuse, serve};
use sidegate::control::systemd::Sockets;
use sidegate::data::http::head::HeadReader;
use sidegate::observe::log::{Format, Log};
use sidegate::{Agent, StartError};

/// Attempts to find ports: another process may take one between the look and the bind.
const TRIES: usize = 5;

/// The arguments: none.
#[derive(clap::Args)]
pub struct Demo {}

/// Runs the demo until Ctrl-C.
pub fn demo(_: &Demo) -> Exit {
    let log = match Log::start(Format::Text) {
        Ok(log) => log,
        Err(error) => return fail(format_args!("the log cannot be opened: {error}")),
    };
    let stage = match Stage::set() {
        Ok(stage) => stage,
        Err(error) => return fail(format_args!("the demo cannot be set up: {error}")),
    };
    for _ in 0..TRIES {
        let ports = match stage.write() {
            Ok(ports) => ports,
            Err(error) => return fail(format_args!("the demo cannot be set up: {error}")),
        };
        match Agent::start(&stage.config(), Sockets::default(), log.drops(), HeadReader::Direct) {
            Ok(agent) => return serve(agent, || say(greeting(&stage, &ports))),
            Err(StartError::Unavailable(what)) => {
                tracing::debug!(error = what, "looking for other ports");
            }
            Err(error) => return refuse(&error),
        }
    }
    fail("no free ports: other programs bind them as fast as they are found")
}

fn fail(what: impl std::fmt::Display) -> Exit {
    complain(what);
    Exit::Unavailable
}

/// The text that says what runs and what to try.
fn greeting(stage: &Stage, ports: &Ports) -> String {
    let Ports { https, metrics, .. } = ports;
    let folder = stage.folder().display();
    let backend = stage.backend();
    let (authority, list) = (quoted(&stage.authority()), quoted(&stage.list()));
    let taken = ports.taken();
    let policy = indented(&ports.policy());
    let entries = indented(stage::LIST);
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
