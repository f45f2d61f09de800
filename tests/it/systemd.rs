//! Messages to systemd: readiness, status, the watchdog, the end. A manager that is gone harms no
//! service.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate;
use crate::harness::unit;

/// The files of an agent in the clear on a socket called `public`, before an echo.
async fn files(shutdown: &str) -> (TempDir, Backend) {
    let backend = backend::echo().run().await;
    let shutdown = format!("[shutdown]\n{shutdown}");
    let sidegate = sidegate::new()
        .clear()
        .route("/chat", &backend)
        .on_listener("listen = 'systemd:public'")
        .toml(&shutdown);
    (sidegate.write(), backend)
}

/// Replaces its policy by an invalid one, in which `allow` is misspelt.
fn break_policy(folder: &Path) {
    std::fs::write(folder.join("policies/default.toml"), "schema = 1\n[client]\nalow = ['any']\n")
        .unwrap();
}

// C-LIFE-04
#[tokio::test]
async fn systemd_gets_readiness_status_and_stop() {
    let (folder, _backend) = files("deadline = '20s'").await;
    let (socket, address) = unit::socket();
    let unit = unit::of(folder.path()).passed("public", socket).start();
    unit.expect_told(&["READY=1\n", "STATUS=generation 1 (", " UTC, 0 tunnels on 1 route\n"]).await;
    let mut tunnel = client::clear(address).open("/chat").await;
    unit.expect_told(&["STATUS=generation 1 (", "1 tunnel on 1 route\n"]).await;
    break_policy(folder.path());
    unit.expect_told(&[
        "1 tunnel on 1 route; last reload rejected: ",
        "policies/default.toml:3:1 unknown key `alow`",
    ])
    .await;
    unit.signal(Signal::TERM);
    unit.expect_told(&[
        "STOPPING=1\n",
        "STATUS=draining: ",
        " left, cut in ",
        "EXTEND_TIMEOUT_USEC=",
    ])
    .await;
    tunnel.expect_close(1001).await;
    drop(tunnel);
    assert_eq!(unit.ended().await.0.code(), Some(0));
}

// C-LIFE-04
#[tokio::test]
async fn the_watchdog_is_fed_at_least_twice_an_interval() {
    const INTERVAL: Duration = Duration::from_secs(3);
    let (folder, _backend) = files("").await;
    let unit =
        unit::of(folder.path()).passed("public", unit::socket().0).watchdog(INTERVAL).start();
    unit.expect_told(&["READY=1\n", "WATCHDOG=1\n"]).await;
    let mut last = Instant::now();
    for _ in 0..4 {
        unit.expect_told(&["WATCHDOG=1\n"]).await;
        assert!(last.elapsed() <= INTERVAL / 2, "{:?}", last.elapsed());
        last = Instant::now();
    }
}

// F27
#[tokio::test]
async fn stopped_process_continues_without_stalled_loops() {
    const INTERVAL: Duration = Duration::from_millis(800);
    let (folder, _backend) = files("").await;
    let (socket, address) = unit::socket();
    let unit = unit::of(folder.path()).passed("public", socket).watchdog(INTERVAL).run().await;
    let mut tunnel = client::clear(address).open("/chat").await;
    unit.signal(Signal::STOP);
    // Longer than any loop may be silent.
    tokio::time::sleep(INTERVAL * 2).await;
    unit.signal(Signal::CONT);
    tunnel.expect_echo("still here").await;
    for _ in 0..4 {
        unit.expect_told(&["WATCHDOG=1\n"]).await;
    }
    drop(tunnel);
    unit.signal(Signal::TERM);
    let (ended, log) = unit.ended().await;
    assert!(ended.code() == Some(0) && !log.contains("stopped turning"), "{ended} {log}");
}

#[tokio::test]
async fn absent_or_stuck_service_manager_is_harmless() {
    for gone in [true, false] {
        let (folder, _backend) = files("").await;
        let (socket, address) = unit::socket();
        let unit = unit::of(folder.path())
            .passed("public", socket)
            .watchdog(Duration::from_millis(80))
            .run()
            .await;
        if gone {
            std::fs::remove_file(unit.notify()).unwrap();
        } else {
            let other = std::os::unix::net::UnixDatagram::unbound().unwrap();
            other.set_nonblocking(true).unwrap();
            while other.send_to(b"FULL=1", unit.notify()).is_ok() {}
        }
        let mut tunnel = client::clear(address).open("/chat").await;
        tunnel.expect_echo("as ever").await;
        unit.signal(Signal::TERM);
        tunnel.expect_close(1001).await;
        drop(tunnel);
        assert_eq!(unit.ended().await.0.code(), Some(0), "gone: {gone}");
    }
}

#[tokio::test]
async fn systemd_status_mentions_polling() {
    let (folder, _backend) = files("").await;
    let unit = unit::of(folder.path()).passed("public", unit::socket().0).run().await;
    std::fs::remove_dir_all(folder.path().join("policies")).unwrap();
    unit.expect_told(&[
        "STATUS=",
        "; files are polled every 2s instead of being watched: ",
        "policies is gone",
    ])
    .await;
}
