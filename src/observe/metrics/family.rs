//! Every metric family: its name, type, labels and help, written here and nowhere else.
//!
//! The help is the documentation: the thing counted, its unit, its beginning and end.

/// The declaration of a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Name in a scrape.
    pub name: &'static str,
    /// Type, as in the `# TYPE` line.
    pub kind: MetricKind,
    /// Names of its labels, in the order in which they are written.
    pub labels: &'static [&'static str],
    /// Text of the `# HELP` line: a sentence or two.
    pub help: &'static str,
}

/// The type of a family's samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative counts by size, with sum and count.
    Histogram,
}

impl MetricKind {
    /// The type's name in Prometheus' text format.
    pub const fn word(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}

/// Every family once, in the order of the documentation.
pub fn table() -> Vec<Family> {
    TABLE.to_vec()
}

macro_rules! families {
    ($($family:ident: $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(pub(super) const $family: Family = Family { name: $name, kind: MetricKind::$kind, labels: &[$($label),*], help: $help };)*
        const TABLE: &[Family] = &[$($family),*];
    };
}

families! {
    CONNECTIONS_ACCEPTED: Counter "sidegate_connections_accepted_total" ["listener"]
        "Connections accepted, counted before the first byte is read.";
    CONNECTIONS_OPEN: Gauge "sidegate_connections_open" ["listener"]
        "Connections accepted and not yet closed, in any state: TLS handshake, requests, a tunnel.";
    CONNECTIONS_CLOSED: Counter "sidegate_connections_closed_total" ["listener" "reason"]
        "Connections closed, by reason: client (it closed, or the connection broke), keep_alive \
         (idle between plain requests), refused (after a refusal that closes), displaced (idle, \
         closed for a newer connection of its client at pending_per_client), cut (an exchange on \
         it was cut: see sidegate_exchanges_closed_total), upgraded (its tunnel ended), drain, \
         retired (its listener was removed, moved or reconfigured), panic (a bug in Sidegate), or \
         a refusal without an answer: banned, pending, network, proxy, tls, head.";
    CONNECTIONS_DISCARDING: Gauge "sidegate_connections_discarding" ["listener"]
        "Open connections after their last answer or a TLS alert whose client still sends, and \
         refused WebSockets until their client has closed. Their input is discarded, so that the \
         client receives the answer.";
    DISCARDS: Counter "sidegate_discards_total" ["listener" "end"]
        "Connections whose discarding ended, by end: client (it closed, as expected), silence (no \
         data for 5 s), time (30 s in total; a refused WebSocket: the route's grace), size \
         (64 MiB), displaced (another connection needed the slot, or more than a tenth of \
         max_connections discarded), drain.";
    CONNECTIONS_LIMIT: Gauge "sidegate_connections_limit" ["listener"]
        "Maximum number of open connections: the listener's max_connections, or the total of the \
         process.";
    PROBES: Counter "sidegate_probes_total" ["listener"]
        "Connections that ended without a byte, such as TCP health checks; also counted as closed \
         with reason client.";
    TLS_HANDSHAKES: Counter "sidegate_tls_handshakes_total" ["listener" "result"]
        "TLS handshakes ended, by result: full, resumed (of an earlier session), failed (by the \
         client, or it left), timeout, rate (not started in time, because the client exceeded \
         handshakes_per_client). Connections without a byte are excluded.";
    TLS_DELAYED: Counter "sidegate_tls_handshakes_delayed_total" ["listener"]
        "TLS handshakes delayed because the client exceeded the listener's handshakes_per_client; \
         most of them are completed later.";
    TLS_HANDSHAKE_SECONDS: Histogram "sidegate_tls_handshake_seconds" ["listener"]
        "Seconds from the accept to the end of the TLS handshake; successful handshakes only.";
    REQUESTS: Counter "sidegate_requests_total" ["route" "kind" "result"]
        "Requests by kind (upgrade: an attempt to open a WebSocket; plain: all others) and \
         result: permitted (the backend answered, with any status, or a slash was added to the \
         path), refused (by Sidegate), failed (no usable answer from the backend, the client left \
         before it, or its body stalled). Without a route, route is -.";
    REFUSALS: Counter "sidegate_refusals_total" ["route" "reason"]
        "Refusals by reason, including those of connections and heads that never became a request \
         (route -). Reason backend is a 502 or 504, counted as failed in sidegate_requests_total.";
    REFUSAL_FORMS: Counter "sidegate_refusal_forms_total" ["route" "form"]
        "Refusals on a route with another refuse than answer, by form: close (the WebSocket opened \
         and was closed with 1008 or 1013), drop (the connection was closed without an answer), \
         capped (answered over HTTP, because too many refused WebSockets were being closed). Also \
         counted in sidegate_refusals_total.";
    UPGRADE_SECONDS: Histogram "sidegate_upgrade_seconds" ["route"]
        "Seconds from the complete request head of an attempt to its 101; attempts that became \
         tunnels only.";
    DIAL_SECONDS: Histogram "sidegate_dial_seconds" ["route"]
        "Seconds to connect to a backend, earlier failed attempts included; successful dials \
         only. A reused connection is not dialled again.";
    BACKEND_UP: Gauge "sidegate_backend_up" ["route" "backend"]
        "State of a backend after its last dial: 1 if it succeeded or there was none yet, 0 if it \
         was refused, timed out or failed in TLS. All routes share the state of a backend. A named \
         backend is 1 while one of its addresses is.";
    BACKEND_CHANGES: Counter "sidegate_backend_changes_total" ["route" "backend"]
        "Changes of sidegate_backend_up, in both directions.";
    BACKEND_ADDRESSES: Gauge "sidegate_backend_addresses" ["route" "backend"]
        "Addresses in use of a backend that is named, those of an earlier answer included. \
         Backends that are an address or a Unix socket have no series.";
    BACKEND_RESOLVED: Gauge "sidegate_backend_resolved" ["route" "backend"]
        "1 if the latest look-up of a backend's name gave an address, else 0; then the addresses \
         of the last answer stay in use. Backends that are an address or a Unix socket have no \
         series.";
    TUNNELS_OPEN: Gauge "sidegate_tunnels_open" ["route"]
        "Tunnels open. A tunnel counts for the route under which it was opened, even if a reload \
         moves its path to another route.";
    TUNNELS_DRAINING: Gauge "sidegate_tunnels_draining" []
        "Open tunnels that processes from before an upgrade keep until they end. They are part of \
         sidegate_tunnels_open.";
    TUNNELS_OPENED: Counter "sidegate_tunnels_opened_total" ["route"]
        "Tunnels opened, counted when the 101 is sent.";
    TUNNELS_CLOSED: Counter "sidegate_tunnels_closed_total" ["route" "by" "phase" "reason"]
        "Tunnels closed, by the side that acted first (by: client, backend, sidegate), the phase \
         (closing: a Close frame had been sent; open: none had) and the reason. A series starts \
         with its first tunnel.";
    TUNNELS_LIMIT: Gauge "sidegate_tunnels_limit" ["policy"]
        "Maximum number of tunnels of a policy: its limit connections.total. Policies without \
         that limit have no series.";
    EXCHANGES_OPEN: Gauge "sidegate_exchanges_open" ["route"]
        "Exchanges open: requests forwarded to a backend whose answer is not complete; a 101 \
         makes a tunnel instead.";
    EXCHANGES_CLOSED: Counter "sidegate_exchanges_closed_total" ["route" "by" "reason"]
        "Exchanges ended, by the side that acted first (by: client, backend, sidegate) and the \
         reason; complete means that the whole answer was sent. A series starts with its first \
         exchange.";
    STREAMS_LIMIT: Gauge "sidegate_streams_limit" ["policy"]
        "Maximum number of streams of a policy: its limit streams.total. A stream is an exchange \
         that has lasted 5 s. Policies without that limit have no series.";
    TUNNEL_LIFETIME_SECONDS: Histogram "sidegate_tunnel_lifetime_seconds" ["route"]
        "Seconds from the 101 to the end of a tunnel; ended tunnels only.";
    BYTES: Counter "sidegate_bytes_total" ["route" "direction"]
        "Bytes of WebSocket frames relayed, by direction; headers and open tunnels included, TLS \
         overhead and frames created by Sidegate excluded.";
    MESSAGES: Counter "sidegate_messages_total" ["route" "direction"]
        "WebSocket messages relayed, by direction, counted at their first frame; open tunnels \
         included, control frames excluded.";
    REVOKED: Counter "sidegate_revoked_total" ["route" "refusal"]
        "Tunnels closed because they are no longer permitted, by the refusal that a new attempt \
         would get.";
    RELOADS: Counter "sidegate_reloads_total" ["outcome"]
        "Reloads by outcome: published (a new generation runs), unchanged (the files match the \
         running generation), rejected (the previous generation keeps running). Polls without a \
         change and the start are excluded.";
    GENERATION: Gauge "sidegate_generation" []
        "Number of the running generation: 1 after the start, increased by each published reload.";
    RELOAD_SUCCESSFUL: Gauge "sidegate_config_last_reload_successful" []
        "1 if the running configuration matches the files, 0 if the last reload was rejected.";
    RELOAD_SUCCESS_TIMESTAMP: Gauge "sidegate_config_last_reload_success_timestamp_seconds" []
        "Unix time in seconds of the last successful reload, published or unchanged, or of the \
         start.";
    CONFIG_INFO: Gauge "sidegate_config_info" ["digest"]
        "Always 1; digest identifies all files of the running generation.";
    CERTIFICATE_NOT_AFTER: Gauge "sidegate_certificate_not_after_timestamp_seconds" ["certificate"]
        "Unix time in seconds at which a served certificate expires; certificate is the chain's \
         path as written in the configuration.";
    CRL_NEXT_UPDATE: Gauge "sidegate_crl_next_update_timestamp_seconds" ["listener"]
        "Unix time in seconds at which the first revocation list of the listener expires; absent \
         where no list has a date.";
    LIST_ENTRIES: Gauge "sidegate_list_entries" ["list" "policy"]
        "Networks in a list that a policy's rules refer to, lapsed ones included.";
    LIST_MODIFIED: Gauge "sidegate_list_modified_timestamp_seconds" ["list" "policy"]
        "Unix time in seconds of the last modification of a list's file. Lists written in the \
         policy itself have no series.";
    ENTRIES_LAPSING: Gauge "sidegate_entries_lapsing_30d" ["list" "policy"]
        "Entries of a list that expire within the next 30 days; lapsed entries excluded.";
    CANDIDATE_DIFFERENCES: Counter "sidegate_candidate_differences_total" ["policy" "difference" "reason"]
        "Decisions on which a policy and its candidate (policies/NAME.shadow.toml) differ, by \
         difference: would_refuse (the policy permitted), would_admit (the policy refused). \
         reason is the refusal, of the policy or of the candidate. A series starts with its first \
         decision.";
    CANDIDATE_WOULD_REVOKE: Gauge "sidegate_candidate_would_revoke" ["policy"]
        "Open tunnels that a policy's candidate would revoke, as of the last reload or poll. \
         Policies without a candidate have no series.";
    LIMITER_KEYS: Gauge "sidegate_limiter_keys" ["policy" "limit"]
        "Clients tracked by a rate limiter, by limit: upgrades or requests. IPv6 clients are \
         tracked by /64. A client with a full budget is dropped when its slot is needed.";
    LIMITER_OVERFLOW: Counter "sidegate_limiter_overflow_total" ["policy" "limit"]
        "Tokens taken from the budget shared by untracked clients, because the limiter's table \
         was full.";
    IDENTITY_COLLAPSED: Gauge "sidegate_identity_collapsed" ["listener"]
        "1 if the clients of the listener cannot be told apart: nearly all share one private or \
         loopback address, or forwarded headers come that nothing reads; else 0.";
    BANS: Gauge "sidegate_bans" ["origin"]
        "Bans in force, by origin: operator (sidegate ban), fail2ban or crowdsec.";
    CROWDSEC_POLLS: Counter "sidegate_crowdsec_polls_total" ["result"]
        "Polls of CrowdSec's Local API, by result: answered or failed. Without [crowdsec] no \
         series.";
    CROWDSEC_ANSWERED: Gauge "sidegate_crowdsec_last_answer_timestamp_seconds" []
        "Unix time in seconds of the last answer of CrowdSec's Local API; 0 before the first.";
    CROWDSEC_REFUSED: Gauge "sidegate_crowdsec_refused" ["reason"]
        "Decisions of CrowdSec that are not applied, by reason: type, scope, unreadable, wide, \
         total, loopback, peer, test, lifted or excess.";
    CROWDSEC_HELD: Gauge "sidegate_crowdsec_held" []
        "Bans of CrowdSec that are held, since they would end more clients than max_revoked.";
    WATCH_DEGRADED: Gauge "sidegate_watch_degraded" []
        "1 if the files are polled because they cannot be watched, else 0.";
    PENDING_GENERATION: Gauge "sidegate_pending_generation" []
        "Number that the saved files would get as a generation, while [reload] watch = \"hold\" \
         holds them back; 0 if none are pending.";
    PENDING_REJECTED: Gauge "sidegate_pending_rejected" []
        "1 if files are pending and a plain `sidegate reload` would be rejected, else 0.";
    TEST_OVERRIDES: Gauge "sidegate_test_overrides" []
        "Failed tests of policies that are overridden, as `--override` ordered; each ends when its \
         test passes or is gone.";
    DRAINING: Gauge "sidegate_draining" []
        "1 while the process drains, from the order to its end; else 0.";
    LOG_DROPS: Counter "sidegate_log_drops_total" []
        "Log lines dropped because the log's reader was too slow.";
    PANICS: Counter "sidegate_panics_total" []
        "Panics caught (bugs in Sidegate); each ended one connection or one reload.";
    SCRAPES_REFUSED: Counter "sidegate_scrapes_refused_total" []
        "Refusals with 403 at the address of [metrics]: connections from outside its allow, and, \
         at a loopback address, requests with a foreign Host.";
    BUILD_INFO: Gauge "sidegate_build_info" ["version"]
        "Always 1; version is the version of the program.";
    CPU_SECONDS: Counter "process_cpu_seconds_total" []
        "CPU time of the process in seconds, user and system mode, with a resolution of 10 ms.";
    RESIDENT_MEMORY: Gauge "process_resident_memory_bytes" []
        "Resident memory of the process in bytes.";
    VIRTUAL_MEMORY: Gauge "process_virtual_memory_bytes" []
        "Virtual memory of the process in bytes.";
    START_TIME: Gauge "process_start_time_seconds" []
        "Unix time in seconds at which the process started.";
    THREADS: Gauge "process_threads" []
        "Number of threads of the process.";
    OPEN_FDS: Gauge "process_open_fds" []
        "Number of open file descriptors: about two for each tunnel.";
    MAX_FDS: Gauge "process_max_fds" []
        "Maximum number of open file descriptors.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_a_valid_name_and_help() {
        for family in table() {
            let Family { name, kind, labels, help } = family;
            assert_eq!(name.ends_with("_total"), kind == MetricKind::Counter, "{name}");
            assert!(kind != MetricKind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(
                help.ends_with('.') && help.len() > 20 && !help.contains(['\n', '|']),
                "{name}: {help}"
            );
            assert!(
                labels.iter().all(|label| label.chars().all(|c| c.is_ascii_lowercase())),
                "{name}"
            );
        }
    }

    #[test]
    fn family_names_are_unique() {
        let names: std::collections::HashSet<_> =
            table().iter().map(|family| family.name).collect();
        assert_eq!(names.len(), table().len());
    }
}
