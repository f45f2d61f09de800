//! Files whose opening or reading blocks: they reject a reload, and hold up nothing.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ::sidegate::control::reload::ReloadOutcome;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

use crate::harness::sidegate::Sidegate;
use crate::harness::{backend, client, sidegate, within};

const LIST: &str = "policies/lists/banned.cidr";

async fn banning() -> (Sidegate, backend::Backend) {
    let backend = backend::echo().run().await;
    let builder = sidegate::new()
        .route("/chat", &backend)
        .policy(|page| page.list_file("banned").deny("banned"));
    (builder.file(LIST, "127.0.0.9\n").run().await, backend)
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[tokio::test]
async fn a_fifo_in_the_place_of_any_file_rejects_the_reload() {
    let (sidegate, _backend) = banning().await;
    for file in ["sidegate.toml", "policies/default.toml", LIST, "certs/0.pem", "certs/0.key"] {
        let (path, aside) = (sidegate.folder().join(file), sidegate.folder().join("aside"));
        fs::rename(&path, &aside).unwrap();
        fifo(&path);
        assert!(matches!(sidegate.reload().await, ReloadOutcome::Rejected { .. }), "{file}");
        fs::rename(&aside, &path).unwrap();
        assert!(matches!(sidegate.reload().await, ReloadOutcome::Unchanged { .. }), "{file}");
    }
    client::new(&sidegate).open("/chat").await.expect_echo("all the while").await;
}

#[tokio::test]
async fn a_device_in_the_place_of_a_list_rejects_the_reload() {
    let (sidegate, _backend) = banning().await;
    let path = sidegate.folder().join(LIST);
    for target in ["/dev/zero", "/dev/tty", "/proc/kmsg", "/dev", "/dev/stdin"] {
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(target, &path).unwrap();
        assert!(matches!(sidegate.reload().await, ReloadOutcome::Rejected { .. }), "{target}");
    }
    sidegate.put(LIST, "127.0.0.9\n");
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Unchanged { .. }));
}

/// Exchanges `one` and `other` until told to stop, and leaves them as they were.
fn exchange(one: &Path, other: &Path, stop: &AtomicBool) {
    let mut turns = 0_u64;
    while !stop.load(Ordering::Relaxed) || turns % 2 == 1 {
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
        turns += 1;
    }
}

#[tokio::test]
async fn a_fifo_swapped_in_during_a_read_holds_up_no_reload() {
    let (sidegate, _backend) = banning().await;
    let (list, other) = (sidegate.folder().join(LIST), sidegate.folder().join("fifo"));
    fifo(&other);
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let ends = std::sync::Arc::clone(&stop);
    let swaps = thread::spawn(move || exchange(&list, &other, &ends));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        let _either = sidegate.reload().await;
    }
    stop.store(true, Ordering::Relaxed);
    swaps.join().unwrap();
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Unchanged { .. }));
}

#[tokio::test]
async fn a_list_that_was_a_folder_is_in_force_soon_after() {
    let (sidegate, _backend) = banning().await;
    let path = sidegate.folder().join(LIST);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    sidegate.expect_metric("sidegate_reloads_total", [("outcome", "rejected")], 1).await;
    fs::remove_dir(&path).unwrap();
    sidegate.put(LIST, "127.0.0.2\n");
    let (client, began) = (client::new(&sidegate).from("127.0.0.2"), Instant::now());
    within("a refusal", async { while client.attempt("/chat").await.status() != 403 {} }).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
