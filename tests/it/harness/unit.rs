//! An agent in a process of its own, started as systemd starts a service: with a manager's socket
//! (`NOTIFY_SOCKET`), perhaps a watchdog, and perhaps a socket (`LISTEN_FDS`).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixDatagram;
use tokio::task::spawn_blocking;

use crate::harness::wire::lossy;
use crate::harness::within;

/// Script that becomes the agent, so that its LISTEN_PID is known. The passed socket arrives as the
/// shell's standard input, since std's `Command` passes no other descriptor.
const SHELL: &str =
    "if [ $LISTEN_FDS ]; then exec 3<&0 </dev/null; fi; LISTEN_PID=$$ exec \"$0\" \"$@\"";

/// Builds an agent of the `sidegate.toml` in `folder`.
pub fn of(folder: &Path) -> Builder {
    let notify = folder.join("notify");
    // A process started in place of another one has the same manager.
    let _ = std::fs::remove_file(&notify);
    let manager = UnixDatagram::bind(&notify).unwrap();
    Builder { folder: folder.to_owned(), watchdog: None, socket: None, manager }
}

/// An agent that isn't started yet.
pub struct Builder {
    folder: PathBuf,
    watchdog: Option<Duration>,
    socket: Option<(String, OwnedFd)>,
    manager: UnixDatagram,
}

impl Builder {
    /// Adds a systemd watchdog with this interval.
    pub fn watchdog(mut self, interval: Duration) -> Self {
        self.watchdog = Some(interval);
        self
    }

    /// Passes this socket under this name.
    pub fn passed(mut self, name: &str, socket: impl Into<OwnedFd>) -> Self {
        self.socket = Some((name.to_owned(), socket.into()));
        self
    }

    /// Starts the agent, and waits until it reports readiness.
    pub async fn run(self) -> Unit {
        let unit = self.start();
        let first = unit.told().await;
        assert!(first.contains("READY=1\n"), "{first}");
        unit
    }

    /// Starts the agent without waiting for readiness.
    pub fn start(self) -> Unit {
        let process = self.command().spawn().unwrap();
        Unit { process: Some(process), manager: self.manager, notify: self.folder.join("notify") }
    }

    /// Runs the agent until it exits by itself.
    pub async fn output(self) -> Output {
        let mut command = self.command();
        within("the end of the process", spawn_blocking(move || command.output()))
            .await
            .unwrap()
            .unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, env!("CARGO_BIN_EXE_sidegate")]);
        command
            .args(["run", "--config", "sidegate.toml", "--log", "json"])
            .current_dir(&self.folder);
        command
            .env("TMPDIR", &self.folder)
            .env("STATE_DIRECTORY", self.folder.join("own-state"))
            .env_remove("RUNTIME_DIRECTORY")
            .env_remove("XDG_RUNTIME_DIR");
        command.env("NOTIFY_SOCKET", self.folder.join("notify")).env_remove("WATCHDOG_PID");
        if let Some(interval) = self.watchdog {
            command.env("WATCHDOG_USEC", interval.as_micros().to_string());
        }
        if let Some((name, socket)) = &self.socket {
            command
                .env("LISTEN_FDS", "1")
                .env("LISTEN_FDNAMES", name)
                .stdin(socket.try_clone().unwrap());
        } else {
            command.env_remove("LISTEN_FDS").env_remove("LISTEN_FDNAMES");
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// A started agent; killed when dropped.
pub struct Unit {
    process: Option<Child>,
    manager: UnixDatagram,
    notify: PathBuf,
}

impl Unit {
    /// Waits for its next message to the manager.
    pub async fn told(&self) -> String {
        let mut message = [0; 4096];
        let length =
            within("a word to the manager", self.manager.recv(&mut message)).await.unwrap();
        lossy(&message[..length])
    }

    /// Waits until a message contains all of these, and returns it.
    pub async fn expect_told(&self, parts: &[&str]) -> String {
        let mut heard = String::new();
        let saying = async {
            loop {
                let message = self.told().await;
                if parts.iter().all(|part| message.contains(part)) {
                    return message;
                }
                heard.push_str(&message);
            }
        };
        match tokio::time::timeout(super::PATIENCE, saying).await {
            Ok(message) => message,
            Err(_) => panic!("no {parts:?} in what was said:\n{heard}"),
        }
    }

    /// Returns the path at which its manager listens.
    pub fn notify(&self) -> &Path {
        &self.notify
    }

    /// Sends a signal to the agent.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), signal).unwrap();
    }

    /// Waits until the agent has ended; returns its exit status and its log.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        let process = self.process.take().unwrap();
        let output =
            within("the end of the process", spawn_blocking(move || process.wait_with_output()))
                .await
                .unwrap()
                .unwrap();
        (output.status, lossy(&output.stderr))
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

/// Binds a TCP socket as systemd does; returns it with its address.
pub fn socket() -> (std::net::TcpListener, SocketAddr) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}
