//! `sidegate lapsing` and `GET /v1/lapsing`: the entries that lapse soon.

use ::sidegate::admin::wire::LapsingRequest;
use jiff::{SignedDuration, Timestamp};

use crate::cli::done;
use crate::harness::wire::lossy;
use crate::harness::{backend, sidegate};

/// An instant so many hours ahead, as an annotation.
fn expires(hours: i64) -> String {
    format!("expires={}", (Timestamp::now() + SignedDuration::from_hours(hours)).strftime("%FT%TZ"))
}

#[tokio::test]
async fn entries_that_lapse_are_shown_with_their_place() {
    let (soon, later) = (expires(48), expires(24 * 40));
    let lines = format!(
        "10.0.0.0/8\n!10.0.0.7 {soon} owner=acme ticket=NET-7\n10.1.0.0/16 {later}\n\
         10.2.0.0/16 expires=2001-01-01\n"
    );
    let sidegate = sidegate::new()
        .clear()
        .policy(|page| page.list_file("partners").allow("partners"))
        .file("policies/lists/partners.cidr", &lines)
        .route("/chat", &backend::refusing())
        .run()
        .await;
    let answer = sidegate.answer_to(&LapsingRequest::default()).await;
    let found = &answer.entries[0];
    assert_eq!((answer.lapsing, &*found.entry, &*found.list), (1, "!10.0.0.7", "partners"));
    assert_eq!((found.owner.as_deref(), found.ticket.as_deref()), (Some("acme"), Some("NET-7")));
    for more in [&["--live"][..], &[]] {
        let asked = ["lapsing", "--config", "sidegate.toml", "--within", "60d"];
        let output = done(&[&asked[..], more].concat(), sidegate.folder()).await;
        let text = lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", lossy(&output.stderr));
        assert!(text.starts_with("2 entries lapse until 20"), "{text}");
        assert!(
            text.contains("policies/lists/partners.cidr:2") && text.contains("NET-7"),
            "{text}"
        );
        let [first, second] = ["!10.0.0.7", "10.1.0.0/16"].map(|entry| text.find(entry).unwrap());
        assert!(first < second, "the earliest is first");
    }
    let asked = ["lapsing", "--config", "sidegate.toml", "--within", "1h"];
    let text = lossy(&done(&asked, sidegate.folder()).await.stdout).to_string();
    assert!(text.starts_with("no entry lapses until"), "{text}");
}

#[tokio::test]
async fn lapsing_needs_files_without_errors_or_an_agent() {
    let folder = sidegate::new().clear().route("/chat", &backend::refusing()).write();
    for (more, code) in [("--live", 1), ("--json", 0)] {
        let asked = ["lapsing", "--config", "sidegate.toml", more];
        assert_eq!(done(&asked, folder.path()).await.status.code(), Some(code), "{more}");
    }
    std::fs::write(folder.path().join("sidegate.toml"), "schema = 7\n").unwrap();
    let asked = ["lapsing", "--config", "sidegate.toml"];
    assert_eq!(done(&asked, folder.path()).await.status.code(), Some(78));
}
