//! The agent as a process of its own, and what it writes to standard error, line by line.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::harness::client::{self, Client};
use crate::harness::within;

/// Builds an agent of `folder`, without TLS and on a free port, which logs JSON by default.
pub fn new(folder: &Path) -> Builder {
    of(folder, "sidegate.toml")
}

/// The same with another spelling of `--config`.
pub fn of(folder: &Path, config: &str) -> Builder {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate"));
    command.args(["run", "--config", config]).current_dir(folder).env("TMPDIR", folder);
    command
        // Not that of the host.
        .env("STATE_DIRECTORY", folder.join("own-state"))
        .env_remove("RUNTIME_DIRECTORY")
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("SIDEGATE_CONFIG")
        .env_remove("SIDEGATE_LOG");
    Builder { command }
}

/// A process that isn't started yet.
pub struct Builder {
    command: Command,
}

impl Builder {
    /// Sets `--log`, the format of the log.
    pub fn log(mut self, format: &str) -> Self {
        self.command.args(["--log", format]);
        self
    }

    /// Adds a variable to the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts the process, and waits until it listens.
    pub async fn run(mut self) -> Process {
        let mut child = self.command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (tell, lines) = mpsc::unbounded_channel();
        let deaf = Arc::new(AtomicBool::new(false));
        let ear = Arc::clone(&deaf);
        let reader = thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                let _ = tell.send(String::from_utf8(line).expect("a log in UTF-8"));
                while ear.load(Ordering::SeqCst) {
                    thread::park(); // the pipe stays open, and nobody reads it
                }
            }
        });
        let mut process = Process {
            child: Some(child),
            reader: Some(reader),
            deaf,
            lines,
            metrics: None,
            listener: None,
        };
        process.metrics = Some(address(&process.line("serving metrics").await));
        process.listener = Some(address(&process.line("listening").await));
        process
    }
}

/// A running process; killed when dropped.
pub struct Process {
    child: Option<Child>,
    reader: Option<JoinHandle<()>>,
    deaf: Arc<AtomicBool>,
    lines: mpsc::UnboundedReceiver<String>,
    metrics: Option<SocketAddr>,
    listener: Option<SocketAddr>,
}

impl Process {
    /// Returns a client of its first listener.
    pub fn client(&self) -> Client {
        client::clear(self.listener.expect("a listener"))
    }

    /// Returns the process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    /// Returns the answer of the metrics listener to `GET path`.
    pub async fn asked(&self, path: &str) -> String {
        self.client().to(self.metrics.expect("a metrics listener")).get(path).await.text()
    }

    /// Returns the value of a metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.asked("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Waits for the next line that contains `part`.
    pub async fn line(&mut self, part: &str) -> String {
        let found = async {
            let mut others = Vec::new();
            while let Some(line) = self.lines.recv().await {
                if line.contains(part) {
                    return line;
                }
                others.push(line);
            }
            panic!("it ended without a line that has {part:?}:\n{}", others.join("\n"))
        };
        within(&format!("a line with {part:?}"), found).await
    }

    /// Waits for the next line with this message, parsed as JSON.
    pub async fn logged(&mut self, message: &str) -> Value {
        json(&self.line(&format!("\"message\":\"{message}\"")).await)
    }

    /// Stops reading what the process writes.
    pub fn deafen(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }

    /// Sends SIGTERM; returns the lines up to its end that were not looked at before.
    pub async fn ended(mut self) -> Vec<String> {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let mut child = self.child.take().unwrap();
        let ended = within("the end of the process", spawn_blocking(move || child.wait()))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(ended.code(), Some(0));
        let mut rest = Vec::new();
        if !self.deaf.load(Ordering::SeqCst) {
            while let Some(line) = within("its last line", self.lines.recv()).await {
                rest.push(line);
            }
        }
        rest
    }

    /// The same, as JSON.
    pub async fn ended_json(self) -> Vec<Value> {
        self.ended().await.iter().map(|line| json(line)).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        self.deaf.store(false, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            reader.thread().unpark();
        }
    }
}

/// Parses a line as JSON.
pub fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))
}

/// Finds the address in a line of any format.
fn address(line: &str) -> SocketAddr {
    let after = line.split_once("address").unwrap_or_else(|| panic!("no address in {line}")).1;
    let text = after.trim_start_matches(|c: char| !c.is_ascii_digit());
    text.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}
