//! `[[limits.for]]`: errors in it, and its values.

use std::time::Duration;

use super::{check, load};
use crate::policy::limit::{ClientLimits, LimitUnit, TunnelLimits};

/// Checks that a policy with the lists `office` and `vpn` and these exceptions reports `expected`.
#[track_caller]
fn exceptions(text: &str, expected: &str) {
    let lists = "office = [\"192.0.2.0/24\", \"!192.0.2.13\"]\nvpn = [\"203.0.113.0/24\"]";
    let text =
        format!("schema = 1\n[lists]\n{lists}\n[client]\nallow = [\"office\", \"vpn\"]\n{text}\n");
    check(&[("policies/chat.toml", &text)], expected);
}

#[test]
fn one_network_has_one_exception() {
    exceptions(
        "[[limits.for]]\nclient = [\"office\"]\nidle = \"1h\"\n\
         [[limits.for]]\nclient = [\"vpn\", \"192.0.2.0/24\"]",
        r#"
error: client: 192.0.2.0/24 is in two [[limits.for]]
  --> policies/chat.toml:11:10
   |
11 | client = ["vpn", "192.0.2.0/24"]
   |          ^^^^^^^^^^^^^^^^^^^^^^^
   |
  ::: policies/chat.toml:8:10
   |
 8 | client = ["office"]
   |          ---------- first here
   |
   = help: keep it in one of the two
"#,
    );
    exceptions(
        "[limits]\nfor = [{ client = [\"office\"] }, { client = [\"office\"] }]",
        r#"
error: client: 192.0.2.0/24 is in two [[limits.for]]
 --> policies/chat.toml:8:44
  |
8 | for = [{ client = ["office"] }, { client = ["office"] }]
  |                                            ^^^^^^^^^^
  |
 ::: policies/chat.toml:8:19
  |
8 | for = [{ client = ["office"] }, { client = ["office"] }]
  |                   ---------- first here
  |
  = help: keep it in one of the two
"#,
    );
    // A network may appear twice within one exception, and a carved-out network belongs to none.
    exceptions(
        "[[limits.for]]\nclient = [\"office\", \"192.0.2.0/24\"]\n\
         [[limits.for]]\nclient = [\"192.0.2.13\"]",
        "",
    );
    // The longest network decides between two exceptions.
    exceptions(
        "[[limits.for]]\nclient = [\"office\"]\n[[limits.for]]\nclient = [\"192.0.2.0/28\"]",
        "",
    );
}

#[test]
fn an_exception_names_lists_or_networks() {
    exceptions(
        "[[limits.for]]\nidle = \"1h\"",
        r#"
error: client: missing from [[limits.for]]
 --> policies/chat.toml:7:1
  |
7 | [[limits.for]]
  | ^^^^^^^^^^^^^^
  |
  = help: client = ["office"], lists or networks; or identity = ["spiffe://a.example/*"]
"#,
    );
    exceptions(
        "[[limits.for]]\nclient = [\"any\"]",
        r#"
error: client: "any" is valid in `allow` only
 --> policies/chat.toml:8:11
  |
8 | client = ["any"]
  |           ^^^^^
  |
  = help: limits for all clients belong into [limits] itself
"#,
    );
    exceptions(
        "[[limits.for]]\nclient = [\"ofice\", \"unix\", \"10.0.0.1/8\"]",
        r#"
error: client: there is no list `ofice`
 --> policies/chat.toml:8:11
  |
8 | client = ["ofice", "unix", "10.0.0.1/8"]
  |           ^^^^^^^
  |
  = help: did you mean `office`?

error: client: 10.0.0.1/8 has host bits set
 --> policies/chat.toml:8:29
  |
8 | client = ["ofice", "unix", "10.0.0.1/8"]
  |                             ^^^^^^^^^^
  |
  = help: write 10.0.0.0/8 for the network, or 10.0.0.1 for the one address
"#,
    );
    exceptions(
        "[[limits.for]]\nclient = []",
        r#"
warning: client: an empty list matches no client
 --> policies/chat.toml:8:10
  |
8 | client = []
  |          ^^
"#,
    );
    exceptions(
        "[[limits.for]]\nclient = \"office\"",
        r#"
error: client: expected an array, found a string
 --> policies/chat.toml:8:10
  |
8 | client = "office"
  |          ^^^^^^^^
  |
  = help: write ["office"]
"#,
    );
    exceptions(
        "[limits.for]\nclient = [\"office\"]",
        r#"
error: for: one table where several can be
 --> policies/chat.toml:7:1
  |
7 | [limits.for]
  | ^^^^^^^^^^^^
  |
  = help: write [[limits.for]]
"#,
    );
}

#[test]
fn exception_has_the_keys_of_limits_except_the_total() {
    exceptions(
        "[[limits.for]]\nclient = [\"office\"]\nconnections = { total = 5, per_client = 0 }\n\
         upgrades = { burst = 5 }\nfor = []\nidel = \"1h\"",
        r#"
error: total: the total is of the whole policy
 --> policies/chat.toml:9:17
  |
9 | connections = { total = 5, per_client = 0 }
  |                 ^^^^^
  |
  = help: write it in [limits]

error: per_client: 0 is out of range
 --> policies/chat.toml:9:41
  |
9 | connections = { total = 5, per_client = 0 }
  |                                         ^
  |
  = help: at least 1

error: rate: missing from `upgrades`
  --> policies/chat.toml:10:12
   |
10 | upgrades = { burst = 5 }
   |            ^^^^^^^^^^^^^
   |
   = help: upgrades = { rate = "5/s", burst = 20 }

error: unknown key `for` in [[limits.for]]
  --> policies/chat.toml:11:1
   |
11 | for = []
   | ^^^
   |
   = help: remove it; what may be there: `client`, `connections`, `frames`, `identity`, `idle`, `lifetime`, `message`, `ping`, `pong`, `requests`, `streams`, `upgrades`

error: unknown key `idel` in [[limits.for]]
  --> policies/chat.toml:12:1
   |
12 | idel = "1h"
   | ^^^^
   |
   = help: did you mean `idle`?
"#,
    );
}

#[test]
fn exception_inherits_omitted_limits() {
    let text = "schema = 1\nclient.allow = [\"any\"]\n[limits]\nidle = \"10m\"\nping = \"5s\"\n\
                connections = { per_client = 1, total = 9 }\n\
                [[limits.for]]\nclient = [\"192.0.2.1\"]\nidle = \"1h\"\n\
                [[limits.for]]\nclient = [\"192.0.2.2\"]\nconnections = { per_client = 5 }\n";
    let (loaded, found) = load(&[("policies/chat.toml", text)]);
    let limits = &loaded.unwrap_or_else(|_| panic!("{found}")).policies[0].limits;
    let tunnel = TunnelLimits {
        idle: Some(Duration::from_secs(600)),
        ping: Some(Duration::from_secs(5)),
        ..TunnelLimits::default()
    };
    let common = ClientLimits { per_client: Some(1), tunnel, ..ClientLimits::default() };
    assert_eq!((limits.share, limits.total), (common, Some(9)));
    let hour = ClientLimits {
        tunnel: TunnelLimits { idle: Some(Duration::from_secs(3600)), ..tunnel },
        ..common
    };
    let shares: Vec<_> =
        limits.exceptions.iter().map(|one| (one.share, one.line, &*one.lists()[0].name)).collect();
    assert_eq!(
        shares,
        [
            (hour, 8, "(limits.for)"),
            (ClientLimits { per_client: Some(5), ..common }, 11, "(limits.for 2)")
        ]
    );
}

#[test]
fn an_exception_names_certificates_instead() {
    exceptions(
        "[[limits.for]]\nidentity = [\"spiffe://a/ws/*\", \"dns:a.example\"]\n\
         [[limits.for]]\nclient = [\"office\"]",
        "",
    );
    exceptions(
        "[[limits.for]]\nidentity = [\"spiffe://a/*\"]\nclient = [\"office\"]",
        r#"
error: client: `client` beside `identity`
 --> policies/chat.toml:9:1
  |
9 | client = ["office"]
  | ^^^^^^
  |
  = help: write two [[limits.for]], one for each
"#,
    );
    exceptions(
        "[[limits.for]]\nidentity = [\"office\", \"spiffe://a/b*c**\"]",
        r#"
error: identity: "office" is no name of a certificate: it is no URI
 --> policies/chat.toml:8:13
  |
8 | identity = ["office", "spiffe://a/b*c**"]
  |             ^^^^^^^^
  |
  = help: a URI like "spiffe://example.com/ws/*", "dns:client.example.com", or "sha256:HEX" for a key

error: identity: "spiffe://a/b*c**" is no name of a certificate: `**` matches whole segments: write it between slashes
 --> policies/chat.toml:8:23
  |
8 | identity = ["office", "spiffe://a/b*c**"]
  |                       ^^^^^^^^^^^^^^^^^^
  |
  = help: a URI like "spiffe://example.com/ws/*", "dns:client.example.com", or "sha256:HEX" for a key
"#,
    );
    exceptions(
        "[[limits.for]]\nidentity = []",
        r#"
warning: identity: an empty list matches no certificate
 --> policies/chat.toml:8:12
  |
8 | identity = []
  |            ^^
"#,
    );
    exceptions(
        "[[limits.for]]\nidentity = [\"spiffe://A/x\"]\n\
         [[limits.for]]\nidentity = [\"dns:b.example\", \"SPIFFE://a/x\"]",
        r#"
error: identity: spiffe://a/x is in two [[limits.for]]
  --> policies/chat.toml:10:12
   |
10 | identity = ["dns:b.example", "SPIFFE://a/x"]
   |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
  ::: policies/chat.toml:8:12
   |
 8 | identity = ["spiffe://A/x"]
   |            ---------------- first here
   |
   = help: keep it in one of the two
"#,
    );
}

#[test]
fn certificate_with_a_limit_of_its_own_is_counted_by_identity() {
    let text = "schema = 1\nclient.allow = [\"any\"]\n[limits]\nupgrades = { rate = \"5/s\" }\n\
                requests = { rate = \"5/s\", per = \"identity\" }\n\
                connections = { per_client = 1 }\n\
                [[limits.for]]\nidentity = [\"spiffe://a/*\"]\nupgrades = { rate = \"9/s\" }\n\
                [[limits.for]]\nidentity = [\"spiffe://b/*\"]\n\
                upgrades = { rate = \"9/s\", per = \"address\" }\n\
                requests = { rate = \"9/s\" }\nconnections = { per_client = 2 }\n\
                [[limits.for]]\nclient = [\"192.0.2.1\"]\nrequests = { rate = \"9/s\" }\n\
                connections = { per = \"identity\" }\nstreams = { per_client = 1 }\n";
    let (loaded, found) = load(&[("policies/chat.toml", text)]);
    let limits = &loaded.unwrap_or_else(|_| panic!("{found}")).policies[0].limits;
    let units: Vec<_> = limits.shares().map(|share| share.units.all()).collect();
    let (a, i) = (LimitUnit::Address, LimitUnit::Identity);
    assert_eq!(units, [[a, i, a, a], [i, i, a, a], [a, i, i, a], [a, i, i, a]]);
    assert_eq!(limits.exceptions[2].share.per_client, Some(1));
}
