//! `sidegate reload`: asks the running agent over its admin socket, and prints what became of it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Builder;

use crate::cli::{Config, Exit, complain, count, say};
use sidegate::admin::socket_paths;
use sidegate::control::config::named_socket;

/// The arguments.
#[derive(clap::Args)]
pub struct Reload {
    #[command(flatten)]
    config: Config,
    /// Wait for the outcome, print it, and end with 1 if the files were rejected.
    #[arg(long)]
    wait: bool,
}

/// Asks for a reload.
pub fn reload(verb: &Reload) -> Exit {
    let target = if verb.wait { "/v1/reload" } else { "/v1/reload?wait=false" };
    match ask(&verb.config.config, target) {
        Ok(answer) => tell(&answer),
        Err(what) => {
            complain(what);
            Exit::No
        }
    }
}

fn tell(answer: &Value) -> Exit {
    let number = |name: &str| answer[name].as_u64().unwrap_or_default();
    for diagnostic in answer["diagnostics"].as_array().into_iter().flatten() {
        complain_whole(diagnostic["text"].as_str().unwrap_or_default());
    }
    match answer["outcome"].as_str().unwrap_or_default() {
        "published" => {
            let digest = answer["digest"].as_str().unwrap_or_default();
            let revoked = count(usize::try_from(number("revoked")).unwrap_or(usize::MAX), "tunnel");
            say(format_args!("published: generation {} ({digest}), {revoked} revoked", number("generation")));
            Exit::Yes
        }
        "unchanged" => {
            say(format_args!("unchanged: the files are what runs, generation {}", number("generation")));
            Exit::Yes
        }
        "asked" => {
            say("asked; --wait waits for the outcome");
            Exit::Yes
        }
        "rejected" => {
            complain("rejected: what runs was kept");
            Exit::No
        }
        other => {
            complain(format_args!("the agent gave an answer of another version: {other}"));
            Exit::No
        }
    }
}

fn complain_whole(text: &str) {
    let _ = writeln!(io::stderr(), "{text}\n");
}

/// POSTs to the agent of `config`.
fn ask(config: &Path, target: &str) -> Result<Value, String> {
    let paths = candidates(config);
    let runtime = Builder::new_current_thread().enable_io().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut denied = None;
        for path in &paths {
            match UnixStream::connect(path).await {
                Ok(stream) => return post(stream, target).await,
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => denied = Some(path),
                Err(_) => {}
            }
        }
        Err(match denied {
            Some(path) => {
                format!(
                    "permission denied at {}: ask as root, or as a member of the group that [admin] group names",
                    path.display()
                )
            }
            None => format!("no agent answers for {}: is `sidegate run` running with this configuration?", config.display()),
        })
    })
}

/// Where the agent's socket may be: as the file says, and where `auto` puts it.
fn candidates(config: &Path) -> Vec<PathBuf> {
    let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    named_socket(&config).into_iter().chain(socket_paths(&config)).collect()
}

async fn post(stream: UnixStream, target: &str) -> Result<Value, String> {
    let broke = |error: hyper::Error| format!("the agent broke off: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let request =
        Request::post(target).header("host", "sidegate").body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    // The sender goes with it, which ends the connection.
    let asked = async move {
        let answer = sender.send_request(request).await.map_err(broke)?;
        let body = answer.into_body().collect().await.map_err(broke)?.to_bytes();
        serde_json::from_slice(&body).map_err(|_| String::from_utf8_lossy(&body).trim().to_owned())
    };
    let (answer, _) = tokio::join!(asked, connection);
    answer
}
