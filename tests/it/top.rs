//! `sidegate top` in a pipe and as JSON. Whole screens are tests of `cli/top`.

use ::sidegate::admin::wire::OverviewAnswer;

use crate::cli::done;
use crate::harness::wire::lossy;
use crate::harness::{backend, client, sidegate};

#[tokio::test]
async fn top_prints_one_plain_screen_in_a_pipe() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().route("/chat", &backend).run().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    tunnel.expect_echo("hello").await;
    let hostile = client::new(&sidegate).host("evil\u{1b}[2J.example");
    hostile.attempt("/chat").await;
    client::new(&sidegate).attempt("/other").await.expect_refused(404, "route");
    for more in [&["--once"][..], &[]] {
        let asked = [&["top", "--config", "sidegate.toml"][..], more].concat();
        let output = done(&asked, sidegate.folder()).await;
        let text = lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", lossy(&output.stderr));
        assert!(
            text.starts_with(concat!("sidegate ", env!("CARGO_PKG_VERSION"), " on ")),
            "{text}"
        );
        assert!(!text.contains('\u{1b}') && text.contains("1 tunnel of 1 client"), "{text}");
        for part in ["ROUTES", "CLIENTS", "127.0.0.1", "route", "BANS", "no ban in force"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }
}

#[tokio::test]
async fn top_prints_the_overview_as_json() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().route("/chat", &backend).run().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    tunnel.expect_echo("hello").await;
    let asked = ["top", "--config", "sidegate.toml", "--json", "--rows", "1"];
    let output = done(&asked, sidegate.folder()).await;
    let answer: OverviewAnswer = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((answer.tunnels, answer.most_tunnels.len(), answer.generation), (1, 1, 1));
}

#[tokio::test]
async fn top_needs_an_agent_and_valid_arguments() {
    let folder = sidegate::new().clear().route("/chat", &backend::refusing()).write();
    for (more, code) in [
        (&["--once"][..], 1),
        (&["--json"], 1),
        (&[], 1),
        (&["--rows", "0"], 2),
        (&["--interval", "0s"], 2),
    ] {
        let asked = [&["top", "--config", "sidegate.toml"][..], more].concat();
        let output = done(&asked, folder.path()).await;
        assert_eq!(output.status.code(), Some(code), "{more:?}");
        assert!(output.stdout.is_empty(), "{more:?}");
    }
}
