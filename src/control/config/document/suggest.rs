//! Guesses the word that was meant: one of similar spelling, or this program's word for that of
//! another.
//!
//! Pure. Never decides that a word is wrong.

/// Words from other servers' configurations, with the equivalent keys here. Of several keys, the
/// first that the table has applies.
const SYNONYMS: [(&str, &[&str]); 29] = [
    ("acl access rules", &["client"]),
    ("address addr bind bind_address host_port ip port", &["listen", "client"]),
    ("allowed allowlist allow_list whitelist white_list ips ip_allow networks cidrs", &["allow"]),
    (
        "denied denylist deny_list blacklist black_list blocklist block_list block ban banned",
        &["deny"],
    ),
    (
        "backends upstream upstreams proxy_pass target targets server servers origin_server to url",
        &["backend"],
    ),
    (
        "body_limit client_max_body_size max_body_size max_request_body limit_request_body",
        &["max_body"],
    ),
    ("ca_file cacert ca_cert trusted_certificate proxy_ssl_trusted_certificate cafile", &["ca"]),
    ("cert certificate cert_file crt pem fullchain ssl_certificate tls_cert", &["chain"]),
    ("certs ssl_certificates tls", &["certificate"]),
    ("connect connect_timeout proxy_connect_timeout timeout_connect", &["dial"]),
    ("expected result outcome verdict should", &["expect"]),
    ("frontend bind_to entrypoint entrypoints server servers", &["listener"]),
    ("hostname server_name servername domain vhost virtual_host sni", &["host", "name"]),
    ("idle_timeout timeout_idle", &["idle", "keep_alive"]),
    ("keepalive_timeout keepalive", &["keep_alive"]),
    ("location locations prefix uri match path_prefix url_path", &["path", "route"]),
    ("max_age_seconds ttl", &["max_age", "lifetime"]),
    (
        "max_conn max_conns maxconn worker_connections limit_conn",
        &["max_connections", "connections"],
    ),
    ("origins_allowed allowed_origins allow_origins cors", &["origins"]),
    ("pidfile worker_processes workers nbthread", &["threads"]),
    ("private_key key_file keyfile ssl_certificate_key tls_key", &["key"]),
    ("policies policy_name", &["policy"]),
    ("policy policy_dir", &["policies"]),
    ("prometheus stats monitoring", &["metrics"]),
    ("protocols sub_protocols websocket_protocols", &["subprotocols"]),
    ("read_timeout proxy_read_timeout timeout_server response_timeout", &["response"]),
    ("rate_limit ratelimit rate_limits limit_req", &["limits", "upgrades"]),
    ("send_timeout proxy_send_timeout", &["write_stall"]),
    ("ssl https secure", &["tls"]),
];

/// The key in `known` that means the same as `word` in other programs.
pub fn synonym<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let ours = SYNONYMS.iter().filter(|(theirs, _)| theirs.split(' ').any(|their| their == word));
    ours.flat_map(|(_, ours)| *ours)
        .find_map(|our| known.clone().into_iter().find(|key| key == our))
}

/// `did you mean …?`, if a word of `known` is close enough to `word` for a typing error.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(|(_, best)| format!("did you mean `{best}`?"))
}

/// The closest word of `known`, and its distance. `None` means that none is close enough.
pub fn nearest<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<(usize, &'a str)> {
    // The distance takes time and memory by length × length, and keys are short.
    if word.len() > 64 {
        return None;
    }
    let near = |candidate: &&str| edit_distance(word, candidate);
    let (slips, best) = known.into_iter().map(|candidate| (near(&candidate), candidate)).min()?;
    // One slip in a short word, and one more for each five letters.
    let forgiven = 1 + best.chars().count().max(word.chars().count()) / 5;
    // As many slips as letters would mean that no letter is the same.
    (slips <= forgiven && slips < best.chars().count()).then_some((slips, best))
}

/// Number of letters that are wrong, missing, extra, or swapped with a neighbour (optimal string
/// alignment).
fn edit_distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) =
        (one.to_lowercase().chars().collect(), other.to_lowercase().chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            // Two neighbours that changed places are one slip.
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(word: &str, known: &[&str], expected: Option<&str>) {
        let expected = expected.map(|word| format!("did you mean `{word}`?"));
        assert_eq!(did_you_mean(word, known.iter().copied()), expected, "{word}");
    }

    #[test]
    fn typing_errors_are_recognised() {
        check("listn", &["listen", "name", "tls"], Some("listen"));
        check("naem", &["listen", "name", "tls"], Some("name"));
        check("market_data", &["market-data", "chat"], Some("market-data"));
        check("TLS", &["tls"], Some("tls"));
    }

    #[test]
    fn a_synonym_is_the_first_that_the_table_has() {
        let route = ["name", "host", "path", "backend"];
        for (word, known, expected) in [
            ("server_name", &route[..], Some("host")),
            ("Server-Name", &["ca", "name"], Some("name")),
            ("proxy_pass", &route, Some("backend")),
            ("location", &route, Some("path")),
            ("location", &["listener", "route"], Some("route")),
            ("ssl_certificate_key", &["chain", "key"], Some("key")),
            ("whitelist", &route, None),
            ("colour", &route, None),
        ] {
            assert_eq!(synonym(word, known.iter().copied()), expected, "{word}");
        }
    }

    #[test]
    fn unrelated_words_are_not_suggested() {
        check("colour", &["listen", "name", "tls"], None);
        check("x", &["y"], None);
        check("name", &[], None);
        check(&"n".repeat(65), &["name"], None);
    }
}
