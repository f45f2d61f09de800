//! Directives with a fixed counterpart in Sidegate: each gets a note with both values.
//!
//! Carries nothing over; the note says where nginx' value can be written.

use std::time::Duration;

use crate::import::nginx::import_context::ImportContext;
use crate::import::nginx::unit;
use crate::import::nginx::unit::format_duration;
use crate::import::report::DirectiveOutcome;
use crate::import::tree::Directive;
use sidegate::snapshot::listener::ListenerTimeouts;

/// Default of a listener's `max_head`, in bytes.
const MAX_HEAD_BYTES: u64 = 32 << 10;

/// Largest head of a backend's answer, in bytes.
const MAX_ANSWER_HEAD_BYTES: u64 = 64 << 10;

/// Notes a directive of `http`, `server` or `location`. Returns `false` if it isn't handled here.
pub fn note(directive: &Directive, context: &mut ImportContext<'_>) -> bool {
    let default = ListenerTimeouts::default();
    match directive.name.as_str() {
        "client_header_timeout" => {
            timeout(directive, "head", default.head, "gave up at once", context);
        }
        "keepalive_timeout" => {
            timeout(
                directive,
                "keep_alive",
                default.keep_alive,
                "closed after each answer",
                context,
            );
        }
        "keepalive_requests" | "keepalive_time" => {
            let text = format!(
                "connections of clients end by `timeouts.keep_alive`, by no number of requests \
                 and no age; nginx had {}",
                directive.first()
            );
            context.notes.add(directive.id, DirectiveOutcome::Differs, text);
        }
        "large_client_header_buffers" => heads(directive, context),
        "proxy_buffer_size" => answers(directive, context),
        _ => return false,
    }
    true
}

/// Notes a directive of an `upstream`, if it is handled here.
pub fn note_upstream(directive: &Directive, context: &mut ImportContext<'_>) {
    if ["keepalive", "keepalive_requests", "keepalive_time", "keepalive_timeout"]
        .contains(&directive.name.as_str())
    {
        let text = format!(
            "connections to a backend are reused by Sidegate's own bounds; nginx had {}",
            directive.first()
        );
        context.notes.add(directive.id, DirectiveOutcome::Differs, text);
    }
}

fn timeout(
    directive: &Directive,
    key: &str,
    own: Duration,
    zero: &str,
    context: &mut ImportContext<'_>,
) {
    let Some(value) = unit::time(directive.first()) else {
        return context.fault(directive.id, format!("invalid value \"{}\"", directive.first()));
    };
    let (word, text) = match value {
        Duration::ZERO => (
            DirectiveOutcome::Differs,
            format!("`timeouts.{key}` is {}; nginx {zero}", format_duration(own)),
        ),
        value if value == own => {
            (DirectiveOutcome::Carried, format!("the default of `timeouts.{key}`"))
        }
        value => (
            DirectiveOutcome::Differs,
            format!(
                "`timeouts.{key}` is {}; nginx had {}",
                format_duration(own),
                format_duration(value)
            ),
        ),
    };
    context.notes.add(directive.id, word, text);
}

/// Notes `large_client_header_buffers`: each line must fit one buffer, and all lines fit the number
/// of buffers.
fn heads(directive: &Directive, context: &mut ImportContext<'_>) {
    let size = directive.words.get(1).and_then(|size| unit::size(size));
    let (Some(count), Some(size)) = (unit::number(directive.first()), size) else {
        return context
            .fault(directive.id, format!("invalid value \"{}\"", directive.words.join(" ")));
    };
    let (word, more) = match count.saturating_mul(size) {
        MAX_HEAD_BYTES => (DirectiveOutcome::Needless, String::new()),
        _ => (DirectiveOutcome::Differs, format!("; nginx had {count} buffers of {size} bytes")),
    };
    context.notes.add(
        directive.id,
        word,
        format!("a head may have 32 KiB: the listener's `max_head`{more}"),
    );
}

/// Notes `proxy_buffer_size`, which bounds the head of an answer.
fn answers(directive: &Directive, context: &mut ImportContext<'_>) {
    let Some(size) = unit::size(directive.first()) else {
        return context.fault(directive.id, format!("invalid value \"{}\"", directive.first()));
    };
    if size > MAX_ANSWER_HEAD_BYTES {
        let text = format!("the head of an answer may have 64 KiB; nginx had {size} bytes");
        return context.notes.add(directive.id, DirectiveOutcome::Differs, text);
    }
    context.notes.add(
        directive.id,
        DirectiveOutcome::Needless,
        "the head of an answer may have 64 KiB",
    );
}
