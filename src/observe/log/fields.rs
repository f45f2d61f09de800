//! The fields of log lines: every name that a line may have, and its meaning.
//!
//! A name that is also a metric's label has the same values there. In the journal the names are in
//! capitals.

/// Each field's name and meaning; the fields of decisions and endings come first.
pub const FIELDS: &[(&str, &str)] = &[
    ("route", "The route's name; `-` where none was found."),
    ("listener", "The listener's name."),
    (
        "client",
        "The client's address. In a summary of refusals left out: an IPv6 client's /64, or \
         `others`.",
    ),
    (
        "client_network",
        "The /64 that counts as this client: in a refusal of an IPv6 client, for programs that \
         count refusals.",
    ),
    ("peer", "The address of the socket's remote end."),
    ("proxy", "The version of the PROXY header by which the peer named the client: `v1` or `v2`."),
    (
        "proxy_tlvs",
        "What else that header says: `authority`, `unique_id`, `tls` and `cn`, each in quotes, and \
         `verify`, which is 0 for a client certificate that the peer has verified.",
    ),
    (
        "derived",
        "How the client was found in the forwarded headers of a listed peer, step by step; absent \
         where no header was believed.",
    ),
    (
        "identity",
        "The client's verified certificate: its first URI name, else its first DNS name, else its \
         key.",
    ),
    ("kind", "`upgrade` or `plain`."),
    (
        "result",
        "`permitted`, `refused`, or `failed`: at the backend, or because the client left before \
         the answer.",
    ),
    (
        "reason",
        "For a refusal its word; for a tunnel, an exchange or a failed request the word of its \
         ending.",
    ),
    (
        "difference",
        "How the policy's candidate would have decided: `would_refuse` or `would_admit`. `reason` \
         and `rule` belong to the refusal.",
    ),
    ("status", "The status of the answer; absent if there was none."),
    (
        "refuse",
        "How a refusal reached its client where the route does not answer it over HTTP: close, \
         drop, or capped (answered after all: too many refused WebSockets were being closed).",
    ),
    ("host", "The requested host; unchanged if the request was malformed."),
    (
        "path",
        "The path that was judged, without its query; for an order on the admin socket its path.",
    ),
    ("origin", "The request's `Origin`, if the reason is `origin`."),
    (
        "request_id",
        "The id sent to the backend as `X-Request-Id` and to a refused client as `request_id`.",
    ),
    (
        "trace_id",
        "The trace of the request, of its `traceparent` (W3C Trace Context); absent where it has \
         none.",
    ),
    ("generation", "The generation that judged the request; for a reload the running one."),
    ("policy", "The policy that judged the request."),
    ("rule", "File and line of the policy's rule that decided."),
    (
        "list",
        "The list of the entry that decided; `(allow)` or `(deny)` for an entry in the rule \
         itself.",
    ),
    (
        "entry",
        "The entry that decided: the network that admitted, denied or excluded (`!`, or lapsed) \
         the client.",
    ),
    ("entry_at", "File and line of that entry."),
    ("owner", "The entry's `owner`."),
    ("ticket", "The entry's `ticket`."),
    ("expires", "The entry's `expires`."),
    ("would_match", "The entry of the same list that would have admitted the client."),
    ("backend", "The backend that was dialled, as the route names it."),
    ("backend_address", "The address that was dialled, for a backend with a name."),
    (
        "error",
        "The cause of the failure; for an ambiguous `path` the reading, with the route and policy \
         that it leads to.",
    ),
    ("ban", "The address, network, user or name of certificates of a ban."),
    ("why", "The ban's reason, in words of the operator."),
    ("source", "Where the ban comes from: `operator`, `fail2ban` or `crowdsec`."),
    ("decision", "Scope and value of a decision of CrowdSec that is not applied."),
    ("changed", "The saved files that wait for an order, under `watch = \"hold\"`."),
    ("spans", "Number of spans that are lost."),
    ("bans", "Number of bans: that the start has read, or of CrowdSec."),
    ("overridden", "The override with which a ban was ordered."),
    (
        "left_out",
        "Number of refusals of this client without a line of their own; reason and route are \
         those of the last.",
    ),
    ("tunnel", "The tunnel's number in this process."),
    ("exchange", "The exchange's number in this process."),
    ("by", "The side that ended the tunnel or the exchange: `client`, `backend` or `sidegate`."),
    ("phase", "State at the end: a tunnel `open` or `closing`, an exchange `request` or `answer`."),
    ("refusal", "The refusal's word, for a tunnel or an exchange that is no longer permitted."),
    ("code", "The close code that ended the tunnel, or in which the client got a refusal."),
    ("bytes_from_client", "Bytes of WebSocket frames relayed from the client to the backend."),
    ("messages_from_client", "Messages relayed from the client."),
    (
        "bytes_from_backend",
        "Bytes of WebSocket frames relayed from the backend to the client; for an exchange, bytes \
         of the answer's body.",
    ),
    ("messages_from_backend", "Messages relayed from the backend."),
    ("seconds", "Duration of the tunnel or the exchange in seconds."),
    (
        "cause",
        "What triggered a reload: `saved` (a file changed), `poll`, `signal`, `asked` (`sidegate \
         reload`).",
    ),
    ("digest", "The digest of the running files."),
    ("revoked", "Number of tunnels and exchanges that a reload revokes."),
    ("milliseconds", "Duration of a reload in milliseconds."),
    ("place", "File, line and column of an error; for a bug in Sidegate its place in the source."),
    ("remedy", "The correction to make."),
    ("tunnels", "Number of tunnels affected."),
    ("exchanges", "Number of open exchanges affected."),
    ("address", "The address that is listened on, or of a backend that went down or up."),
    ("name", "Host and port of a backend's name that was resolved."),
    ("addresses", "The addresses of that name that are in use."),
    ("former", "The addresses that the name had before."),
    ("socket", "The admin socket that has no link."),
    ("stalled", "The event loop that is stalled, or that runs again."),
    ("uid", "The user who gave an order on the admin socket."),
    ("gid", "The group of that user."),
    ("pid", "The process that gave the order."),
    ("process", "Process id of the other process in an upgrade."),
    ("binary", "The program that an upgrade starts."),
    ("version", "Version of the new program in an upgrade."),
    ("outcome", "The outcome of the order."),
    ("filter", "The filter of the log that holds now."),
    ("until", "When a ban ends by itself, or the earlier filter of the log holds again."),
    ("method", "The method of an order on the admin socket."),
    ("thread", "The thread that panicked."),
    ("cut", "`true` if the line was too long and its last fields are missing."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_are_unique_and_valid_in_the_journal() {
        for (at, (name, meaning)) in FIELDS.iter().enumerate() {
            assert!(FIELDS[..at].iter().all(|(other, _)| other != name), "{name} twice");
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                    && !name.starts_with('_'),
                "{name}"
            );
            assert!(meaning.ends_with(['.', '…']), "{name}: {meaning}");
        }
    }
}
