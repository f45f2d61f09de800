//! Backends of a list that come and go: which is tried when, and what logs and metrics say.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::backend::{self, Backend};
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::{certificate, client, process, within};

/// Interval between two looks at a state that has no event.
const BETWEEN: Duration = Duration::from_millis(5);

/// Pause after a backend is found down: the first, and the next.
const FIRST: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(2);

const UP: &str = "sidegate_backend_up";
const CHANGES: &str = "sidegate_backend_changes_total";

/// Opens one tunnel after the other until `enough`; each has to carry.
async fn open_until(sidegate: &Sidegate, enough: impl Fn() -> bool) {
    let opening = async {
        while !enough() {
            client::new(sidegate).open("/chat").await.expect_echo("through").await;
            sleep(BETWEEN).await;
        }
    };
    within("enough tunnels", opening).await;
}

#[tokio::test]
async fn down_backend_is_dialled_after_a_doubling_pause() {
    // Counts its connections and fails each time, since it doesn't speak TLS.
    let failing = backend::raw(|wire| async move { drop(wire) }).run().await;
    let up = backend::echo().run().await;
    let address = failing.address().replace("http://", "https://");
    let list = format!(
        "backend = ['{address}', '{}']\nbackend_tls = {{ ca = 'certs/ca.pem' }}",
        up.address()
    );
    let sidegate = sidegate::new()
        .route("/chat", &up)
        .on_route(&list)
        .file("certs/ca.pem", certificate::authority_pem())
        .run()
        .await;
    let began = Instant::now();
    for (dials, least) in [(1, Duration::ZERO), (2, FIRST), (3, FIRST + SECOND)] {
        open_until(&sidegate, || failing.connections() == dials).await;
        assert!(began.elapsed() >= least, "{dials} dials within {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn recovered_backend_gets_the_first_request_after_its_pause() {
    let (refusing, other) = (backend::refusing(), backend::echo().run().await);
    let sidegate = sidegate::new().route_to("/chat", &[&refusing, &other]).run().await;
    let began = Instant::now();
    open_until(&sidegate, || other.connections() == 1).await;
    let marked = Instant::now();
    let back = backend::echo().instead_of(&refusing).run().await;
    let mut late = 0;
    while back.connections() == 0 {
        late += usize::from(marked.elapsed() > FIRST);
        client::new(&sidegate).open("/chat").await.expect_echo("through").await;
        sleep(BETWEEN).await;
    }
    assert!(began.elapsed() >= FIRST, "it was dialled after {:?}", began.elapsed());
    assert!(late <= 1, "{late} requests came after its pause until it got one");
    sidegate.expect_metric(UP, [("backend", refusing.address())], 1).await;
}

#[tokio::test]
async fn every_request_tries_all_backends_when_all_are_down() {
    let (one, two) = (backend::refusing(), backend::refusing());
    let sidegate = sidegate::new().route_to("/chat", &[&one, &two]).run().await;
    for _ in 0..3 {
        client::new(&sidegate).attempt("/chat").await.expect_refused(502, "backend");
    }
    let _back = backend::echo().instead_of(&two).run().await;
    client::new(&sidegate).open("/chat").await.expect_echo("at once").await;
}

/// Makes these the backends of the first route.
async fn lead_to(sidegate: &Sidegate, backends: &[&Backend]) {
    let backends: Vec<_> =
        backends.iter().map(|backend| toml::Value::from(backend.address())).collect();
    sidegate.reconfigure(|config| config["route"][0]["backend"] = backends.into()).await;
}

#[tokio::test]
async fn removed_backend_keeps_tunnels_and_gets_no_new_ones() {
    let (leaves, stays) = (backend::echo().run().await, backend::echo().run().await);
    let sidegate = sidegate::new().route_to("/chat", &[&leaves, &stays]).run().await;
    let mut early =
        [client::new(&sidegate).open("/chat").await, client::new(&sidegate).open("/chat").await];
    assert_eq!((leaves.connections(), stays.connections()), (1, 1));
    lead_to(&sidegate, &[&stays]).await;
    for _ in 0..3 {
        client::new(&sidegate).open("/chat").await.expect_echo("to the other").await;
    }
    assert_eq!((leaves.connections(), stays.connections()), (1, 4));
    for tunnel in &mut early {
        tunnel.expect_echo("I live on").await;
    }
    assert!(!sidegate.metrics().await.contains(leaves.address()));
    sidegate.expect_metric("sidegate_tunnels_closed_total", [("reason", "revoked")], 0).await;
}

#[tokio::test]
async fn backend_that_is_added_again_starts_as_up() {
    let (gone, stays) = (backend::refusing(), backend::echo().run().await);
    let sidegate = sidegate::new().route_to("/chat", &[&gone, &stays]).run().await;
    let own = [("backend", gone.address())];
    open_until(&sidegate, || stays.connections() == 1).await;
    sidegate.expect_metric(CHANGES, own, 1).await;
    let forgotten = async {
        while sidegate.metric(CHANGES, own).await > 0.0 {
            // Backends are tidied once a second: the files without it may have run too briefly, so
            // repeat.
            let with = std::fs::read_to_string(sidegate.config()).unwrap();
            let without = with.replace(&format!("\"{}\", ", gone.address()), "");
            assert_ne!(with, without);
            sidegate.put("sidegate.toml", without);
            sidegate.reload().await;
            sidegate.write("sidegate.toml", &with).await;
        }
    };
    within("its end", forgotten).await;
    sidegate.expect_metric(UP, own, 1).await;
}

#[tokio::test]
async fn backend_down_and_up_are_each_logged_once() {
    let refusing = backend::refusing();
    let folder = sidegate::new().clear().route("/chat", &refusing).write();
    let process = process::new(folder.path()).run().await;
    for _ in 0..3 {
        process.client().attempt("/chat").await.expect_refused(502, "backend");
    }
    let _back = backend::echo().instead_of(&refusing).run().await;
    process.client().open("/chat").await.expect_echo("back").await;
    let lines = process.ended_json().await;
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line["message"].as_str().unwrap().starts_with("the backend is"))
        .collect();
    let [down, up] = told[..] else { panic!("{told:?}") };
    assert_eq!(
        (&down["level"], &down["message"], &down["route"]),
        (&"WARN".into(), &"the backend is down".into(), &"chat".into())
    );
    assert_eq!(
        (&down["backend"], &up["backend"]),
        (&refusing.address().into(), &refusing.address().into())
    );
    assert!(down["error"].as_str().unwrap().contains("refused"), "{down}");
    assert_eq!((&up["level"], &up["message"]), (&"INFO".into(), &"the backend is up again".into()));
}
