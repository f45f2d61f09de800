//! `sidegate explain` and `POST /v1/explain`: their answers agree with the agent's decisions and
//! give the reason.

use std::net::{IpAddr, Ipv4Addr};

use ::sidegate::admin::wire::{
    DeliveryForm, ExplainAnswer, ExplainRequest, ReloadAnswer, ReloadRequest, RuleName,
};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::cli::{check, done, run};
use crate::harness::wire::lossy;
use crate::harness::{backend, certificate, client, process, sidegate};

const POLICY: &str = r#"schema = 1

[lists]
partners = { file = "lists/partners.cidr" }
banned   = ["127.0.0.99"]

[client]
allow = ["partners", "127.0.1.0/24"]
deny  = ["banned"]
origins = ["https://*.partner.example", "none"]

[limits]
upgrades    = { rate = "1/m", burst = 3 }
connections = { total = 9 }

[[limits.for]]
client      = ["127.0.1.0/24"]
connections = { per_client = 2 }
"#;

const PARTNERS: &str =
    "127.0.0.0/24 owner=acme\n!127.0.0.66 ticket=SEC-2190\n127.0.2.7 expires=2026-12-31\n";

fn files() -> sidegate::Builder {
    let base = sidegate::new().clear().file("policies/default.toml", POLICY);
    base.file("policies/lists/partners.cidr", PARTNERS).toml("reload.watch = 'off'")
}

/// `sidegate explain` of `client` on the route of these files says so, and ends with this code.
async fn explained(more: &[&str], client: &str, code: i32, said: &[&str]) {
    let folder = files().route("/chat", &backend::echo().run().await).write();
    let asked = [
        "explain",
        "--config",
        "sidegate.toml",
        "--client",
        client,
        "--url",
        "ws://localhost/chat",
    ];
    let output = done(&[&asked, more].concat(), folder.path()).await;
    let text = lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{text}{}", lossy(&output.stderr));
    for part in said {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[tokio::test]
async fn explain_shows_a_carve_out_with_annotations() {
    let carved =
        "`partners`: carved out by !127.0.0.66 (policies/lists/partners.cidr:2, ticket SEC-2190)";
    let would = "would match 127.0.0.0/24 (policies/lists/partners.cidr:1, owner acme)";
    let verdict = "REFUSE 403 network   policy default (policies/default.toml:8)";
    explained(
        &[],
        "127.0.0.66",
        1,
        &[verdict, "the socket's peer", carved, would, "not in `banned` (1 entry)"],
    )
    .await;
}

#[tokio::test]
async fn explain_shows_the_admitting_entry_and_the_limits() {
    let by = "in `partners`: 127.0.0.0/24 (policies/lists/partners.cidr:1, owner acme)";
    let limits = [
        "upgrades 1/m, burst 3 (policies/default.toml:13)",
        "total 9 tunnels in all (policies/default.toml:14)",
    ];
    explained(
        &[],
        "127.0.0.1",
        0,
        &["ALLOW   policy default (policies/default.toml:8)", by, limits[0], limits[1]],
    )
    .await;
    let exception = "per_client 2 tunnels of one client (an exception, policies/default.toml:17)";
    explained(
        &[],
        "127.0.1.1",
        0,
        &["in the rule itself: 127.0.1.0/24 (policies/default.toml:8)", exception],
    )
    .await;
}

#[tokio::test]
async fn explain_shows_denial_and_origin_separately() {
    let page = ["--origin", "https://evil.example"];
    let origin = "https://evil.example: not among \"https://*.partner.example\", \"none\"";
    let denied = "in `banned`: 127.0.0.99 (policies/default.toml:5)";
    explained(
        &page,
        "127.0.0.99",
        1,
        &["REFUSE 403 network   policy default (policies/default.toml:9)", denied, origin],
    )
    .await;
    explained(
        &page,
        "127.0.0.1",
        1,
        &["REFUSE 403 origin   policy default (policies/default.toml:10)", origin],
    )
    .await;
}

#[tokio::test]
async fn explain_judges_at_the_time_of_at() {
    let lapsed =
        "`partners`: 127.0.2.7 (policies/lists/partners.cidr:3, expires 2026-12-31) has lapsed";
    explained(
        &["--at", "2026-12-31T23:59:59Z"],
        "127.0.2.7",
        0,
        &["ALLOW", "2026-12-31T23:59:59Z"],
    )
    .await;
    explained(&["--at", "2027-01-01"], "127.0.2.7", 1, &["REFUSE 403 network", lapsed]).await;
}

#[tokio::test]
async fn explain_shows_missing_routes_and_gate_refusals() {
    let folder = files().route("/chat", &backend::echo().run().await).write();
    let asked = |url: &'static str| {
        ["explain", "--config", "sidegate.toml", "--client", "::1", "--url", url]
    };
    for (url, said) in
        [("ws://localhost/x", "REFUSE 404 route"), ("ws://localhost/a%2fb", "REFUSE 400 path")]
    {
        let output = done(&asked(url), folder.path()).await;
        assert!(
            lossy(&output.stdout).starts_with(said) && output.status.code() == Some(1),
            "{output:?}"
        );
    }
    check(&asked("localhost"), folder.path(), 2, &["`localhost`: not a URL"]).await;
}

#[tokio::test]
async fn explain_refuses_plain_http_as_the_listener_does() {
    let backend = backend::echo().run().await;
    let forwarding = files().route("/chat", &backend).on_route("http = 'forward'");
    for (files, code, said) in [
        (files().route("/chat", &backend), 1, "REFUSE 426 plain   policy default\n"),
        (forwarding, 0, "ALLOW"),
    ] {
        let agent = files.run().await;
        let asked = [
            "explain",
            "--config",
            ".",
            "--client",
            "127.0.0.1",
            "--url",
            "https://localhost/chat",
        ];
        for more in [&[][..], &["--live"]] {
            let output = done(&[&asked[..], more].concat(), agent.folder()).await;
            let text = lossy(&output.stdout);
            assert!(text.starts_with(said) && output.status.code() == Some(code), "{text}");
        }
        let answer = client::new(&agent).get("/chat").await;
        assert_eq!(answer.status() == 426, code == 1, "the listener agrees");
    }
}

#[tokio::test]
async fn explain_ends_with_78_when_files_have_errors() {
    let broken = files().file("policies/default.toml", "schema = 1\nclient.alow = ['any']\n");
    let asked =
        |config| ["explain", "--config", config, "--client", "::1", "--url", "ws://localhost/chat"];
    let folder = broken.write();
    check(&asked("sidegate.toml"), folder.path(), 78, &["policies/default.toml:2"]).await;
    check(&asked("none.toml"), folder.path(), 78, &["none.toml"]).await;
    check(&asked("policies"), folder.path(), 78, &["policies/sidegate.toml"]).await;
    // The agent's own answer does not depend on the files.
    let live = [&asked("sidegate.toml")[..], &["--live"]].concat();
    check(&live, folder.path(), 1, &["no agent answers"]).await;
}

#[tokio::test]
async fn explain_judges_as_is_paths_as_sent() {
    let files = files().route("/api/", &backend::echo().run().await).on_route("paths = 'as-is'");
    let folder = files.write();
    for (path, said) in [
        ("/api/x%2F//y?{\"a\":\"<é>\"}", "route       api, for localhost/api/x%2F//y (upgrade)"),
        ("/api/../x", "path        a dot segment, on a route with paths = \"as-is\""),
        (
            "/x%2Fy",
            "path        an escaped `/`, `#` or `?`, which only a route with paths = \"as-is\" passes",
        ),
    ] {
        let url = format!("ws://localhost{path}");
        let asked =
            ["explain", "--config", "sidegate.toml", "--client", "127.0.0.1", "--url", &url];
        let text = lossy(&done(&asked, folder.path()).await.stdout);
        assert!(text.contains(said), "{path}: {text}");
    }
}

#[tokio::test]
async fn explain_shows_the_reading_of_an_ambiguous_path() {
    let backend = backend::echo().run().await;
    let files = files()
        .route("/", &backend)
        .route("/admin/", &backend)
        .under("shut", |page| page.allow("192.0.2.1"));
    let folder = files.write();
    for (path, reading) in [
        ("/admin;a=b/x", "path        parameters cut: /admin/x, of the route admin (policy shut)"),
        (
            "/x/%252e%252e;/admin/y",
            "decoded, then decoded once more, then parameters cut: /admin/y, of the route admin",
        ),
    ] {
        let url = format!("ws://localhost{path}");
        let asked =
            ["explain", "--config", "sidegate.toml", "--client", "127.0.0.1", "--url", &url];
        let output = done(&asked, folder.path()).await;
        let text = lossy(&output.stdout);
        assert!(text.contains("REFUSE 400 path") && text.contains(reading), "{text}");
        assert!(text.contains("route       root, for localhost/"), "{text}");
    }
}

#[tokio::test]
async fn explain_reports_invalid_files_and_ignores_failed_tests() {
    let test = "[[test]]\nname = 'x'\nclient = '127.0.0.1'\nurl = 'ws://localhost/chat'\nexpect = 'refuse'\n";
    let folder = files().route("/chat", &backend::echo().run().await).write();
    let policy = folder.path().join("policies/default.toml");
    let asked = [
        "explain",
        "--config",
        "sidegate.toml",
        "--client",
        "127.0.0.1",
        "--url",
        "ws://localhost/chat",
    ];
    std::fs::write(&policy, format!("{POLICY}{test}")).unwrap();
    check(&asked, folder.path(), 0, &["ALLOW"]).await;
    std::fs::write(&policy, "schema = 1\nclient.alow = []\n").unwrap();
    check(&asked, folder.path(), 78, &["policies/default.toml:2", "`allow`"]).await;
}

#[tokio::test]
async fn explain_by_the_agent_shows_remaining_limits() {
    let backend = backend::echo().run().await;
    let folder = files().route("/chat", &backend).write();
    let running = run(folder.path()).await;
    let _tunnel = running.client().open("/chat").await;
    let asked = [
        "explain",
        "--config",
        "sidegate.toml",
        "--live",
        "--client",
        "127.0.0.1",
        "--url",
        "ws://localhost/chat",
    ];
    check(
        &asked,
        folder.path(),
        0,
        &[
            "burst 3 (policies/default.toml:13); 2 left",
            "in all (policies/default.toml:14); 8 left",
        ],
    )
    .await;
    let output = done(&[&asked[..], &["--json"]].concat(), folder.path()).await;
    let answer: ExplainAnswer = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (answer.permitted, answer.generation, answer.route.as_deref()),
        (true, Some(1), Some("chat"))
    );
    assert_eq!((answer.limits[0].left, &answer.rules[1].rule), (Some(2), &RuleName::Allow));
    assert_eq!(answer.rules[1].lists[0].by.as_ref().unwrap().owner.as_deref(), Some("acme"));
}

/// Some of `all`.
fn some<T: Copy>(random: &mut StdRng, all: &[T]) -> Vec<T> {
    all.iter().copied().filter(|_| random.random_bool(0.5)).collect()
}

/// A random policy over 127.0.0.0/28.
fn policy(random: &mut StdRng) -> String {
    let mut network = |sign: bool| {
        let length = random.random_range(28..=32);
        let bits = u32::from(Ipv4Addr::new(127, 0, 0, 0))
            | (random.random_range(0..16u32) & (!0 << (32 - length)));
        let expires = ["", " expires=2020-01-01", " expires=2099-01-01"][random.random_range(0..3)];
        format!("{}{}/{length}{expires}", if sign { "" } else { "!" }, Ipv4Addr::from(bits))
    };
    let mut unlike = |count: usize| -> Vec<String> {
        let mut lines: Vec<(String, String)> = Vec::new();
        for at in 0..count {
            let line = network(at % 3 != 2);
            let bare = line.trim_start_matches('!').split(' ').next().unwrap().to_owned();
            if lines.iter().all(|(known, _)| *known != bare) {
                lines.push((bare, line));
            }
        }
        lines.into_iter().map(|(_, line)| line).collect()
    };
    let (office, banned, own) = (unlike(4), unlike(2), unlike(2));
    let mut text =
        format!("schema = 1\n[lists]\noffice = {office:?}\nbanned = {banned:?}\n[client]\n");
    let allow: Vec<String> = if random.random_bool(0.2) {
        vec!["any".into()]
    } else {
        [vec!["office".into()], own].concat()
    };
    text.push_str(&format!("allow = {allow:?}\ndeny = {:?}\n", some(random, &["banned"])));
    if random.random_bool(0.5) {
        text.push_str(&format!(
            "origins = {:?}\n",
            some(random, &["https://a.example", "https://*.a.example", "none", "null"])
        ));
    }
    if random.random_bool(0.4) {
        text.push_str(&format!("subprotocols = {:?}\n", some(random, &["v1", "v2"])));
    }
    text
}

#[tokio::test]
async fn explain_agrees_with_the_agent_for_any_request() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().clear().route("/chat/", &backend).toml("reload.watch = 'off'").run().await;
    let seed: u64 = rand::rng().next_u64();
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..25 {
        let (policy, baseline) = (
            policy(&mut random),
            format!("schema = 1\nclient.deny = ['127.0.0.{}']\n", random.random_range(0..16)),
        );
        sidegate.put("policies/default.toml", &policy);
        sidegate.put("policies/baseline.toml", &baseline);
        let reloaded = sidegate.ask_reload(&ReloadRequest::default()).await;
        assert!(!matches!(reloaded, ReloadAnswer::Rejected { .. }), "seed {seed}: {policy}");
        for _ in 0..20 {
            let from = IpAddr::from([127, 0, 0, random.random_range(1..16)]);
            let origin =
                [None, Some("https://a.example"), Some("https://b.a.example"), Some("null")]
                    [random.random_range(0..4)];
            let offered = [None, Some("v1"), Some("v3")][random.random_range(0..3)];
            let path =
                ["/chat/", "/chat/x%41", "/chat/../y", "/chat/a%2fb"][random.random_range(0..4)];
            let mut asks = client::new(&sidegate).from(&from.to_string());
            let own = |value: Option<&str>| value.map(str::to_owned);
            let request = ExplainRequest {
                client: from.to_string(),
                forwarded_for: None,
                listener: None,
                url: format!("ws://localhost{path}"),
                origin: own(origin),
                subprotocol: own(offered),
                identity: None,
                at: None,
            };
            asks = origin.into_iter().fold(asks, client::Client::origin);
            asks = offered.into_iter().fold(asks, |asks, offered| asks.subprotocols(&[offered]));
            let answer = sidegate.answer_to(&request).await;
            let before = answer.policy.as_deref() == Some("baseline");
            let got = match before {
                // Denied before anything is heard: closed without an answer.
                true => asks.try_connect().await.is_ok_and(|_| false).to_string(),
                false => format!("{}", asks.attempt(path).await.status()),
            };
            let says = match (before, answer.status) {
                (true, _) => "false".to_owned(),
                (false, Some(status)) => status.to_string(),
                // A backend that was offered nothing it knows switches all the same.
                (false, None) => "101".into(),
            };
            assert_eq!(got, says, "seed {seed}: {request:?}: {answer:#?}\n{policy}{baseline}");
        }
    }
}

/// `sidegate explain` with these arguments, where the listener believes 127.0.0.1 and 10.0.0.0/8.
async fn explained_behind(arguments: &[&str], code: i32, said: &[&str]) {
    let believed = "forwarded = { header = 'x-forwarded-for', from = ['127.0.0.1', '10.0.0.0/8'] }";
    let backend = backend::echo().run().await;
    let folder = files().on_listener(believed).route("/chat", &backend).write();
    let asked = ["explain", "--config", "sidegate.toml", "--url", "ws://localhost/chat"];
    let output = done(&[&asked, arguments].concat(), folder.path()).await;
    let text = format!("{}{}", lossy(&output.stdout), lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in said {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[tokio::test]
async fn client_behind_a_peer_is_derived_step_by_step() {
    let behind = |value| ["--peer", "10.0.0.7", "--forwarded-for", value];
    explained_behind(
        &behind("6.6.6.6, 127.0.0.5, 10.0.0.9"),
        0,
        &[
            "ALLOW",
            "client      127.0.0.5, peer 10.0.0.7 is listed; 10.0.0.9 is listed; 127.0.0.5 is \
             not: the client",
        ],
    )
    .await;
    explained_behind(&behind("127.0.0.66"), 1, &["REFUSE 403 network", "127.0.0.66 is not"]).await;
    explained_behind(
        &behind("127.0.0.5, unknown"),
        1,
        &["REFUSE 400 forwarded", "peer 10.0.0.7 is listed; `unknown` hides the address"],
    )
    .await;
    explained_behind(
        &["--peer", "127.0.0.5", "--forwarded-for", "10.0.0.1"],
        0,
        &["client      127.0.0.5, peer 127.0.0.5 is not in forwarded.from of listener `public`"],
    )
    .await;
    explained_behind(&["--peer", "127.0.0.1"], 0, &["names no address in X-Forwarded-For"]).await;
    explained_behind(&["--client", "127.0.0.5"], 0, &["the socket's peer"]).await;
}

#[tokio::test]
async fn explain_by_the_agent_answers_about_users() {
    let believed = "forwarded = { header = 'x-forwarded-for', from = ['unix:uid=33', '::1'] }";
    let backend = backend::echo().run().await;
    let config = sidegate::new().clear().allow("unix:uid=33").allow("127.0.0.5");
    let folder = config.on_listener(believed).route("/chat", &backend).write();
    let _running = process::new(folder.path()).run().await;
    let peer = ["--peer", "unix:uid=33"];
    for (arguments, code, said) in [
        (&peer[..], 0, "client      unix:uid=33, peer unix:uid=33 is listed"),
        (&[&peer[..], &["--forwarded-for", "127.0.0.5"]].concat(), 0, "client      127.0.0.5,"),
        (&["--peer", "::1"], 1, "client      ::1,"),
        (&["--peer", "unix:uid=34"], 1, "client      unix:uid=34,"),
        (&["--peer", "unix:uid=root,gid=7"], 1, "client      unix:uid=0,"),
        (&["--client", "unix:uid=33,gid=7"], 0, "client      unix:uid=33,"),
        (&["--client", "unix:uid=root"], 1, "client      unix:uid=0,"),
    ] {
        let asked = ["explain", "--config", "sidegate.toml", "--url", "ws://localhost/chat"];
        let output = done(&[&asked[..], &["--live"], arguments].concat(), folder.path()).await;
        let text = format!("{}{}", lossy(&output.stdout), lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: no {said:?} in {text}");
    }
}

#[tokio::test]
async fn wrong_arguments_about_a_peer_are_refused() {
    for (arguments, code, said) in [
        (&["--client", "::1", "--peer", "::1"][..], 2, "cannot be used with"),
        (&["--client", "::1", "--forwarded-for", "::1"], 2, "cannot be used with"),
        (&[], 2, "--client"),
        (&["--peer", "::1", "--listener", "none"], 2, "there is no listener `none`: public"),
        (&["--peer", "::1", "--forwarded-for", "a\nb"], 2, "is not a header's value"),
        (&["--peer", "balancer"], 2, "`balancer` is "),
    ] {
        explained_behind(arguments, code, &[said]).await;
    }
}

/// The files of the comparison below: routes in this form, behind listed and unlisted peers.
fn refusing(form: &str, backend: &backend::Backend) -> sidegate::Builder {
    let form = format!("http = 'forward'\nrefuse = '{form}'");
    let believed = "header = 'x-forwarded-for'\nfrom = ['127.0.0.2', '127.0.0.4']";
    let builder = sidegate::new().clear().on_listener(&format!("[forwarded]\n{believed}"));
    let builder = builder.route("/open", backend).on_route(&form);
    let builder = builder.under("open", |page| page.origins(&["https://app.example"]));
    let builder = builder.route("/net", backend).on_route(&form).allow("192.0.2.0/24");
    let baseline = "schema = 1\n[client]\ndeny = ['127.0.0.3', '127.0.0.4', '203.0.113.0/24']\n";
    builder.file("policies/baseline.toml", baseline)
}

/// Asserts that a request of `peer`, with this header and origin, is refused as is explained.
async fn expect_as_explained(
    sidegate: &sidegate::Sidegate,
    [peer, forwarded, url, origin]: [&str; 4],
) -> String {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let request = ExplainRequest {
        client: peer.into(),
        forwarded_for: given(forwarded),
        listener: None,
        url: url.into(),
        origin: given(origin),
        subprotocol: None,
        identity: None,
        at: None,
    };
    let explained = sidegate.answer_to(&request).await;
    let delivery = explained.delivery.clone().expect("a refusal");
    let mut client = client::new(sidegate).from(peer);
    for (name, value) in [("X-Forwarded-For", forwarded), ("Origin", origin)] {
        client = if value.is_empty() { client } else { client.header(name, value) };
    }
    let (scheme, path) = url.split_once("://localhost").unwrap();
    let head = match scheme {
        "ws" => client.attempt_head(path, ""),
        _ => client.request(&format!("GET {path} HTTP/1.1"), ""),
    };
    let mut wire = client.connect().await;
    // Behind the end of a connection that the baseline denies, a request would be reset.
    if !delivery.says.contains("at its accept") {
        wire.send(head).await;
    }
    let (case, reason) = (format!("{peer} {forwarded} {url}: {delivery:?}"), explained.reason);
    match delivery.form {
        DeliveryForm::Answer => {
            assert_eq!(Some(wire.answer().await.status()), explained.status, "{case}");
        }
        DeliveryForm::Close => {
            wire.answer().await.expect(101);
            assert_eq!(wire.frame().await.closes(), delivery.code.zip(reason), "{case}");
        }
        DeliveryForm::Drop => assert!(wire.rest_unless_reset().await.is_empty(), "{case}"),
        DeliveryForm::Other(other) => panic!("{other}"),
    }
    format!("{} {}", delivery.form, explained.text)
}

#[tokio::test]
async fn refusals_are_delivered_as_explained() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let (net, open, other) = ("localhost/net", "localhost/open", "https://other.example");
    for form in ["answer", "close", "drop"] {
        let sidegate = refusing(form, &backend).run().await;
        for scheme in ["ws", "http"] {
            let is_attempt = scheme == "ws";
            let url = |rest: &str| format!("{scheme}://{rest}");
            let (net, open, none) = (url(net), url(open), url("localhost/none"));
            let odd = url("localhost/x;/..;/q");
            let closes = if form == "close" && is_attempt { "close" } else { "answer" };
            let drops = if form == "drop" { "drop" } else { closes };
            for (question, expected) in [
                (["127.0.0.1", "", &net, ""], drops),
                (["127.0.0.1", "192.0.2.1", &net, ""], drops),
                (["127.0.0.1", "", &open, other], closes),
                (["127.0.0.1", "", &none, ""], "answer"),
                (["127.0.0.2", "198.51.100.1", &net, ""], closes),
                (["127.0.0.2", "198.51.100.1", &open, other], closes),
                (["127.0.0.2", "", &net, ""], closes),
                (["127.0.0.2", "unknown", &net, ""], "answer"),
                (["127.0.0.2", "203.0.113.9", &net, ""], closes),
                // The gate reads the head before the baseline judges the client that it names.
                (["127.0.0.2", "203.0.113.9", &odd, ""], "answer"),
                (["127.0.0.2", "203.0.113.9, x y", &net, ""], "answer"),
                (["127.0.0.4", "x y", &net, ""], "answer"),
                (["127.0.0.3", "", &odd, ""], "drop"),
                (["127.0.0.3", "", &net, ""], "drop"),
                (["127.0.0.4", "", &net, ""], closes),
            ] {
                let said = expect_as_explained(&sidegate, question).await;
                let is_found = said.split_once(' ').unwrap().0 == expected;
                assert!(is_found, "{form}: {question:?} is no {expected}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn explain_says_in_words_how_a_refusal_is_delivered() {
    let backend = backend::echo().run().await;
    for (form, peer, scheme, said) in [
        ("close", "127.0.0.1", "ws", "refused     by close: 101, then a Close with 1008 network"),
        ("close", "127.0.0.1", "http", "by answer: 403, since only a WebSocket can be closed"),
        ("drop", "127.0.0.1", "ws", "by drop: the connection is closed without an answer"),
        ("drop", "127.0.0.2", "ws", "by answer: 403, since other clients share the connection"),
        ("answer", "127.0.0.3", "ws", "by drop: the connection is closed at its accept"),
    ] {
        let folder = refusing(form, &backend).write();
        let url = format!("{scheme}://localhost/net");
        let asked = ["explain", "--config", "sidegate.toml", "--peer", peer, "--url", &url];
        let output = done(&asked, folder.path()).await;
        let text = lossy(&output.stdout);
        assert!(text.contains(said), "no {said:?} in {text}");
        let json = done(&[&asked[..], &["--json"]].concat(), folder.path()).await;
        let json: ExplainAnswer = serde_json::from_slice(&json.stdout).unwrap();
        let delivery = json.delivery.unwrap();
        let words = format!("by {}: {}", delivery.form, delivery.says);
        assert!(text.contains(&words), "no {words:?} in {text}");
    }
}

/// An authority, in the form of `client_certificates`.
const CLIENTS: &str = "client_certificates = { ca = 'clients.pem', mode = 'MODE' }";

/// `sidegate explain` on files with these listener keys says so, and ends with this code.
async fn explained_at(keys: &str, arguments: &[&str], code: i32, said: &[&str]) {
    let files = sidegate::new().tls().certificate(&["localhost"]);
    let files = files.file("clients.pem", certificate::authority_pem());
    let files = files.on_listener(keys).toml("reload.watch = 'off'");
    let folder = files.route("/chat", &backend::echo().run().await).write();
    let asked = ["explain", "--config", "sidegate.toml", "--client", "127.0.0.1"];
    let output = done(&[&asked, arguments].concat(), folder.path()).await;
    let text = format!("{}{}", lossy(&output.stdout), lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{keys} {arguments:?}: {text}");
    for part in said {
        assert!(text.contains(part), "{keys} {arguments:?}: no {part:?} in {text}");
    }
}

const WSS: [&str; 2] = ["--url", "wss://localhost/chat"];

#[tokio::test]
async fn certificate_that_cannot_arrive_is_not_judged() {
    let named = [&WSS[..], &["--identity", "dns:edge.example"]].concat();
    let none = "no listener asks for certificates: dns:edge.example cannot arrive";
    explained_at("", &named, 0, &["ALLOW", none]).await;
    explained_at("tls = false", &named, 0, &["ALLOW", none]).await;
    let optional = CLIENTS.replace("MODE", "optional");
    explained_at(&optional, &WSS, 0, &["ALLOW"]).await;
    let plain = ["--url", "ws://localhost/chat", "--identity", "dns:edge.example"];
    let said = ["without TLS carries no certificate", "no listener is plain"];
    explained_at(&optional, &plain, 0, &said).await;
}

#[tokio::test]
async fn handshake_that_would_fail_is_a_refusal() {
    let required = CLIENTS.replace("MODE", "required");
    let said = ["REFUSE tls", "every listener requires a certificate"];
    explained_at(&required, &WSS, 1, &said).await;
    let named = [&WSS[..], &["--identity", "dns:edge.example"]].concat();
    explained_at(&required, &named, 0, &["ALLOW"]).await;
    let strict = ["REFUSE tls", "no certificate covers 127.0.0.1"];
    explained_at("strict_sni = true", &["--url", "wss://127.0.0.1/chat"], 1, &strict).await;
    explained_at("strict_sni = true", &WSS, 0, &["ALLOW"]).await;
}

#[tokio::test]
async fn words_that_no_listener_gets_have_a_note() {
    let origin = [&WSS[..], &["--origin", "none"]].concat();
    explained_at("", &origin, 0, &["a word of policies"]).await;
    let offered = ["--url", "https://localhost/chat", "--subprotocol", "v1"];
    explained_at("", &offered, 1, &["plain HTTP offers no subprotocol"]).await;
    let user = ["--peer", "unix:uid=1,gid=1", "--url", "wss://localhost/chat"];
    let folder = files().route("/chat", &backend::echo().run().await).write();
    let asked = [&["explain", "--config", "sidegate.toml"], &user[..]].concat();
    let output = done(&asked, folder.path()).await;
    assert!(lossy(&output.stdout).contains("users of this host cannot connect"), "{output:?}");
    let broken = [&WSS[..], &["--origin", "https://a\nb"]].concat();
    explained_at("", &broken, 2, &["is no value of an Origin header"]).await;
}
