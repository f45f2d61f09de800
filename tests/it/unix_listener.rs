//! Unix sockets as listeners: their files, the clients that they admit, and their changes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use ::sidegate::admin::wire::{AdminRequest as _, ExplainRequest, TunnelsRequest};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::bans::order;
use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::within;

/// Between two looks at a file.
const BETWEEN: std::time::Duration = std::time::Duration::from_millis(5);

/// A folder for a socket, and the socket's path.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("public.sock");
    (folder, path)
}

/// In the clear, on the socket at `path`.
fn on(path: &Path) -> Builder {
    sidegate::new().clear().on_listener(&format!("listen = 'unix:{}'", path.display()))
}

async fn echoing(path: &Path) -> (Sidegate, Backend) {
    let backend = backend::echo().run().await;
    (on(path).threads(2).route("/chat", &backend).on_route("http = 'forward'").run().await, backend)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// Changes keys of the first listener, and waits until they hold.
async fn relisten(sidegate: &Sidegate, key: &str, value: impl Into<toml::Value>) -> u64 {
    let change = |config: &mut toml::Table| {
        let listener = config["listener"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        listener.insert(key.to_owned(), value.into());
    };
    sidegate.reconfigure(change).await
}

#[tokio::test]
async fn unix_listener_serves_tunnels_on_every_thread() {
    let (_folder, path) = place();
    let (sidegate, _backend) = echoing(&path).await;
    assert_eq!(mode(&path), 0o660);
    for _ in 0..4 {
        client::unix(&sidegate, &path).open("/chat").await.expect_echo("here").await;
    }
    let listener = [("listener", "public")];
    sidegate.expect_metric("sidegate_connections_accepted_total", listener, 4).await;
    let status = sidegate.status().await;
    assert_eq!(status.listeners[0].address, format!("unix:{}", path.display()));
    drop(sidegate);
    assert!(!path.exists(), "the file is removed at the end");
}

#[tokio::test]
async fn unix_listener_speaks_tls() {
    let (_folder, path) = place();
    let backend = backend::echo().run().await;
    let listen = format!("listen = 'unix:{}'", path.display());
    let sidegate = sidegate::new().on_listener(&listen).route("/chat", &backend).run().await;
    client::unix(&sidegate, &path).open("/chat").await.expect_echo("secret").await;
}

#[tokio::test]
async fn banned_user_loses_the_tunnel_and_gets_no_other() {
    let (_folder, path) = place();
    let backend = backend::echo().run().await;
    let sidegate = on(&path).route("/chat", &backend).toml("process.state = 'state'").run().await;
    let mut tunnel = client::unix(&sidegate, &path).open("/chat").await;
    let user = format!("unix:uid={}", rustix::process::getuid().as_raw());
    let ban = ["ban", &user, "--why", "a script runs wild"];
    order(&ban, sidegate.folder(), 0, &["banned: unix:uid=", "1 tunnel"]).await;
    tunnel.expect_close_with(1008, "banned").await;
    let mut wire = client::unix(&sidegate, &path).connect().await;
    assert!(wire.rest_unless_reset().await.is_empty());
    order(&["bans"], sidegate.folder(), 0, &[&user]).await;
    order(&["unban", &user], sidegate.folder(), 0, &["unbanned: unix:uid="]).await;
    client::unix(&sidegate, &path).open("/chat").await.expect_echo("again").await;
}

#[tokio::test]
async fn backend_gets_no_address_of_a_unix_client() {
    let (_folder, path) = place();
    let (sidegate, backend) = echoing(&path).await;
    let client = client::unix(&sidegate, &path).host("app.example:8443");
    client.header("X-Forwarded-For", "192.0.2.1").open("/chat").await;
    let head = backend.head().await;
    assert_eq!(head.all("x-forwarded-for"), Vec::<&str>::new());
    assert_eq!(head.all("x-forwarded-proto"), ["http"]);
    assert_eq!(head.all("x-forwarded-port"), ["8443"]);
}

#[tokio::test]
async fn live_socket_or_another_file_in_the_way_stops_the_start() {
    let (_folder, path) = place();
    let live = UnixListener::bind(&path).unwrap();
    let error = on(&path).try_run().await.err().unwrap().to_string();
    assert!(error.contains("another program listens on this address"), "{error}");
    drop(live);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "notes").unwrap();
    let error = on(&path).try_run().await.err().unwrap().to_string();
    assert!(error.contains("something other than a socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
    let missing = path.with_file_name("missing").join("public.sock");
    let error = on(&missing).try_run().await.err().unwrap().to_string();
    assert!(error.contains("create the directory first"), "{error}");
}

#[tokio::test]
async fn dead_socket_of_an_earlier_process_is_replaced() {
    let (_folder, path) = place();
    drop(UnixListener::bind(&path).unwrap());
    let (sidegate, _backend) = echoing(&path).await;
    client::unix(&sidegate, &path).open("/chat").await.expect_echo("back").await;
}

#[tokio::test]
async fn change_of_mode_replaces_the_file_and_keeps_tunnels() {
    let (folder, path) = place();
    let (sidegate, _backend) = echoing(&path).await;
    let mut tunnel = client::unix(&sidegate, &path).open("/chat").await;
    let before = inode(&path);
    relisten(&sidegate, "max_fields", 50).await;
    assert_eq!(inode(&path), before, "another key does not bind again");
    relisten(&sidegate, "mode", "0622").await;
    assert_eq!(mode(&path), 0o622);
    client::unix(&sidegate, &path).open("/chat").await.expect_echo("new").await;
    tunnel.expect_echo("old").await;
    // Once the old socket's queue is given up, the new file is still there, and no other.
    let closed = [("listener", "public")];
    sidegate.expect_metric("sidegate_connections_accepted_total", closed, 2).await;
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn listener_moves_to_another_path_and_removes_its_file() {
    let (_folder, path) = place();
    let (sidegate, _backend) = echoing(&path).await;
    let next = path.with_file_name("next.sock");
    relisten(&sidegate, "listen", format!("unix:{}", next.display())).await;
    client::unix(&sidegate, &next).open("/chat").await.expect_echo("moved").await;
    within("the end of the old file", async {
        while path.exists() {
            sleep(BETWEEN).await;
        }
    })
    .await;
    // And on to TCP.
    relisten(&sidegate, "listen", "127.0.0.1:0").await;
    client::new(&sidegate).open("/chat").await.expect_echo("tcp").await;
}

/// Listeners `a` and `b` on two paths, with these modes.
async fn pair(folder: &Path, modes: [&str; 2]) -> (Sidegate, Backend, [PathBuf; 2]) {
    let paths = ["a.sock", "b.sock"].map(|name| folder.join(name));
    let listener = |name: &str, path: &Path, mode: &str| {
        let path = path.display();
        format!("name = '{name}'\nlisten = 'unix:{path}'\nmode = '{mode}'\ntls = false")
    };
    let second = format!("[[listener]]\n{}", listener("b", &paths[1], modes[1]));
    let backend = backend::echo().run().await;
    let builder = sidegate::new().clear().on_listener(&listener("a", &paths[0], modes[0]));
    (builder.toml(&second).route("/chat", &backend).run().await, backend, paths)
}

/// That connections to `path` are those of the listener `name`, whose file has this mode.
async fn expect_owner(sidegate: &Sidegate, path: &Path, name: &str, wanted: u32) {
    let accepted = ("sidegate_connections_accepted_total", [("listener", name)]);
    let before = sidegate.metric(accepted.0, accepted.1).await as u32;
    client::unix(sidegate, path).open("/chat").await.expect_echo("here").await;
    sidegate.expect_metric(accepted.0, accepted.1, before + 1).await;
    assert_eq!(mode(path), wanted, "{}", path.display());
}

/// The number of files of a folder comes to this one: no temporary name is left.
async fn expect_files(folder: &Path, count: usize) {
    within("the end of the old files", async {
        while fs::read_dir(folder).unwrap().count() != count {
            sleep(BETWEEN).await;
        }
    })
    .await;
}

#[tokio::test]
async fn listeners_swap_their_paths_in_one_reload() {
    for modes in [["0660", "0660"], ["0600", "0666"]] {
        let folder = tempfile::tempdir().unwrap();
        let (sidegate, _backend, [a, b]) = pair(folder.path(), modes).await;
        let [of_a, of_b] = modes.map(|mode| u32::from_str_radix(mode, 8).unwrap());
        expect_owner(&sidegate, &a, "a", of_a).await;
        let mut tunnel = client::unix(&sidegate, &a).open("/chat").await;
        for swapped in [true, false] {
            sidegate
                .reconfigure(|config| {
                    let first = config["listener"][0]["listen"].clone();
                    config["listener"][0]["listen"] = config["listener"][1]["listen"].clone();
                    config["listener"][1]["listen"] = first;
                })
                .await;
            let (first, second) = if swapped { (&b, &a) } else { (&a, &b) };
            expect_owner(&sidegate, first, "a", of_a).await;
            expect_owner(&sidegate, second, "b", of_b).await;
        }
        tunnel.expect_echo("through both").await;
        expect_files(folder.path(), 2).await;
    }
}

#[tokio::test]
async fn listener_moves_to_the_path_of_one_that_goes() {
    for modes in [["0660", "0660"], ["0600", "0666"]] {
        let folder = tempfile::tempdir().unwrap();
        let (sidegate, _backend, [a, b]) = pair(folder.path(), modes).await;
        let of_a = u32::from_str_radix(modes[0], 8).unwrap();
        let mut tunnel = client::unix(&sidegate, &b).open("/chat").await;
        sidegate
            .reconfigure(|config| {
                let gone = config["listener"].as_array_mut().unwrap().remove(1);
                config["listener"][0]["listen"] = gone["listen"].clone();
            })
            .await;
        expect_owner(&sidegate, &b, "a", of_a).await;
        tunnel.expect_echo("of the listener that is gone").await;
        expect_files(folder.path(), 1).await;
        assert!(!a.exists());
        // And a listener comes to the path that was left just now.
        let listen = format!("unix:{}", a.display());
        relisten(&sidegate, "listen", listen).await;
        expect_owner(&sidegate, &a, "a", of_a).await;
        expect_files(folder.path(), 1).await;
    }
}

#[tokio::test]
async fn path_that_cannot_be_bound_rejects_the_reload() {
    let (_folder, path) = place();
    let (sidegate, _backend) = echoing(&path).await;
    let taken = path.with_file_name("taken.sock");
    let _live = UnixListener::bind(&taken).unwrap();
    let mut config = sidegate.toml();
    let listen = format!("unix:{}", taken.display());
    config["listener"].as_array_mut().unwrap()[0]["listen"] = listen.into();
    let text = toml::to_string(&config).unwrap();
    let said = sidegate.write_rejected("sidegate.toml", &text).await;
    assert!(said.contains("taken.sock"), "{said}");
    client::unix(&sidegate, &path).open("/chat").await.expect_echo("as before").await;
}

#[tokio::test]
async fn unix_socket_of_systemd_is_served_and_kept() {
    let (_folder, path) = place();
    let backend = backend::echo().run().await;
    let builder = sidegate::new().clear().on_listener("listen = 'systemd:public'").threads(2);
    let builder = builder.passed("public", UnixListener::bind(&path).unwrap());
    let sidegate = builder.route("/chat", &backend).run().await;
    for _ in 0..3 {
        client::unix(&sidegate, &path).open("/chat").await.expect_echo("passed").await;
    }
    drop(sidegate);
    assert!(path.exists(), "a passed socket is never unlinked");
}

/// The pattern of the user that the tests run as, and that of another one.
fn users() -> (String, String) {
    let own = rustix::process::geteuid().as_raw();
    (format!("unix:uid={own}"), format!("unix:uid={}", own + 1))
}

/// Asserts what a policy with this `allow` answers to the user that the tests run as.
async fn check_allow(allow: &str, status: u16) {
    let (_folder, path) = place();
    let backend = backend::echo().run().await;
    let sidegate = on(&path).allow(allow).route("/chat", &backend).run().await;
    let answer = client::unix(&sidegate, &path).attempt("/chat").await;
    assert_eq!(answer.head.status(), status, "{allow}");
}

#[tokio::test]
async fn user_is_admitted_by_its_id_its_group_or_as_anyone() {
    let group = rustix::process::getegid().as_raw();
    for allow in ["unix", &users().0, &format!("unix:gid={group}"), "any"] {
        check_allow(allow, 101).await;
    }
}

#[tokio::test]
async fn user_of_another_id_is_refused() {
    for allow in [&*users().1, "0.0.0.0/0", "::/0", "unix:gid=4294967294"] {
        check_allow(allow, 403).await;
    }
}

#[tokio::test]
async fn denied_user_is_refused_before_tls() {
    let (_folder, path) = place();
    let (own, _) = users();
    let baseline = format!("schema = 1\nclient.deny = ['{own}']\n");
    let listen = format!("listen = 'unix:{}'", path.display());
    let sidegate = sidegate::new().on_listener(&listen);
    let sidegate = sidegate.file("policies/baseline.toml", &baseline).run().await;
    assert!(client::unix(&sidegate, &path).try_connect().await.is_err());
    sidegate.expect_metric("sidegate_refusals_total", [("reason", "network")], 1).await;
}

#[tokio::test]
async fn tunnel_of_a_user_closes_when_the_policy_drops_it() {
    let (_folder, path) = place();
    let (own, other) = users();
    let backend = backend::echo().run().await;
    let sidegate = on(&path).allow(&own).route("/chat", &backend).run().await;
    let mut tunnel = client::unix(&sidegate, &path).open("/chat").await;
    sidegate
        .write("policies/default.toml", &format!("schema = 1\nclient.allow = ['{other}']\n"))
        .await;
    tunnel.expect_close_with(1008, "network").await;
}

#[tokio::test]
async fn limits_count_a_user_as_one_client() {
    let (_folder, path) = place();
    let (own, _) = users();
    let backend = backend::echo().run().await;
    let limits = format!(
        "connections = {{ per_client = 1 }}\n\
         for = [{{ client = ['{own}'], connections = {{ per_client = 2 }} }}]"
    );
    let sidegate = on(&path).limits(&limits).route("/chat", &backend).run().await;
    let client = client::unix(&sidegate, &path);
    let _open = (client.open("/chat").await, client.open("/chat").await);
    client.attempt("/chat").await.expect_refused(429, "connections");
}

#[tokio::test]
async fn explanation_and_tests_name_users() {
    let (_folder, path) = place();
    let (own, other) = users();
    let test = format!(
        "test = [{{ name = 'a', client = '{other},gid=7', \
         url = 'ws://a.example/chat', expect = 'allow' }}]"
    );
    let policy =
        |page: sidegate::Page| page.allow(&own).allow("unix:gid=7 ticket=SEC-7").toml(&test);
    let backend = backend::echo().run().await;
    let sidegate = on(&path).policy(policy).route("/chat", &backend).run().await;
    let mut tunnel = client::unix(&sidegate, &path).open("/chat").await;
    // The tunnel enters the table behind its 101.
    tunnel.expect_echo("here").await;
    for (client, matching) in [(&*own, 1), (&*other, 0), ("unix", 1), ("::/0", 0)] {
        let request = TunnelsRequest::parse(&format!("client={client}")).unwrap();
        assert_eq!(sidegate.answer_to(&request).await.matching, matching, "{client}");
    }
    let asked = format!("client={other},gid=1,gid=7&url=ws://a.example/chat");
    let answer = sidegate.answer_to(&ExplainRequest::parse(&asked).unwrap()).await;
    assert!(answer.permitted && answer.text.contains("unix:gid=7"), "{}", answer.text);
    assert!(answer.text.contains("SEC-7"), "{}", answer.text);
}
