//! `sidegate demo`, as a person runs it: the whole process, its page and its echo, until Ctrl-C.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::cli;
use crate::harness::client::Client;
use crate::harness::wire::lossy;
use crate::harness::{client, within};

/// A demo that runs in a temporary folder of its own.
struct Demo {
    process: Option<Child>,
    said: String,
    temporary: TempDir,
    /// Its TMPDIR.
    below: PathBuf,
}

async fn demo() -> Demo {
    demo_below("").await
}

/// A demo whose TMPDIR is this folder below a temporary one.
async fn demo_below(folder: &str) -> Demo {
    let temporary = TempDir::new().unwrap();
    let below = temporary.path().join(folder);
    std::fs::create_dir_all(&below).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate"));
    command.arg("demo").env("TMPDIR", &below).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut demo = Demo { process: Some(process), said: String::new(), temporary, below };
    let greeting = spawn_blocking(|| {
        lines
            .take_while(|line| line != "The log:")
            .fold(String::new(), |said, line| said + &line + "\n")
    });
    demo.said = within("the greeting", greeting).await.unwrap();
    demo
}

impl Demo {
    /// Returns the word after `before` in its output.
    fn named(&self, before: &str) -> &str {
        let (_, after) = self
            .said
            .split_once(before)
            .unwrap_or_else(|| panic!("{before:?} is not in {}", self.said));
        after.split_whitespace().next().unwrap()
    }

    fn client(&self) -> Client {
        let port = self.named("https://localhost:").trim_end_matches('/').parse().unwrap();
        client::at((Ipv4Addr::LOCALHOST, port).into(), &self.folder().join("certs/ca.pem"))
    }

    fn metrics(&self) -> SocketAddr {
        self.named("metrics    http://").trim_end_matches("/metrics").parse().unwrap()
    }

    fn status(&self) -> SocketAddr {
        self.named("status     http://").trim_end_matches("/status").parse().unwrap()
    }

    fn folder(&self) -> PathBuf {
        let mut folders = std::fs::read_dir(&self.below).unwrap().map(|one| one.unwrap().path());
        let found = folders.find(|path| path.join("sidegate.toml").exists());
        found.unwrap_or_else(|| panic!("no demo in {}", self.below.display()))
    }

    fn list(&self) -> PathBuf {
        self.folder().join("policies/lists/demo.cidr")
    }

    /// Ctrl-C; returns the exit code.
    async fn interrupt(&mut self) -> Option<i32> {
        let mut process = self.process.take().unwrap();
        kill_process(Pid::from_child(&process), Signal::INT).unwrap();
        within("the end", spawn_blocking(move || process.wait())).await.unwrap().unwrap().code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

fn lock_out(list: &Path) {
    OpenOptions::new().append(true).open(list).unwrap().write_all(b"!127.0.0.1\n!::1\n").unwrap();
}

#[tokio::test]
async fn demo_serves_its_page_and_names_its_policy() {
    let demo = demo().await;
    let page = demo.client().get("/").await;
    page.expect(200).expect_header("content-type", "text/html; charset=utf-8");
    for id in ["open", "send", "close", "message", "log", "state"] {
        assert!(page.text().contains(&format!("id=\"{id}\"")), "{id}");
    }
    assert!(page.text().contains(&demo.list().display().to_string()));
    let policy = std::fs::read_to_string(demo.list().with_file_name("../demo.toml")).unwrap();
    assert!(policy.lines().all(|line| demo.said.contains(line)), "{}", demo.said);
}

#[tokio::test]
async fn demo_greeting_ends_with_url_and_steps_on_80x24() {
    let demo = demo().await;
    let rows: Vec<String> = demo.said.lines().flat_map(wrapped).collect();
    // The line before the log and the cursor have a row each.
    let screen = rows[rows.len() - 22..].concat();
    let page = format!("https://localhost:{}", demo.named("https://localhost:"));
    let status = format!("http://{}/status", demo.status());
    for step in [&*page, &*status, "export SIDEGATE_CONFIG=", " status", " explain --live ", ">> "]
    {
        assert!(screen.contains(step), "no {step:?} in {screen}");
    }
}

/// Runs the printed lines that hold `part` in one shell, as if they were pasted.
async fn pasted(demo: &Demo, parts: &[&str]) -> String {
    let is_step =
        |line: &&str| line.starts_with("  ") && parts.iter().any(|one| line.contains(one));
    let script: String = demo.said.lines().filter(is_step).flat_map(|line| [line, "\n"]).collect();
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env_remove("SIDEGATE_CONFIG");
    let output = spawn_blocking(move || shell.output()).await.unwrap().unwrap();
    format!("{}{}", lossy(&output.stdout), lossy(&output.stderr))
}

#[tokio::test]
async fn printed_steps_work_as_they_are_pasted() {
    let deep = "with spaces & 'quotes'/".repeat(5);
    for folder in ["", &deep] {
        let demo = demo_below(folder).await;
        let said = pasted(&demo, &["export ", "sidegate status", " explain --live "]).await;
        assert!(said.contains("ALLOW   policy demo"), "{folder}: {said}");
        assert!(said.contains("generation   1"), "{folder}: {said}");
        let mut tunnel = demo.client().open("/websocket").await;
        tunnel.expect_echo("hello").await;
        pasted(&demo, &["printf "]).await;
        tunnel.expect_close_with(1008, "network").await;
        let host = demo.status().to_string();
        let page = demo.client().at_clear(demo.status()).host(&host).get("/status").await;
        page.expect(200);
        assert!(page.text().contains("<h1"), "{}", page.text());
        pasted(&demo, &["sed "]).await;
        let is_open = async || demo.client().attempt("/websocket").await.status() == 101;
        within("the end of the lock-out", async { while !is_open().await {} }).await;
    }
}

/// The rows of `line` on a terminal of 80 columns.
fn wrapped(line: &str) -> Vec<String> {
    let cells: Vec<char> = line.chars().collect();
    let rows: Vec<String> = cells.chunks(80).map(|row| row.iter().collect()).collect();
    if rows.is_empty() { vec![String::new()] } else { rows }
}

#[tokio::test]
async fn demo_files_pass_check() {
    let demo = demo().await;
    let folder = demo.list().ancestors().nth(3).unwrap().to_owned();
    cli::check(&["check", "--strict", "."], &folder, 0, &["fine: 2 routes, 2 policies"]).await;
}

#[tokio::test]
async fn demo_websocket_opens_from_its_own_page_only() {
    let demo = demo().await;
    let page = demo.named("https://localhost:").trim_end_matches('/');
    demo.client()
        .origin(&format!("https://localhost:{page}"))
        .attempt("/websocket")
        .await
        .expect(101);
    demo.client()
        .origin("https://elsewhere.example")
        .attempt("/websocket")
        .await
        .expect_refused(403, "origin");
}

#[tokio::test]
async fn edit_of_the_demo_list_closes_the_tunnel_with_1008() {
    let demo = demo().await;
    let mut tunnel = demo.client().open("/websocket").await;
    tunnel.expect_echo("hello").await;
    lock_out(&demo.list());
    tunnel.expect_close_with(1008, "network").await;
    demo.client().attempt("/websocket").await.expect_refused(403, "network");
    // Its reader is locked out, and the page still says how to get in again.
    let page = demo.client().get("/").await;
    page.expect(200);
    assert!(page.text().contains("Take the lines out"), "{}", page.text());
    let metrics = demo.client().at_clear(demo.metrics()).get("/metrics").await.text();
    assert!(
        metrics.contains("sidegate_tunnels_opened_total{route=\"websocket\"} 1\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn ctrl_c_drains_the_demo_and_leaves_nothing_behind() {
    let mut demo = demo().await;
    let mut tunnel = demo.client().open("/websocket").await;
    tunnel.expect_echo("hello").await;
    let (code, ()) =
        tokio::join!(demo.interrupt(), async { drop(tunnel.expect_close(1001).await) });
    assert_eq!(code, Some(0));
    assert_eq!(std::fs::read_dir(demo.temporary.path()).unwrap().count(), 0);
}

/// The listener of a port, so that no other process gets it. `None` means that another process has
/// it for good: the demo of another test gives it up soon.
async fn taken(port: u16) -> Option<TcpListener> {
    let bound = async {
        loop {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), bound).await.ok()
}

#[tokio::test]
async fn demo_prints_its_ports_when_the_preferred_are_taken() {
    let (_https, _metrics) = (taken(8443).await, taken(10464).await);
    let demo = demo().await;
    let https = demo.named("Port 8443 is taken: ").to_owned();
    assert_eq!(demo.named("https://localhost:"), https + "/");
    let metrics: u16 = demo.named("Port 10464 is taken: ").parse().unwrap();
    assert_eq!(demo.metrics().port(), metrics);
    demo.client().open("/websocket").await.expect_echo("hello").await;
}
