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
        "Whom the peer speaks for. Of refusals left out: an IPv6 client's /64, or `others`.",
    ),
    ("peer", "The socket's other end."),
    ("kind", "`upgrade` or `plain`."),
    (
        "result",
        "`permitted`, `refused`, or `failed`: at the backend, or because the client left before its answer.",
    ),
    (
        "reason",
        "Of a refusal its word; of a tunnel, an exchange or a failed request the word of its ending.",
    ),
    (
        "difference",
        "How a policy's candidate would have decided otherwise: `would_refuse` or `would_admit`; `reason` and `rule` are of the one that refuses.",
    ),
    ("status", "The status of the answer; left out where there was none."),
    ("host", "The host asked for; as it came where the request was malformed."),
    (
        "path",
        "The path that was judged, without its query; the path of an order on the admin socket.",
    ),
    ("origin", "The page that asked, where the reason is `origin`."),
    (
        "request_id",
        "The id that the backend got as `X-Request-Id` and a refused client as `request_id`.",
    ),
    ("generation", "The generation that judged; of a reload the one that runs."),
    ("policy", "The policy that judged."),
    ("rule", "File and line of the policy's rule that decided."),
    (
        "list",
        "The list of the entry that decided; `(allow)` or `(deny)` for what stands in the rule itself.",
    ),
    (
        "entry",
        "The entry that decided: the network that admitted or denied the client, or kept it out (`!`, or lapsed).",
    ),
    ("entry_at", "File and line of that entry."),
    ("owner", "The entry's `owner`."),
    ("ticket", "The entry's `ticket`."),
    ("expires", "The entry's `expires`."),
    ("would_match", "The entry of the same list that would have admitted the client."),
    ("backend", "The backend that was dialled."),
    (
        "error",
        "What went wrong, in the words of whoever noticed; of an ambiguous `path` the reading, and the route and policy that it leads to.",
    ),
    (
        "left_out",
        "How many refusals of this client have no line of their own; reason and route are those of the last.",
    ),
    ("tunnel", "The tunnel's number in this process."),
    ("exchange", "The exchange's number in this process."),
    ("by", "Who ended the tunnel or the exchange: `client`, `backend` or `sidegate`."),
    (
        "phase",
        "How far it had come: a tunnel `open` or `closing`, an exchange `request` or `answer`.",
    ),
    ("refusal", "The refusal's word, of a tunnel or an exchange that is no longer permitted."),
    ("code", "The close code that decided."),
    ("bytes_from_client", "Bytes of WebSocket frames that the client sent and the backend got."),
    ("messages_from_client", "Messages that the client sent."),
    (
        "bytes_from_backend",
        "Bytes of WebSocket frames that the backend sent and the client got; of an exchange, of the answer's body.",
    ),
    ("messages_from_backend", "Messages that the backend sent."),
    ("seconds", "How long the tunnel or the exchange lasted."),
    (
        "cause",
        "What asked for a reload: `saved` (a file), `poll`, `signal`, `asked` (`sidegate reload`).",
    ),
    ("digest", "The digest of the files that run."),
    ("revoked", "How many tunnels and exchanges a reload revokes."),
    ("milliseconds", "How long a reload took."),
    ("place", "File, line and column of what is wrong; of a bug of ours its place in the source."),
    ("remedy", "What to write instead."),
    ("tunnels", "How many tunnels are concerned."),
    ("exchanges", "How many exchanges in flight are concerned."),
    ("address", "The address that is listened on."),
    ("socket", "The admin socket to which no link leads."),
    ("stalled", "The loop that has stopped turning, or turns again."),
    ("uid", "The user who gave an order on the admin socket."),
    ("gid", "The group of that user."),
    ("pid", "The process that gave the order."),
    ("outcome", "What became of the order."),
    ("method", "The method of an order on the admin socket."),
    ("thread", "The thread that a bug of ours broke."),
    ("cut", "`true` where the line was too long and its last fields are missing."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_stands_once_and_its_name_is_one_that_the_journal_takes() {
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
