//! The commands as people and systemd run them: what they print, and how they end.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::harness::wire::lossy;
use crate::harness::{backend, client, sidegate, within};

/// An agent in a process of its own, and what it logs.
pub struct Running {
    process: Option<Child>,
    log: mpsc::UnboundedReceiver<Value>,
    listener: Option<SocketAddr>,
}

/// Runs the agent of `folder`, and waits until it listens.
pub async fn run(folder: &Path) -> Running {
    let mut command = command(&["run", "--config", "sidegate.toml", "--log", "json"], folder);
    let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
    let (tell, log) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in lines {
            // Lines before the log begins are not JSON.
            let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    let mut running = Running { process: Some(process), log, listener: None };
    running.listener = running.logged("listening").await["address"]
        .as_str()
        .map(|address| address.parse().unwrap());
    running
}

impl Running {
    /// A client of its first listener, in the clear.
    pub fn client(&self) -> client::Client {
        client::clear(self.listener.unwrap())
    }

    /// The next log line with this message.
    pub async fn logged(&mut self, message: &str) -> Value {
        let found = async {
            let mut others = Vec::new();
            while let Some(line) = self.log.recv().await {
                if line["message"] == message {
                    return line;
                }
                others.push(line);
            }
            panic!("the agent ended without logging it: {others:?}")
        };
        within(&format!("the log line {message:?}"), found).await
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), signal).unwrap();
    }

    /// Stops it, so that it does nothing until SIGCONT.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let pid = Pid::from_child(self.process.as_ref().unwrap());
        waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
    }

    /// Waits for its end; the exit code.
    pub async fn code(&mut self) -> Option<i32> {
        let mut process = self.process.take().unwrap();
        within("the end of the process", spawn_blocking(move || process.wait()))
            .await
            .unwrap()
            .unwrap()
            .code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

/// A command that looks for its agent in `folder` alone.
pub fn command(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate"));
    // A folder of its own for temporary files, and no runtime directory of another agent.
    command
        .args(arguments)
        .current_dir(folder)
        .env("TMPDIR", folder)
        .env("STATE_DIRECTORY", folder.join("own-state"))
        .env_remove("SIDEGATE_CONFIG")
        .env_remove("RUNTIME_DIRECTORY")
        .env_remove("XDG_RUNTIME_DIR");
    command
}

/// Runs a command to its end.
pub async fn done(arguments: &[&str], folder: &Path) -> Output {
    let mut command = command(arguments, folder);
    within(&format!("{arguments:?}"), spawn_blocking(move || command.output()))
        .await
        .unwrap()
        .unwrap()
}

/// Asserts that a command ends with this code and prints all of these: to standard output on
/// success, else to standard error.
pub async fn check(arguments: &[&str], folder: &Path, code: i32, said: &[&str]) {
    let output = done(arguments, folder).await;
    let text = lossy(if code == 0 { &output.stdout } else { &output.stderr });
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    for part in said {
        assert!(text.contains(part), "{arguments:?}: no {part:?} in {text}");
    }
}

const RUN: &[&str] = &["run", "--config", "sidegate.toml"];
const RELOAD: &[&str] = &["reload", "--config", "sidegate.toml", "--wait"];

#[tokio::test]
async fn files_that_are_wrong_or_missing_end_run_with_78() {
    let folder = sidegate::new()
        .route("/chat", &backend::echo().run().await)
        .file("policies/default.toml", "schema = 2\n")
        .write();
    check(RUN, folder.path(), 78, &["policies/default.toml:1:10", "allow", "not started"]).await;
    check(&["run", "--config", "none.toml"], folder.path(), 78, &["none.toml"]).await;
    check(&["check", "none.toml"], folder.path(), 1, &["none.toml"]).await;
}

/// Runs a command whose environment has `SIDEGATE_CONFIG`; asserts its exit code and one part of
/// what it prints.
async fn check_with_variable(arguments: &[&str], folder: &Path, set: &str, code: i32, said: &str) {
    let mut command = command(arguments, folder);
    command.env("SIDEGATE_CONFIG", set);
    let output =
        within("a command", spawn_blocking(move || command.output())).await.unwrap().unwrap();
    let text = lossy(&output.stdout) + &lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?} {set:?}: {text}");
    assert!(text.contains(said), "{arguments:?} {set:?}: no {said:?} in {text}");
}

#[tokio::test]
async fn agent_is_found_while_its_file_is_broken_or_gone() {
    let folder = sidegate::new().clear().write();
    // A socket of its own is linked where the folder of `auto` exists already.
    let own = format!("sidegate-{}", rustix::process::getuid().as_raw());
    std::fs::DirBuilder::new().mode(0o700).create(folder.path().join(own)).unwrap();
    let (file, status) = (folder.path().join("sidegate.toml"), ["status", "--config", "."]);
    let whole = std::fs::read_to_string(&file).unwrap();
    let mut agent = run(folder.path()).await;
    let broken = whole.replace("admin.socket", "[admin\nsocket");
    let socket = |at: &str| whole.replace("\"admin.sock\"", at);
    let reload = ["reload", "--wait", "--config", "."];
    // Its link gives way to the socket of `auto`, and comes back.
    for at in ["\"other.sock\"", "\"auto\"", "\"admin.sock\""] {
        std::fs::write(&file, socket(at)).unwrap();
        check(&reload, folder.path(), 0, &["generation"]).await;
        std::fs::write(&file, &broken).unwrap();
        check(&status, folder.path(), 0, &["generation"]).await;
        std::fs::write(&file, socket(at)).unwrap();
    }
    std::fs::remove_file(&file).unwrap();
    let status = ["status", "--config", "sidegate.toml"];
    check(&status, folder.path(), 0, &["generation"]).await;
    agent.signal(Signal::KILL);
    assert_eq!(agent.code().await, None);
    check(&status, folder.path(), 1, &["the file cannot be read", "stale socket"]).await;
    // The link of the killed agent is in the way of the next one's socket.
    std::fs::write(&file, socket("\"auto\"")).unwrap();
    let _next = run(folder.path()).await;
    check(&status, folder.path(), 0, &["generation"]).await;
}

#[tokio::test]
async fn output_that_is_lost_is_a_failure() {
    let agent = sidegate::new().run().await;
    for arguments in [&["status"][..], &["tunnels", "--json"], &["check"], &["top", "--once"]] {
        let mut command = command(arguments, agent.folder());
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        command.args(["--config", "."]).stdout(full).stderr(Stdio::piped());
        let ended = spawn_blocking(move || command.output());
        let output = within("the command", ended).await.unwrap().unwrap();
        let said = lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("standard output cannot be written"), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn directory_and_variable_name_the_configuration() {
    let agent = sidegate::new().route("/chat", &backend::echo().run().await).run().await;
    let (folder, url) = (agent.folder(), "ws://localhost/chat");
    let directory = folder.to_str().unwrap();
    let file = folder.join("sidegate.toml");
    let explain = ["explain", "--client", "127.0.0.1", "--url", url];
    for (verb, code, said) in [
        (&["check"][..], 0, "fine"),
        (&explain, 0, "ALLOW"),
        (&["explain", "--live", "--client", "127.0.0.1", "--url", url], 0, "ALLOW"),
        (&["diff"], 0, "matches the files"),
        (&["status"], 0, "generation"),
        (&["reload", "--wait"], 0, "generation 1"),
        (&["run"], 75, "another agent listens there"),
    ] {
        let named = |path| [verb, &["--config", path]].concat();
        check_with_variable(&named("."), folder, "", code, said).await;
        check_with_variable(&named(directory), Path::new("/"), "/none", code, said).await;
        check_with_variable(verb, Path::new("/"), directory, code, said).await;
        check_with_variable(verb, Path::new("/"), file.to_str().unwrap(), code, said).await;
    }
    // Empty, the variable counts as unset; a directory without the file is named with it.
    let empty = tempfile::tempdir().unwrap();
    let default = "/etc/sidegate/sidegate.toml";
    check_with_variable(&["check"], empty.path(), "", 1, default).await;
    let missing = empty.path().join("sidegate.toml");
    let set = empty.path().to_str().unwrap();
    check_with_variable(&["run"], Path::new("/"), set, 78, missing.to_str().unwrap()).await;
}

#[tokio::test]
async fn a_port_in_use_ends_run_with_75() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let sidegate = sidegate::new().clear();
    let listening = sidegate.clone().on_listener(&format!("listen = '{address}'")).write();
    check(
        RUN,
        listening.path(),
        75,
        &[&address.to_string(), "`public`", "another program listens on this address"],
    )
    .await;
    let metrics = sidegate.toml(&format!("metrics.listen = '{address}'")).write();
    check(RUN, metrics.path(), 75, &[&address.to_string(), "[metrics]"]).await;
}

#[tokio::test]
async fn second_instance_on_the_same_sockets_ends_with_75() {
    let first = sidegate::new().clear().write();
    let running = run(first.path()).await;
    let listen = format!("listen = '{}'", running.listener.unwrap());
    check(
        RUN,
        sidegate::new().clear().on_listener(&listen).write().path(),
        75,
        &["another program listens on this address"],
    )
    .await;
    check(RUN, first.path(), 75, &["another agent listens there"]).await; // its port is a free one, its admin socket isn't
    running.client().get("/").await.expect_refused(404, "route"); // and the first one serves
}

#[tokio::test]
async fn dead_admin_socket_is_taken_over() {
    let folder = sidegate::new().clear().write();
    drop(UnixListener::bind(folder.path().join("admin.sock")).unwrap());
    let _running = run(folder.path()).await;
    check(RELOAD, folder.path(), 0, &["unchanged"]).await;
}

// F18
#[tokio::test]
async fn sigterm_drains_and_ends_with_0() {
    let backend = backend::echo().run().await;
    let folder = sidegate::new().clear().route("/chat", &backend).write();
    let mut running = run(folder.path()).await;
    let mut tunnel = running.client().open("/chat").await;
    let mut idle = running.client().connect().await;
    tunnel.expect_echo("before").await;
    running.signal(Signal::TERM);
    tunnel.expect_close(1001).await;
    idle.expect_end().await;
    assert_eq!(running.code().await, Some(0));
    assert!(!folder.path().join("admin.sock").exists());
}

#[tokio::test]
async fn drain_deadline_cuts_the_rest_and_ends_with_0() {
    let backend = backend::echo().run().await;
    let folder = sidegate::new()
        .clear()
        .route("/chat", &backend)
        .toml("shutdown.deadline = '300ms'")
        .write();
    let mut running = run(folder.path()).await;
    let mut stubborn = running.client().open_wire("/chat").await; // answers no Close
    running.signal(Signal::TERM);
    running.logged("deadline reached: closing the remaining connections").await;
    assert_eq!(running.code().await, Some(0));
    assert_eq!(stubborn.frame().await.closes().map(|(code, _)| code), Some(1001));
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once_with_0() {
    let backend = backend::echo().run().await;
    let folder = sidegate::new()
        .clear()
        .route("/chat", &backend)
        .toml("shutdown.deadline = '1h'\ntimeouts.grace = '1h'")
        .write();
    let mut running = run(folder.path()).await;
    let mut stubborn = running.client().open_wire("/chat").await;
    running.signal(Signal::TERM);
    assert_eq!(stubborn.frame().await.closes().map(|(code, _)| code), Some(1001));
    running.signal(Signal::TERM);
    running.logged("second order to end: closing the remaining connections").await;
    assert_eq!(running.code().await, Some(0));
}

#[tokio::test]
async fn sighup_reloads() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().route("/chat", &backend).toml("reload.watch = 'off'");
    let folder = sidegate.write();
    let mut running = run(folder.path()).await;
    running.client().attempt("/chat").await.expect(101);
    std::fs::write(
        folder.path().join("policies/default.toml"),
        "schema = 1\nclient.allow = ['192.0.2.0/24']\n",
    )
    .unwrap();
    running.signal(Signal::HUP);
    assert_eq!(running.logged("published").await["cause"], "signal");
    running.client().attempt("/chat").await.expect_refused(403, "network");
}

#[tokio::test]
async fn reload_wait_prints_the_outcome() {
    let backend = backend::echo().run().await;
    let folder =
        sidegate::new().clear().route("/chat", &backend).toml("reload.watch = 'off'").write();
    let running = run(folder.path()).await;
    let tunnel = running.client().open("/chat").await;
    check(RELOAD, folder.path(), 0, &["unchanged", "generation 1"]).await;
    let policy = folder.path().join("policies/default.toml");
    std::fs::write(&policy, "schema = 1\nclient.allow = ['192.0.2.0/24']\n").unwrap();
    check(RELOAD, folder.path(), 0, &["published: generation 2", "1 tunnel revoked"]).await;
    std::fs::write(&policy, "schema = 1\nclient.alow = ['any']\n").unwrap();
    check(
        RELOAD,
        folder.path(),
        1,
        &[
            "policies/default.toml:2",
            "`allow`",
            "rejected: the previous configuration keeps running",
        ],
    )
    .await;
    std::fs::remove_file(&policy).unwrap();
    check(RELOAD, folder.path(), 1, &["policies/default.toml", "rejected"]).await;
    running.client().attempt("/chat").await.expect_refused(403, "network");
    drop(tunnel);
}

#[tokio::test]
async fn reload_ends_with_1_when_no_agent_runs() {
    let folder = sidegate::new().clear().write();
    check(RELOAD, folder.path(), 1, &["no agent answers"]).await;
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_version_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    check(&["walk"], folder.path(), 2, &["walk"]).await;
    check(&["run", "--nonsense"], folder.path(), 2, &["--nonsense"]).await;
    check(&["--version"], folder.path(), 0, &[concat!("sidegate ", env!("CARGO_PKG_VERSION"))])
        .await;
}
