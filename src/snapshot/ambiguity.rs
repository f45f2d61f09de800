//! Ambiguous paths: a path that leads to one policy here and, as a common server reads it, to
//! another.
//!
//! Only the routes of a generation decide which readings matter: a path that every reading leads to
//! the same policy passes unchanged. On a route with `paths = "as-is"` the path as sent has to stay
//! within the route, regardless of the policies of other routes.

use std::fmt;
use std::sync::Arc;

use crate::policy::request::reading::{self, PathReading, TooManyReadings};
use crate::policy::request::{Request, has_dots};
use crate::policy::route::is_below;
use crate::snapshot::generation::Snapshot;
use crate::snapshot::route::{PathForwarding, Route};

/// Why a path is refused although it has a route.
#[derive(Debug, Clone)]
pub enum Ambiguity {
    /// A reading leads to a route under another policy.
    OtherPolicy {
        /// The reading that leads to the other route.
        reading: PathReading,
        /// The route under the other policy.
        route: Arc<Route>,
    },
    /// The path has more readings than are considered.
    TooManyReadings,
    /// The path hides a `/`, `#` or `?` in an escape, on a route that forwards canonical paths.
    HiddenSeparator,
    /// The path as sent has a dot segment, or decoding reveals a dot segment.
    DotSegment,
    /// The path as sent does not begin with its route's path.
    OutsidePrefix,
    /// A reading of the path as sent leads out of its route.
    ReadingOutsideRoute(PathReading),
}

impl Snapshot {
    /// Returns the ambiguity of the path of `request`, which leads to `route`. `None` means that
    /// the path is safe to judge by that route.
    pub(super) fn ambiguity(&self, request: &Request, route: &Arc<Route>) -> Option<Ambiguity> {
        let host = request.host.name();
        match (route.paths, request.path.canonical()) {
            (PathForwarding::Canonical, Some(path)) => self.leads_elsewhere(host, path, route),
            (PathForwarding::Canonical, None) => Some(Ambiguity::HiddenSeparator),
            (PathForwarding::AsIs, _) => self.leaves(host, request.path.sent(), route),
        }
    }

    /// Whether a path as it was `sent` leaves `route`, directly or by a reading.
    fn leaves(&self, host: &str, sent: &str, route: &Arc<Route>) -> Option<Ambiguity> {
        if has_dots(sent) {
            return Some(Ambiguity::DotSegment);
        }
        if !is_below(&route.path, sent) {
            return Some(Ambiguity::OutsidePrefix);
        }
        if reading::is_plain(sent) {
            return None;
        }
        let outside = |path: &[u8]| {
            // A reading without any route counts as outside too: the route promises that every
            // reading stays below its path.
            let found = self.routes.find_decoded(host, path);
            (!found.is_some_and(|found| Arc::ptr_eq(found, route))).then_some(())
        };
        match reading::find(sent, outside) {
            Ok(None) => None,
            Ok(Some((reading, ()))) => Some(Ambiguity::ReadingOutsideRoute(reading)),
            Err(TooManyReadings) => Some(Ambiguity::TooManyReadings),
        }
    }

    /// Whether a reading of the canonical `path` leads to a route under another policy.
    fn leads_elsewhere(&self, host: &str, path: &str, route: &Route) -> Option<Ambiguity> {
        if reading::is_plain(path) || self.has_one_policy() {
            return None;
        }
        let elsewhere = |path: &[u8]| {
            let other = self.routes.find_decoded(host, path)?;
            // Two routes of one policy admit the same clients; their other settings need no
            // protection. A reading without a route gives no access either (docs/decisions/020).
            (!Arc::ptr_eq(&other.policy, &route.policy)).then(|| Arc::clone(other))
        };
        match reading::find(path, elsewhere) {
            Ok(None) => None,
            Ok(Some((reading, route))) => Some(Ambiguity::OtherPolicy { reading, route }),
            // Unknown means no: the remaining readings may lead elsewhere.
            Err(TooManyReadings) => Some(Ambiguity::TooManyReadings),
        }
    }

    /// Whether all routes are under the same policy, so that no reading can lead to another.
    fn has_one_policy(&self) -> bool {
        self.route_list.windows(2).all(|pair| Arc::ptr_eq(&pair[0].policy, &pair[1].policy))
    }
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ambiguity::OtherPolicy { reading, route } => {
                write!(f, "{reading}, of the route {} (policy {})", route.name, route.policy.name)
            }
            Ambiguity::TooManyReadings => f.write_str("more readings than are looked at"),
            Ambiguity::HiddenSeparator => f.write_str(
                "an escaped `/`, `#` or `?`, which only a route with paths = \"as-is\" passes",
            ),
            Ambiguity::DotSegment => {
                f.write_str("a dot segment, on a route with paths = \"as-is\"")
            }
            Ambiguity::OutsidePrefix => {
                f.write_str("it does not begin with its route's path as it is")
            }
            Ambiguity::ReadingOutsideRoute(reading) => write!(f, "{reading}, outside of its route"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use crate::policy::Policy;
    use crate::policy::limit::Limits;
    use crate::policy::request::{Request, RequestPath};
    use crate::policy::route::{HostPattern, PathPattern, Routes};
    use crate::refusal::Refusal;
    use crate::snapshot::tests::{client, generation, policy, request, route};

    const OPEN: &[&str] =
        &["/ open", "/public/ open", "/admin/ shut", "/admin shut", "/a/b/ inner"];

    /// A route that passes paths as they are, beside others under stricter policies.
    const AS_IS: &[&str] = &["/ shut", "/api/ open as-is", "/apis/ inner", "/deep/er/ open as-is"];

    /// A generation with these routes of `localhost`, each written as `path policy` or `path policy
    /// as-is`. Every policy admits every client.
    fn routes(written: &[&str]) -> Snapshot {
        let own = |name: &str| Policy { name: name.into(), ..policy(&[], &Limits::default()) };
        let policies = ["open", "shut", "inner"].map(|name| Arc::new(own(name)));
        let mut snapshot = generation(1, own("chat"), None);
        let parsed = written.iter().map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let policy = policies.iter().find(|policy| *policy.name == *words[1]).unwrap();
            let mut route = route(words[0], words[0], policy);
            if words.len() == 3 {
                Arc::get_mut(&mut route).unwrap().paths = PathForwarding::AsIs;
            }
            (HostPattern::Exact("localhost".into()), PathPattern::parse(words[0]).unwrap(), route)
        });
        let table: Vec<_> = parsed.collect();
        snapshot.route_list = table.iter().map(|(_, _, route)| Arc::clone(route)).collect();
        snapshot.routes = Routes::new(table).unwrap();
        snapshot
    }

    fn at(path: &str) -> Option<Request> {
        Some(Request { path: RequestPath::read(path).ok()?, ..request("localhost") })
    }

    /// The policy that permits `path`, or the word of its refusal.
    fn judged(snapshot: &Snapshot, path: &str) -> String {
        let Some(request) = at(path) else { return Refusal::Path.to_string() };
        let judgement = snapshot.judge(&client(1).into(), &request, None, Timestamp::UNIX_EPOCH);
        assert_eq!(
            judgement.ambiguity.is_some(),
            judgement.verdict.as_ref().err() == Some(&Refusal::Path),
            "{path}"
        );
        match judgement.verdict {
            Ok(permit) => permit.route().policy.name.to_string(),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn path_is_refused_when_a_reading_has_another_policy() {
        let snapshot = routes(OPEN);
        for path in [
            "/admin;a=b/x",
            "/admin;a=b",
            "/public/%252e%252e/admin/x",
            "/%2561dmin/x",
            "/public/%c0%ae%c0%ae/admin/x",
            "/admin%c0%afx",
            "/admin./x",
            "/admin%20/x",
            "/admin.",
            "/public/..%255cadmin/x",
            "/admin%255cx",
            "/admin%252fx",
            "/admin%253fx",
            "/admin.;x=y/",
            "/public/%252e%252e;/admin/",
            "/a;x/b;y/c",
            // The other way round, from the strict policy to the open one.
            "/admin/%252e%252e/x",
            "/admin/..%20/x",
        ] {
            assert_eq!(judged(&snapshot, path), "path", "{path}");
        }
    }

    #[test]
    fn a_path_that_no_reading_leads_elsewhere_passes() {
        let snapshot = routes(OPEN);
        for (path, policy) in [
            ("/public/a;b=c/d", "open"),
            ("/public/100%2525", "open"),
            ("/public/v1./x%20", "open"),
            ("/public/%c3%a9%c0%ae", "open"),
            ("/admin/x;y=z", "shut"),
            ("/admin/a%252fb./", "shut"),
            ("/administrator;x/", "open"),
            ("/ADMIN/x;y", "open"),
        ] {
            assert_eq!(judged(&snapshot, path), policy, "{path}");
        }
        // One policy: wherever a reading leads, the same people may.
        let snapshot = routes(&["/ open", "/admin/ open", "/a/ open"]);
        for path in ["/admin;a=b/x", "/admin%252fx", "/x/%252e%252e/admin/"] {
            assert_eq!(judged(&snapshot, path), "open", "{path}");
        }
        // A reading that leads nowhere leads to no other policy.
        let snapshot = routes(&["/public/ open", "/admin/ shut"]);
        assert_eq!(judged(&snapshot, "/public/%252e%252e/x"), "open");
        assert_eq!(judged(&snapshot, "/admin;a/x"), "route");
    }

    #[test]
    fn as_is_path_passes_when_it_stays_within_its_route() {
        let snapshot = routes(AS_IS);
        for path in [
            "/api/queues/%2F/a//b",
            "/api/",
            "/api//",
            "/api/%2f%2F",
            "/api/a%23b%3Fc",
            "/api/group%2Fproject/x;y=1",
            "/api/100%25/%252f",
            "/api/%61//%7e",
            "/api/a./b%20/...",
            "/deep/er/%2F",
        ] {
            assert_eq!(judged(&snapshot, path), "open", "{path}");
            let request = at(path).unwrap();
            let judgement =
                snapshot.judge(&client(1).into(), &request, None, Timestamp::UNIX_EPOCH);
            assert_eq!(judgement.route.unwrap().forwarded(&request.path), path);
        }
        let alone = routes(&["/ open as-is"]);
        for path in ["//a", "/%2F", "/..%20/a", "//%2F//", "/a%c0%af..;x", "/%255c"] {
            assert_eq!(judged(&alone, path), "open", "{path}");
        }
    }

    #[test]
    fn as_is_path_is_refused_when_it_leaves_its_route() {
        let snapshot = routes(AS_IS);
        for path in [
            // Dot segments, also where they lead nowhere else.
            "/api/./x",
            "/api/x/../y",
            "/api/../api/x",
            "/api/../x",
            "/x/../api/y",
            "/api/%2e%2e/admin",
            "/api/%252e%252e%252fadmin",
            "/api%2F..%2Fadmin",
            "/api/x%2f..%2f..%2fadmin",
            "/api/..;/admin",
            "/api/..%253b/admin",
            // The route's own path is not as it is.
            "//api/x",
            "/%61pi/x",
            "/api%2Fx",
            "/deep%2Fer/x",
            "/deep//er/x",
            "/%2F/api/x",
            // Readings.
            "/api/..%20/admin",
            "/api/..%5c../admin",
            "/api/..%255cadmin",
            "/api/%c0%ae%c0%ae/admin",
            "/api/%c0%ae%c0%ae%2Fadmin",
            "/api/%25c0%25ae%25c0%25ae%2Fadmin",
            "/api/x;/..%20;/..%20/admin",
            // What no route passes.
            "/api/%00",
            "/api/a\\b",
            "/api/%5c",
            "/api/%2F%zz",
            // Another route's.
            "/x%2Fy",
            "/apis/a%2Fb",
        ] {
            assert_eq!(judged(&snapshot, path), "path", "{path}");
        }
        assert_eq!(judged(&snapshot, "/apis/x"), "inner");
        assert_eq!(judged(&snapshot, "/x/"), "shut");
    }

    #[test]
    fn refused_as_is_path_names_its_reason() {
        let snapshot = routes(AS_IS);
        let check = |path: &str, expected: &str| {
            let judgement =
                snapshot.judge(&client(1).into(), &at(path).unwrap(), None, Timestamp::MIN);
            assert_eq!(judgement.ambiguity.unwrap().to_string(), expected, "{path}");
        };
        check(
            "/x%2Fy",
            "an escaped `/`, `#` or `?`, which only a route with paths = \"as-is\" passes",
        );
        check("/api/./x", "a dot segment, on a route with paths = \"as-is\"");
        check("//api/x", "it does not begin with its route's path as it is");
        check(
            "/api/..%20/x",
            "decoded, then trailing dots and spaces cut: /x, outside of its route",
        );
    }

    #[test]
    fn too_many_readings_are_refused_where_policies_differ() {
        let path =
            format!("/{}", "a%25c0%25ae%255c%2520./b;x%253by%20.%3bz/%c0%ae%252e/".repeat(100));
        assert_eq!(judged(&routes(OPEN), &path), "path");
        assert_eq!(judged(&routes(&["/ open", "/admin/ open"]), &path), "open");
    }

    #[test]
    fn ambiguity_names_the_reading_and_its_route() {
        let snapshot = routes(OPEN);
        let judgement = snapshot.judge(
            &client(1).into(),
            &at("/public/%252e%252e;/admin/x").unwrap(),
            None,
            Timestamp::MIN,
        );
        let said = judgement.ambiguity.unwrap().to_string();
        let steps = "decoded, then decoded once more, then parameters cut";
        assert_eq!(said, format!("{steps}: /admin/x, of the route /admin/ (policy shut)"));
        assert_eq!(
            (judgement.route.unwrap().name.as_ref(), judgement.policy.is_none()),
            ("/public/", true)
        );
    }

    /// What one server makes of a path at one step, written apart from what is tested.
    fn step(kind: u8, path: &str) -> String {
        let latin = |bytes: Vec<u8>| bytes.into_iter().map(char::from).collect::<String>();
        let segments = |change: &dyn Fn(&str) -> String| {
            path.split('/').map(change).collect::<Vec<_>>().join("/")
        };
        match kind {
            0 => {
                let mut bytes = Vec::new();
                let mut rest = path;
                while let Some(first) = rest.chars().next() {
                    let code = rest.strip_prefix('%').and_then(|rest| rest.get(..2));
                    let code =
                        code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
                    bytes.push(code.map_or(u32::from(first) as u8, |code| {
                        u8::from_str_radix(code, 16).unwrap()
                    }));
                    rest = &rest[code.map_or(first.len_utf8(), |_| 3)..];
                }
                latin(bytes)
            }
            1 => segments(&|segment| segment.split(';').next().unwrap().to_owned()),
            2 => path
                .replace("\u{c0}\u{ae}", ".")
                .replace("\u{c0}\u{af}", "/")
                .replace("\u{c1}\u{9c}", "\\"),
            3 => path.replace('\\', "/"),
            4 => resolved(path),
            _ => segments(&|segment| match segment.trim_end_matches(' ') {
                dots @ ("." | "..") => dots.to_owned(),
                other => other.trim_end_matches(['.', ' ']).to_owned(),
            }),
        }
    }

    /// `path` without dot segments.
    fn resolved(path: &str) -> String {
        let mut kept: Vec<&str> = Vec::new();
        let mut ends_open = false;
        for segment in path.split('/').skip(1) {
            ends_open = matches!(segment, "" | "." | "..");
            match segment {
                "" | "." => {}
                ".." => drop(kept.pop()),
                _ => kept.push(segment),
            }
        }
        let open = if ends_open && !kept.is_empty() { "/" } else { "" };
        format!("/{}{open}", kept.join("/"))
    }

    fn path() -> impl Strategy<Value = String> {
        let pieces = [
            "/",
            "/",
            "/",
            "admin",
            "public",
            "a",
            "b",
            "..",
            ".",
            ";",
            ";x",
            "%3b",
            "%253b",
            "%252e",
            "%252e%252e",
            "%2e",
            "%c0%ae",
            "%c0%af",
            "%c1%9c",
            "%255c",
            "%252f",
            "%2561dmin",
            "%20",
            "%2520",
            "%25c0%25ae",
            "x",
        ];
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..9)
            .prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    /// [`path`], with what only a path that is passed as it is may hold.
    fn sent() -> impl Strategy<Value = String> {
        let pieces =
            ["%2f", "%2F", "//", "%23", "%3f", "%5c", "%00", "\\", "api", "/api/", "%2e%2e%2f"];
        let pieces = prop::sample::select(pieces.to_vec());
        let mixed = prop_oneof![pieces.prop_map(str::to_owned), path()];
        prop::collection::vec(mixed, 0..5).prop_map(|pieces| format!("/api/{}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

        #[test]
        fn no_as_is_path_lies_outside_its_route(
            sent in sent(),
            steps in prop::collection::vec(0u8..6, 0..8),
        ) {
            let snapshot = routes(AS_IS);
            let Some(request) = at(&sent) else { return Ok(()) };
            let subject = client(1).into();
            let judgement = snapshot.judge(&subject, &request, None, Timestamp::UNIX_EPOCH);
            let Ok(permit) = judgement.verdict else { return Ok(()) };
            if permit.route().paths == PathForwarding::Canonical {
                prop_assert!(request.path.canonical().is_some());
                return Ok(());
            }
            let (mut read, mut decoded) = (sent.clone(), 0);
            for kind in steps {
                decoded += u8::from(kind == 0);
                if decoded <= 2 {
                    read = step(kind, &read);
                }
            }
            let at = permit.route().path.to_string();
            prop_assert!(read.starts_with(&at) && resolved(&read).starts_with(&at), "{sent} read as {read:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

        #[test]
        fn no_path_with_a_reading_of_another_policy_is_permitted(
            path in path(),
            steps in prop::collection::vec(0u8..6, 0..8),
        ) {
            let snapshot = routes(OPEN);
            let Some(request) = at(&path) else { return Ok(()) };
            let subject = client(1).into();
            let verdict = snapshot.judge(&subject, &request, None, Timestamp::UNIX_EPOCH).verdict;
            let Ok(permit) = verdict else { return Ok(()) };
            let (mut read, mut decoded) = (request.path.to_string(), 0);
            for kind in steps {
                decoded += u8::from(kind == 0);
                if decoded <= 2 {
                    read = step(kind, &read);
                }
            }
            if decoded == 0 {
                read = step(0, &read);
            }
            let bytes: Vec<u8> = resolved(&read).chars().map(|c| u32::from(c) as u8).collect();
            if let Some(other) = snapshot.routes.find_decoded("localhost", &bytes) {
                prop_assert_eq!(&other.policy.name, &permit.route().policy.name, "{} read as {:?}", request.path, read);
            }
        }
    }
}
