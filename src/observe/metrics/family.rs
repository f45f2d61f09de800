//! Every metric family: its name, type, labels and help, written here and nowhere else.
//!
//! The help is the documentation: the thing counted, its unit, its beginning and end.

/// The declaration of a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Name in a scrape.
    pub name: &'static str,
    /// Type, as in the `# TYPE` line.
    pub kind: Kind,
    /// Names of its labels, in the order in which they are written.
    pub labels: &'static [&'static str],
    /// Text of the `# HELP` line: a sentence or two.
    pub help: &'static str,
}

/// The type of a family's samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative counts by size, with sum and count.
    Histogram,
}

impl Kind {
    /// The type's name in Prometheus' text format.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Every family once, in the order of the documentation.
pub fn table() -> Vec<Family> {
    TABLE.to_vec()
}

macro_rules! families {
    ($($family:ident: $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(pub(super) const $family: Family = Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        const TABLE: &[Family] = &[$($family),*];
    };
}

families! {
    CONNECTIONS_ACCEPTED: Counter "sidegate_connections_accepted_total" ["listener"]
        "Connections accepted, before anything is known of them.";
    CONNECTIONS_OPEN: Gauge "sidegate_connections_open" ["listener"]
        "Connections accepted and not yet closed, whatever they do: TLS handshake, requests, a tunnel.";
    CONNECTIONS_CLOSED: Counter "sidegate_connections_closed_total" ["listener" "reason"]
        "Connections closed, by the one reason: client (it left or broke off), keep_alive (idle between plain requests), refused (by an answer that closes), displaced (idle, it made room for a newer connection of its client at pending_per_client), cut (an exchange on it was cut: sidegate_exchanges_closed_total says why), upgraded (its tunnel ended), drain, retired (its listener was removed, moved, or speaks otherwise now), panic (a bug of ours), or a refusal that gets no answer: pending, tls, head.";
    CONNECTIONS_DISCARDING: Gauge "sidegate_connections_discarding" ["listener"]
        "Open connections that have had their last answer or a TLS alert, and whose client is still sending: what comes is discarded, so that the answer arrives.";
    DISCARDS: Counter "sidegate_discards_total" ["listener" "end"]
        "Discarding that came to its end: client (it closed, as it should), silence (nothing came for 5 s), time (30 s in all), size (64 MiB), displaced (another connection needed its place, or more than a tenth of max_connections discarded), drain.";
    CONNECTIONS_LIMIT: Gauge "sidegate_connections_limit" ["listener"]
        "The most connections at once: the listener's max_connections, or the process' total.";
    PROBES: Counter "sidegate_probes_total" ["listener"]
        "Connections that ended without a byte, as health checks do; also counted as closed, reason client.";
    TLS_HANDSHAKES: Counter "sidegate_tls_handshakes_total" ["listener" "result"]
        "TLS handshakes that came to an end: full, resumed (of an earlier session), failed (the client's fault, or it left), timeout, rate (not begun in time, because its client was over handshakes_per_client). Empty connections are not among them.";
    TLS_DELAYED: Counter "sidegate_tls_handshakes_delayed_total" ["listener"]
        "TLS handshakes that had to wait, because their client was over the listener's handshakes_per_client; most of them are made in the end.";
    TLS_HANDSHAKE_SECONDS: Histogram "sidegate_tls_handshake_seconds" ["listener"]
        "Seconds from the accept to the end of the TLS handshake, of those that succeeded.";
    REQUESTS: Counter "sidegate_requests_total" ["route" "kind" "result"]
        "Requests by kind, upgrade (an attempt to open a WebSocket) or plain, and by result: permitted (the backend answered, whatever it said, or a slash was added to the path), refused (we said no), failed (the backend gave no usable answer, the client left before there was one, or its body stalled). Where no route was found, route is -.";
    REFUSALS: Counter "sidegate_refusals_total" ["route" "reason"]
        "Refusals by reason, also of connections and heads that never became a request (route -). Reason backend is a 502 or a 504, failed in sidegate_requests_total.";
    UPGRADE_SECONDS: Histogram "sidegate_upgrade_seconds" ["route"]
        "Seconds from the whole head of an attempt until its 101 is sent, of those that became tunnels.";
    DIAL_SECONDS: Histogram "sidegate_dial_seconds" ["route"]
        "Seconds from the wish for a connection to a backend until it stands, backends that refused before included; of dials that succeeded. A kept connection is not dialled again.";
    BACKEND_UP: Gauge "sidegate_backend_up" ["route" "backend"]
        "0: the last dial of this backend was refused, came too late or failed in TLS; 1: it succeeded, or there was none yet. Whatever route dialled, the backend's state is the same for all.";
    BACKEND_CHANGES: Counter "sidegate_backend_changes_total" ["route" "backend"]
        "How often sidegate_backend_up changed, both ways.";
    TUNNELS_OPEN: Gauge "sidegate_tunnels_open" ["route"]
        "Tunnels opened and not yet closed. A tunnel belongs to the route under which it opened, even where a reload leads its path elsewhere.";
    TUNNELS_OPENED: Counter "sidegate_tunnels_opened_total" ["route"]
        "Tunnels opened: the 101 was sent.";
    TUNNELS_CLOSED: Counter "sidegate_tunnels_closed_total" ["route" "by" "phase" "reason"]
        "Tunnels closed: by whom first (client, backend, sidegate), in which phase (closing: a Close frame had gone out, a side's or ours; open: none had), and the one reason. A series begins with its first tunnel.";
    TUNNELS_LIMIT: Gauge "sidegate_tunnels_limit" ["policy"]
        "The most tunnels at once under a policy: its limit connections.total. Without that limit there is no series.";
    EXCHANGES_OPEN: Gauge "sidegate_exchanges_open" ["route"]
        "Exchanges in flight: requests that were forwarded and whose answer, if it is no 101, has not ended yet.";
    EXCHANGES_CLOSED: Counter "sidegate_exchanges_closed_total" ["route" "by" "reason"]
        "Exchanges ended: by whom first (client, backend, sidegate), and the one reason; complete is an answer that was handed over whole. A series begins with its first exchange.";
    STREAMS_LIMIT: Gauge "sidegate_streams_limit" ["policy"]
        "The most streams at once under a policy, its limit streams.total: exchanges that have lasted 5 s. Without that limit there is no series.";
    TUNNEL_LIFETIME_SECONDS: Histogram "sidegate_tunnel_lifetime_seconds" ["route"]
        "Seconds from the 101 to the end of a tunnel, of those that ended.";
    BYTES: Counter "sidegate_bytes_total" ["route" "direction"]
        "Bytes of WebSocket frames relayed, headers included, before encryption; open tunnels are in it, frames of our own are not.";
    MESSAGES: Counter "sidegate_messages_total" ["route" "direction"]
        "WebSocket messages relayed, each counted when it begins; control frames are none. Open tunnels are in it.";
    REVOKED: Counter "sidegate_revoked_total" ["route" "refusal"]
        "Tunnels that ended because they are no longer permitted, by the refusal that a new attempt would get.";
    RELOADS: Counter "sidegate_reloads_total" ["outcome"]
        "Reloads: published (a new generation runs), unchanged (the files are what runs), rejected (what runs was kept). A look that finds nothing new is no reload, nor is the start.";
    GENERATION: Gauge "sidegate_generation" []
        "The number of the generation that runs: 1 from the start, and one more by each reload that is published.";
    RELOAD_SUCCESSFUL: Gauge "sidegate_config_last_reload_successful" []
        "1: the files are what runs; 0: the last reload was rejected.";
    RELOAD_SUCCESS_TIMESTAMP: Gauge "sidegate_config_last_reload_success_timestamp_seconds" []
        "When the files last became what runs, or were found to be by a reload; in seconds of Unix time.";
    CONFIG_INFO: Gauge "sidegate_config_info" ["digest"]
        "Always 1; digest is that of all files which the running generation was made from.";
    CERTIFICATE_NOT_AFTER: Gauge "sidegate_certificate_not_after_timestamp_seconds" ["certificate"]
        "When a certificate that is served stops being valid, in seconds of Unix time; certificate is its chain as written.";
    LIST_ENTRIES: Gauge "sidegate_list_entries" ["list" "policy"]
        "Networks in a list that a policy's rules name, lapsed ones included.";
    LIST_MODIFIED: Gauge "sidegate_list_modified_timestamp_seconds" ["list" "policy"]
        "When the file of a list was last written, in seconds of Unix time. A list that stands in the policy itself has no series.";
    ENTRIES_LAPSING: Gauge "sidegate_entries_lapsing_30d" ["list" "policy"]
        "Entries of a list that expire within the next 30 days; those that have lapsed already are not counted.";
    CANDIDATE_DIFFERENCES: Counter "sidegate_candidate_differences_total" ["policy" "difference" "reason"]
        "Decisions that a policy's candidate (policies/NAME.shadow.toml) would have made otherwise, by difference: would_refuse what the policy permitted, would_admit what it refused; reason is the refusal of the one that refuses. A series begins with its first decision.";
    CANDIDATE_WOULD_REVOKE: Gauge "sidegate_candidate_would_revoke" ["policy"]
        "Open tunnels that a policy's candidate would revoke, as of the last reload or poll. Without a candidate there is no series.";
    LIMITER_KEYS: Gauge "sidegate_limiter_keys" ["policy" "limit"]
        "Clients that a rate is tracked for, by limit: upgrades or requests. IPv6 clients are tracked by /64; one whose budget is full again is forgotten when its place is wanted.";
    LIMITER_OVERFLOW: Counter "sidegate_limiter_overflow_total" ["policy" "limit"]
        "Tokens taken from a budget that clients share, because the table of clients was full.";
    WATCH_DEGRADED: Gauge "sidegate_watch_degraded" []
        "1: the files are polled, because they cannot be watched; 0: all is as configured.";
    DRAINING: Gauge "sidegate_draining" []
        "1: shutting down, from the order until the end of the process; else 0.";
    LOG_DROPS: Counter "sidegate_log_drops_total" []
        "Log lines dropped, because what takes the log was too slow.";
    PANICS: Counter "sidegate_panics_total" []
        "Bugs of ours, each of which ended one connection or one reload.";
    SCRAPES_REFUSED: Counter "sidegate_scrapes_refused_total" []
        "Refused at the address of [metrics], each by a 403: connections from outside its allow, and at a loopback address requests for a foreign Host.";
    BUILD_INFO: Gauge "sidegate_build_info" ["version"]
        "Always 1; version is that of the program.";
    CPU_SECONDS: Counter "process_cpu_seconds_total" []
        "Seconds of CPU time that the process has used, in user and system mode, to the hundredth.";
    RESIDENT_MEMORY: Gauge "process_resident_memory_bytes" []
        "Bytes of memory that the process has in RAM.";
    VIRTUAL_MEMORY: Gauge "process_virtual_memory_bytes" []
        "Bytes of address space that the process has mapped.";
    START_TIME: Gauge "process_start_time_seconds" []
        "When the process started, in seconds of Unix time.";
    THREADS: Gauge "process_threads" []
        "Threads of the process.";
    OPEN_FDS: Gauge "process_open_fds" []
        "File descriptors that are open: about two for each tunnel.";
    MAX_FDS: Gauge "process_max_fds" []
        "The most file descriptors that may be open.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_named_as_prometheus_wants_it_and_says_what_it_is() {
        for family in table() {
            let Family { name, kind, labels, help } = family;
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            assert!(kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
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
    fn no_family_is_there_twice() {
        let names: std::collections::HashSet<_> =
            table().iter().map(|family| family.name).collect();
        assert_eq!(names.len(), table().len());
    }
}
