//! `sidegate init`: its files run unchanged, and no existing file is lost.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

use sidegate::Agent;
use tempfile::TempDir;

use crate::harness::wire::lossy;
use crate::harness::{backend, certificate, client};

const FILES: [&str; 7] = [
    "sidegate.toml",
    "policies/main.toml",
    "policies/lists/office.cidr",
    ".schema/config.json",
    ".schema/policy.json",
    "certs/dev.pem",
    "certs/dev.key",
];

const BACKEND: [&str; 2] = ["--backend", "http://127.0.0.1:8080"];

fn sidegate(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn init(backend: &str) -> TempDir {
    init_with(backend, &[])
}

fn init_with(backend: &str, more: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let output = sidegate(&[&["init", "--backend", backend], more].concat(), folder.path());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    folder
}

/// Asserts that `check` finds no error and no warning.
fn expect_clean(folder: &Path) {
    let output = sidegate(&["check", "--strict", "."], folder);
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()),
        (Some(0), "")
    );
}

/// Changes one of the files.
fn edit(folder: &Path, file: &str, change: impl FnOnce(String) -> String) {
    let path = folder.join(file);
    fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
}

/// Turns on every line that is off: a `#` right before a key, a sign or a number.
fn turned_on(text: &str) -> String {
    let is_off =
        |line: &&str| line[1..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '!');
    let line = |line| if str::starts_with(line, "#") && is_off(&line) { &line[1..] } else { line };
    text.lines().map(|one| format!("{}\n", line(one))).collect()
}

#[tokio::test]
async fn configuration_of_init_serves_its_backend() {
    let backend = backend::echo().run().await;
    let folder = init(backend.address());
    expect_clean(folder.path());
    // Tests take free ports.
    let ports = |text: String| {
        text.replace("8443\"", "0\"")
            .replace("#listen = \"127.0.0.1:10464\"", "listen = \"127.0.0.1:0\"")
    };
    edit(folder.path(), "sidegate.toml", |text| {
        ports(text).replace("#socket = \"auto\"", "socket = \"off\"")
    });
    let agent = Agent::start(
        &folder.path().join("sidegate.toml"),
        Default::default(),
        Default::default(),
        Default::default(),
        Default::default(),
    )
    .unwrap();
    let client = client::at(
        agent.listeners()[0].address.tcp().unwrap(),
        &folder.path().join("certs/dev.pem"),
    );
    client.open("/").await.expect_echo("hello").await;
    client.get("/").await.expect_refused(426, "plain");
}

#[tokio::test]
async fn unix_socket_of_init_answers_its_printed_request() {
    let backend = backend::echo().run().await;
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("public.sock");
    let listen = format!("unix:{}", socket.display());
    let words = ["init", "--backend", backend.address(), "--plain", "--listen", &listen];
    let said = lossy(&sidegate(&words, folder.path()).stdout);
    assert!(!said.contains("no folder") && !said.contains("websockets"), "{said}");
    expect_clean(folder.path());
    edit(folder.path(), "sidegate.toml", |text| {
        text.replace("#listen = \"127.0.0.1:10464\"", "listen = \"127.0.0.1:0\"")
            .replace("#socket = \"auto\"", "socket = \"off\"")
    });
    let file = folder.path().join("sidegate.toml");
    let _agent = Agent::start(
        &file,
        Default::default(),
        Default::default(),
        Default::default(),
        Default::default(),
    )
    .unwrap();
    let line = said.lines().find(|line| line.contains(" --unix-socket ")).unwrap();
    let [path, url] = [2, 3].map(|at| line.split_whitespace().nth(at).unwrap());
    assert_eq!(url, "http://localhost/");
    let mut wire = UnixStream::connect(path).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    wire.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    wire.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
}

#[test]
fn every_commented_line_of_init_can_be_enabled() {
    let folder = init("unix:/run/it's a \"socket\".sock");
    for file in &FILES[..3] {
        edit(folder.path(), file, |text| turned_on(&text));
    }
    expect_clean(folder.path());
    let folder = init_with("http://127.0.0.1:8080", &["--listen", "unix:/run/sg.sock"]);
    for file in &FILES[..2] {
        edit(folder.path(), file, |text| turned_on(&text));
    }
    expect_clean(folder.path());
}

#[test]
fn init_takes_an_address_a_host_and_plain_http() {
    let more = ["--listen", "192.0.2.7:9443", "--host", "ws.example.com", "--http", "forward"];
    let folder = init_with("http://127.0.0.1:8080", &more);
    expect_clean(folder.path());
    let config = fs::read_to_string(folder.path().join("sidegate.toml")).unwrap();
    for line in
        ["listen = \"192.0.2.7:9443\"", "host    = \"ws.example.com\"", "http    = \"forward\""]
    {
        assert!(config.lines().any(|one| one.starts_with(line)), "{line} in {config}");
    }
    let policy = fs::read_to_string(folder.path().join("policies/main.toml")).unwrap();
    assert!(
        policy.contains("\nrequests    = ") && policy.contains("\"wss://ws.example.com:9443/\""),
        "{policy}"
    );
}

#[test]
fn init_writes_the_port_unless_it_is_the_default() {
    for (more, url, origin) in [
        (
            &["--listen", "0.0.0.0:443", "--host", "a.example"][..],
            "wss://a.example/",
            "https://a.example",
        ),
        (
            &["--listen", "[::]:8443", "--host", "*.a.example"],
            "wss://www.a.example:8443/",
            "https://www.a.example:8443",
        ),
        (&["--plain", "--listen", "127.0.0.1:80"], "ws://localhost/", "http://localhost"),
        (&["--plain", "--listen", "unix:/run/sg.sock"], "ws://localhost/", "http://localhost"),
        (&["--listen", "unix:/run/sg.sock"], "wss://localhost/", "https://localhost"),
        (&["--listen", "192.0.2.7:8443"], "wss://192.0.2.7:8443/", "https://192.0.2.7:8443"),
        (
            &["--listen", "[2001:db8::7]:8443"],
            "wss://[2001:db8::7]:8443/",
            "https://[2001:db8::7]:8443",
        ),
        (&["--listen", "127.0.0.2:443"], "wss://127.0.0.2/", "https://127.0.0.2"),
        (&["--listen", "[::ffff:192.0.2.7]:443"], "wss://192.0.2.7/", "https://192.0.2.7"),
        (
            &["--plain", "--listen", "[::1]:8080", "--host", "[::1]"],
            "ws://[::1]:8080/",
            "http://[::1]:8080",
        ),
    ] {
        let folder = init_with("http://127.0.0.1:8080", more);
        expect_clean(folder.path());
        let policy = fs::read_to_string(folder.path().join("policies/main.toml")).unwrap();
        assert!(
            policy.contains(&format!("\"{url}\"")) && policy.contains(&format!("\"{origin}\"")),
            "{policy}"
        );
    }
}

#[test]
fn init_without_tls_writes_the_host_and_no_certificate() {
    let folder = init_with("http://127.0.0.1:8080", &["--plain", "--listen", "127.0.0.1:8081"]);
    expect_clean(folder.path());
    for file in &FILES[..3] {
        edit(folder.path(), file, |text| turned_on(&text));
    }
    expect_clean(folder.path());
    let config = fs::read_to_string(folder.path().join("sidegate.toml")).unwrap();
    assert!(
        config.contains("\nhost    = \"localhost\"") && !config.contains("[[certificate]]"),
        "{config}"
    );
    assert!(!folder.path().join("certs").exists());
}

#[tokio::test]
async fn init_without_tls_admits_its_own_page_only() {
    let backend = backend::echo().run().await;
    let folder = init_with(backend.address(), &["--plain", "--listen", "127.0.0.1:8080"]);
    let ports = |text: String| {
        text.replace(":8080\"", ":0\"")
            .replace("#listen = \"127.0.0.1:10464\"", "listen = \"127.0.0.1:0\"")
    };
    let address = backend.address().to_owned();
    edit(folder.path(), "sidegate.toml", |text| {
        ports(text)
            .replace("#socket = \"auto\"", "socket = \"off\"")
            .replace("http://127.0.0.1:0", &address)
    });
    let agent = Agent::start(
        &folder.path().join("sidegate.toml"),
        Default::default(),
        Default::default(),
        Default::default(),
        Default::default(),
    )
    .unwrap();
    let client = client::clear(agent.listeners()[0].address.tcp().unwrap());
    client.clone().origin("http://localhost").open("/").await.expect_echo("hello").await;
    client.clone().origin("http://evil.example").attempt("/").await.expect_refused(403, "origin");
    client
        .host("evil.example")
        .origin("http://evil.example")
        .attempt("/")
        .await
        .expect_refused(404, "route");
}

#[test]
fn init_admits_this_machine_by_its_listen_address() {
    for (more, entry, command) in [
        (&["--listen", "192.0.2.7:8443"][..], "192.0.2.7", "dev.pem https://192.0.2.7:8443/"),
        (
            &["--listen", "[2001:db8::7]:8443"],
            "2001:db8::7",
            "dev.pem 'https://[2001:db8::7]:8443/'",
        ),
        (&["--plain", "--listen", "192.0.2.7:80"], "192.0.2.7", "curl http://192.0.2.7/"),
        (
            &["--listen", "192.0.2.7:443", "--host", "a.example"],
            "192.0.2.7",
            "--resolve a.example:443:192.0.2.7 https://a.example/",
        ),
        (
            &["--listen", "0.0.0.0:443", "--host", "192.0.2.9"],
            "::1",
            "--connect-to ::127.0.0.1:443 https://192.0.2.9/",
        ),
        (&["--listen", "127.0.0.2:443"], "::1", "dev.pem https://127.0.0.2/"),
        (
            &["--listen", "unix:/run/sg.sock"],
            "unix",
            "dev.pem --unix-socket /run/sg.sock https://localhost/",
        ),
        (
            &["--plain", "--listen", "unix:/run/it's.sock"],
            "unix",
            "curl --unix-socket '/run/it'\\''s.sock' http://localhost/",
        ),
        (
            &["--plain", "--listen", "unix:/run/sg.sock", "--host", "*.a.example"],
            "unix",
            "curl --unix-socket /run/sg.sock http://www.a.example/",
        ),
    ] {
        let folder = TempDir::new().unwrap();
        let arguments = [&["init", "--backend", "http://127.0.0.1:8080"], more].concat();
        let said = String::from_utf8(sidegate(&arguments, folder.path()).stdout).unwrap();
        assert!(said.contains(command) && said.contains(entry), "{said}");
        let list = fs::read_to_string(folder.path().join("policies/lists/office.cidr")).unwrap();
        assert!(list.lines().any(|line| line.split(' ').next() == Some(entry)), "{list}");
        let checked = sidegate(&["check", "."], folder.path());
        assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    }
}

#[test]
fn init_keeps_metrics_apart_from_the_listener_and_the_backend() {
    for (backend, listen, port) in [
        ("http://127.0.0.1:8080", "127.0.0.1:10464", 10465),
        ("http://127.0.0.1:10464", "127.0.0.1:10465", 10466),
        ("http://localhost:10464", "0.0.0.0:443", 10465),
    ] {
        let folder = init_with(backend, &["--listen", listen]);
        expect_clean(folder.path());
        let config = fs::read_to_string(folder.path().join("sidegate.toml")).unwrap();
        assert!(config.contains(&format!("\nlisten = \"127.0.0.1:{port}\"")), "{config}");
    }
}

#[test]
fn init_prints_the_warnings_of_check() {
    for (more, warning) in [
        (&["--plain", "--listen", "127.0.0.1:8081", "--host", "*"][..], "DNS rebinding"),
        (
            &["--plain", "--listen", "192.0.2.7:80"],
            "plain ws:// on an address that others can reach",
        ),
    ] {
        let folder = TempDir::new().unwrap();
        let output = sidegate(
            &[&["init", "--backend", "http://127.0.0.1:8080"], more].concat(),
            folder.path(),
        );
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(warning), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("`sidegate check` reports"),
            "{output:?}"
        );
    }
}

#[test]
fn init_reports_an_invalid_address_or_host() {
    let folder = TempDir::new().unwrap();
    for (more, word) in [
        (&["--listen", "8443"][..], "not an address with a port"),
        (&["--host", "https://ws.example.com"], "a host has no scheme"),
        (&["--host", "ws.example.com:8443"], "a host has no port"),
        (&["--http", "allow"], "forward"),
        (&["--plain", "--listen", "0.0.0.0:80"], "add --host NAME"),
        (&["--listen", "127.0.0.1:0"], "port 0 is a different port at each start"),
        (&["--listen", "[fe80::1%2]:8443"], "link-local"),
        (&["--listen", "unix:run/sg.sock"], "begins with a slash"),
        (&["--listen", "unix:@sg"], "abstract socket"),
        (&["--listen", "unix:/run/"], "path of a directory"),
        (
            &["--listen", "unix:/run/a.sock", "--backend", "unix:/run/a.sock"],
            "would both use unix:/run/a.sock",
        ),
        (&["--listen", "127.0.0.1:8080"], "would both use 127.0.0.1:8080"),
        (&["--listen", "[::]:8080"], "would both use 127.0.0.1:8080"),
    ] {
        let backend = if more.contains(&"--backend") { &[][..] } else { &BACKEND };
        let output = sidegate(&[&["init"], backend, more].concat(), folder.path());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(word), "{output:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn backend_tls_example_of_init_loads() {
    let folder = init("https://127.0.0.1:9443");
    edit(folder.path(), "sidegate.toml", |text| text.replace("# backend_tls = ", "backend_tls = "));
    fs::write(folder.path().join("certs/backend-ca.pem"), certificate::authority_pem()).unwrap();
    let text = fs::read_to_string(folder.path().join("sidegate.toml")).unwrap();
    assert!(
        text.contains("\nbackend_tls = ")
            && text.contains("\nbackend = \"https://127.0.0.1:9443\""),
        "{text}"
    );
    expect_clean(folder.path());
}

#[test]
fn private_key_of_init_is_readable_by_its_owner_only() {
    let folder = init("http://127.0.0.1:8080");
    assert_eq!(
        fs::metadata(folder.path().join("certs/dev.key")).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn init_writes_nothing_when_an_output_file_exists() {
    for taken in FILES {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(taken);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        let output = sidegate(&["init", "--backend", "http://127.0.0.1:8080"], folder.path());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(&format!("{taken} exists already")),
            "{output:?}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(FILES.iter().filter(|file| folder.path().join(file).exists()).count(), 1);
    }
}

#[test]
fn init_reports_an_invalid_backend() {
    let folder = TempDir::new().unwrap();
    for (backend, word) in [
        ("https://127.0.0.1:8080/chat", "a backend has no path"),
        ("127.0.0.1:8080", "write \"http://127.0.0.1:8080\""),
        ("http://127.0.0.1:8080/chat", "a backend has no path"),
        ("http://app..internal:8080", "is no label"),
        ("unix:", "an empty path"),
        ("\u{201c}http://127.0.0.1:8080\u{201d}", "write \"http://127.0.0.1:8080\""),
    ] {
        let output = sidegate(&["init", "--backend", backend], folder.path());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(word), "{output:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
