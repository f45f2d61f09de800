//! A map from patterns of identities to values, searched by a certificate with many names.
//!
//! A search costs a few look-ups for each name, however many patterns there are: wildcards are
//! found by the literal texts at both of their ends.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::policy::certificate::{ClientCertificate, IdentityPattern, KeyPin, is_plain_uri};

/// Values by pattern.
#[derive(Debug, Clone)]
pub struct IdentityMap<V> {
    /// All values, by the canonical text: `dns:A.example` and `dns:a.example` are one pattern.
    all: BTreeMap<String, V>,
    uris: BTreeMap<Box<str>, V>,
    dns_names: BTreeMap<Box<str>, V>,
    /// Behind `*.` of a pattern.
    dns_parents: BTreeMap<Box<str>, V>,
    keys: BTreeMap<[u8; 32], V>,
    wildcards: WildcardMap<V>,
}

/// By the text before the first `*`, then by the reversed text behind the last one.
type WildcardMap<V> = BTreeMap<Box<[u8]>, BTreeMap<Box<[u8]>, Vec<(IdentityPattern, V)>>>;

impl<V> Default for IdentityMap<V> {
    fn default() -> Self {
        IdentityMap {
            all: BTreeMap::new(),
            uris: BTreeMap::new(),
            dns_names: BTreeMap::new(),
            dns_parents: BTreeMap::new(),
            keys: BTreeMap::new(),
            wildcards: BTreeMap::new(),
        }
    }
}

impl<V: Clone> IdentityMap<V> {
    /// Sets the value of `pattern`, and returns the former one.
    pub fn insert(&mut self, pattern: &IdentityPattern, value: V) -> Option<V> {
        let index = value.clone();
        match pattern {
            IdentityPattern::Dns(name) => match name.strip_prefix("*.") {
                Some(parent) => drop(self.dns_parents.insert(parent.into(), index)),
                None => drop(self.dns_names.insert(name.clone(), index)),
            },
            IdentityPattern::Key(KeyPin(digest)) => drop(self.keys.insert(*digest, index)),
            IdentityPattern::Uri(uri) => match uri.ends() {
                None => drop(self.uris.insert(uri.text().into(), index)),
                Some((start, end)) => {
                    let end = end.bytes().rev().collect();
                    let ends = self.wildcards.entry(start.as_bytes().into()).or_default();
                    let same: &mut Vec<_> = ends.entry(end).or_default();
                    same.retain(|(other, _)| other != pattern);
                    same.push((pattern.clone(), index));
                }
            },
        }
        self.all.insert(pattern.to_string(), value)
    }

    /// The value of exactly this pattern.
    pub fn get(&self, pattern: &IdentityPattern) -> Option<&V> {
        self.all.get(&pattern.to_string())
    }

    /// Iterates over the values, by the text of their patterns.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.all.values()
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns a value for which `counts` holds and whose pattern denies `certificate`.
    pub fn denying(
        &self,
        certificate: &ClientCertificate,
        counts: impl Fn(&V) -> bool,
    ) -> Option<&V> {
        let counts = |value: &&V| counts(value);
        let digests = [certificate.key_pin.0, certificate.digest.0];
        let key = || digests.iter().filter_map(|digest| self.keys.get(digest)).find(counts);
        let dns = || {
            let names = certificate.dns_names.iter();
            let mut found = names.flat_map(|name| {
                let parent = name.split_once('.').map(|(_, parent)| parent);
                let wild = parent.and_then(|parent| self.dns_parents.get(parent));
                self.dns_names.get(name).into_iter().chain(wild)
            });
            found.find(counts)
        };
        let uris = || certificate.uris.iter().filter_map(|uri| self.uris.get(uri)).find(counts);
        let wild = || {
            // A name that was left out may be any.
            if certificate.has_odd_uri {
                return self.of_scheme("").find(counts);
            }
            certificate.uris.iter().find_map(|uri| self.denying_uri(uri, counts))
        };
        key().or_else(dns).or_else(uris).or_else(wild)
    }

    /// Returns a value of a wildcard that denies the URI name `uri`.
    fn denying_uri(&self, uri: &str, counts: impl Fn(&&V) -> bool) -> Option<&V> {
        if !is_plain_uri(uri) {
            // Programs read it in several ways, so that each wildcard of its scheme may match.
            let scheme = uri.split_once(':').map_or("", |(scheme, _)| &uri[..=scheme.len()]);
            return self.of_scheme(scheme).find(counts);
        }
        let reversed: Vec<_> = uri.bytes().rev().collect();
        let ends = prefixes(&self.wildcards, uri.as_bytes());
        let same = ends.flat_map(|ends| prefixes(ends, &reversed)).flatten();
        let matching = same.filter(|(pattern, _)| pattern.matches_uri(uri));
        matching.map(|(_, value)| value).find(counts)
    }

    /// The values of the wildcards that begin with `scheme`, a scheme with its colon or nothing.
    fn of_scheme(&self, scheme: &str) -> impl Iterator<Item = &V> {
        let from = (Bound::Included(scheme.as_bytes()), Bound::Unbounded);
        let all = self.wildcards.range::<[u8], _>(from);
        all.take_while(move |(start, _)| start.starts_with(scheme.as_bytes()))
            .flat_map(|(_, ends)| ends.values().flatten().map(|(_, value)| value))
    }
}

/// The values of `map` whose keys are beginnings of `name`, the longest first.
fn prefixes<'m, V>(map: &'m BTreeMap<Box<[u8]>, V>, name: &[u8]) -> impl Iterator<Item = &'m V> {
    // Keys above `bound` are no beginnings. `None` means that all were looked at.
    let mut bound = Some(Bound::Included(name));
    std::iter::from_fn(move || {
        loop {
            let (key, value) = map.range::<[u8], _>((Bound::Unbounded, bound?)).next_back()?;
            if name.starts_with(key) {
                bound = key.len().checked_sub(1).map(|_| Bound::Excluded(&name[..key.len()]));
                return Some(value);
            }
            // Every other beginning of `name` is one of what both have in common.
            let common = key.iter().zip(name).take_while(|(one, other)| one == other).count();
            bound = Some(Bound::Included(&name[..common]));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn certificate(uris: &[String], names: &[String]) -> ClientCertificate {
        let mut made = ClientCertificate::named("dns:none.invalid").unwrap();
        made.uris = uris.iter().filter_map(|uri| ClientCertificate::uri_name(uri)).collect();
        made.dns_names = names.iter().map(|name| name.as_str().into()).collect();
        made
    }

    fn patterns() -> impl Strategy<Value = Vec<IdentityPattern>> {
        let text = prop_oneof![
            "(s|t)://(a|b|\\*|a\\*)(/(a|b|\\*|a\\*b|\\*\\*)){0,3}",
            "dns:(\\*\\.)?(a|b)(\\.(a|b)){0,2}",
        ];
        let parsed = text.prop_filter_map("no pattern", |text| IdentityPattern::parse(&text).ok());
        proptest::collection::vec(parsed, 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(2048)
        })]

        #[test]
        fn search_finds_what_a_walk_over_all_patterns_does(
            patterns in patterns(),
            uris in proptest::collection::vec("(s|t|u)://(a|b|ab)(/(a|b|ab|\\.\\.)){0,4}", 0..3),
            names in proptest::collection::vec("(a|b)(\\.(a|b)){0,3}", 0..3),
            has_odd_uri in proptest::bool::weighted(0.1),
            lapsed in any::<u8>(),
        ) {
            let mut map = IdentityMap::default();
            let value = |at: usize| at % 8;
            let mut naive = BTreeMap::new();
            for (at, pattern) in patterns.iter().enumerate() {
                let former = map.insert(pattern, (pattern.clone(), value(at)));
                let naive = naive.insert(pattern.to_string(), value(at));
                prop_assert_eq!(former.map(|(_, value)| value), naive);
            }
            prop_assert_eq!(map.len(), naive.len());
            let mut certificate = certificate(&uris, &names);
            certificate.has_odd_uri = has_odd_uri;
            let counts = |value: usize| lapsed >> value & 1 == 0;
            let expected = naive.iter().any(|(text, value)| {
                counts(*value) && IdentityPattern::parse(text).unwrap().denies(&certificate)
            });
            let found = map.denying(&certificate, |(_, value)| counts(*value));
            prop_assert_eq!(found.is_some(), expected);
            if let Some((pattern, value)) = found {
                prop_assert!(pattern.denies(&certificate) && counts(*value));
            }
        }
    }

    #[test]
    fn search_among_many_wildcards_compares_few() {
        let mut map = IdentityMap::default();
        for at in 0..10_000 {
            let pattern = match at % 3 {
                0 => format!("spiffe://corp.example/ns/{at}/*"),
                1 => format!("spiffe://*.host{at}.example/ws"),
                _ => format!("dns:*.host{at}.example"),
            };
            map.insert(&IdentityPattern::parse(&pattern).unwrap(), at);
        }
        let uris: Vec<_> = (0..50).map(|at| format!("spiffe://corp.example/ns/x{at}/y")).collect();
        let names: Vec<_> = (0..50).map(|at| format!("a{at}.other.example")).collect();
        let mut certificate = certificate(&uris, &names);
        let began = std::time::Instant::now();
        for _ in 0..100 {
            assert_eq!(map.denying(&certificate, |_| true), None);
        }
        // A walk takes 100 times 500,000 comparisons, which are minutes without optimisation.
        assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
        certificate.uris[49] = "spiffe://corp.example/ns/9999/y".into();
        assert_eq!(map.denying(&certificate, |_| true), Some(&9999));
        certificate.uris[49] = "spiffe://a.host1.example/ws".into();
        assert_eq!(map.denying(&certificate, |_| true), Some(&1));
    }
}
