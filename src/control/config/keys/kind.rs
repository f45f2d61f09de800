//! The kinds of values that several keys have.

use std::time::Duration;

use serde_json::Value as Json;

use super::key::{CustomValue, KeyTable, ValueForm, ValueKind, ValueSchema};
use crate::control::config::document::unit::{
    self, ShareOrCount, format_duration, format_duration_or_off, format_pace, format_size,
    format_size_or_off,
};
use crate::control::config::source_text::Finding;

const DURATION: &[(&str, &str)] =
    &[("anyOf", r#"[{ "type": "string", "pattern": "^(0+|[0-9]+(ms|s|m|h))$" }, { "const": 0 }]"#)];
const POSITIVE_DURATION: &[(&str, &str)] =
    &[("type", r#""string""#), ("pattern", r#""^0*[1-9][0-9]*(ms|s|m|h)$""#)];
const DURATION_OR_OFF: &[(&str, &str)] =
    &[("type", r#""string""#), ("pattern", r#""^(off|0*[1-9][0-9]*(ms|s|m|h))$""#)];
const SIZE: &[(&str, &str)] =
    &[("type", r#""string""#), ("pattern", r#""^0*[1-9][0-9]*(B|KiB|MiB|GiB)$""#)];
const SIZE_OR_OFF: &[(&str, &str)] = &[(
    "anyOf",
    r#"[{ "type": "string", "pattern": "^(off|0+|[0-9]+(B|KiB|MiB|GiB))$" }, { "const": 0 }]"#,
)];
const PACE_OR_OFF: &[(&str, &str)] =
    &[("type", r#""string""#), ("pattern", r#""^(off|0*[1-9][0-9]*(B|KiB|MiB|GiB)/s)$""#)];
const PERCENT: &[(&str, &str)] = &[(
    "anyOf",
    r#"[{ "type": "string", "pattern": "^(0*([0-9]{1,2}|100)%|0+)$" }, { "const": 0 }]"#,
)];
const SHARE_OR_NUMBER: &[(&str, &str)] = &[(
    "anyOf",
    r#"[
  { "type": "string", "pattern": "^(0*([0-9]{1,2}|100)%|[0-9]+)$" },
  { "type": "integer", "minimum": 0 }
]"#,
)];

/// A duration; zero is one.
pub const fn duration() -> ValueKind<Duration> {
    ValueKind {
        words: "duration",
        form: ValueForm::Number { expected: "a duration like \"10s\"", parse: unit::duration },
        schema: ValueSchema::Members(DURATION),
        write: |_, time| format_duration(*time).into(),
    }
}

/// A duration above zero.
pub const fn positive_duration() -> ValueKind<Duration> {
    ValueKind {
        words: "duration above zero",
        form: ValueForm::Number {
            expected: "a duration like \"10s\"",
            parse: unit::positive_duration,
        },
        schema: ValueSchema::Members(POSITIVE_DURATION),
        write: |_, time| format_duration(*time).into(),
    }
}

/// A duration of a second or more.
pub const fn duration_from_a_second() -> ValueKind<Duration> {
    ValueKind {
        words: "duration, `\"1s\"` or more",
        form: ValueForm::Number {
            expected: "a duration like \"10s\"",
            parse: unit::duration_from_a_second,
        },
        schema: ValueSchema::Members(POSITIVE_DURATION),
        write: |_, time| format_duration(*time).into(),
    }
}

/// A duration above zero, or `"off"`, which is `None`. Messages describe it as `expected`.
pub const fn duration_or_off(
    expected: &'static str,
    parse: fn(&str) -> Result<Option<Duration>, Finding>,
) -> ValueKind<Option<Duration>> {
    ValueKind {
        words: "duration above zero, or `\"off\"`",
        form: ValueForm::Number { expected, parse },
        schema: ValueSchema::Members(DURATION_OR_OFF),
        write: |_, time| format_duration_or_off(*time).into(),
    }
}

/// A size above zero, like `expected`. `words` has its bounds.
pub const fn size(words: &'static str, expected: &'static str) -> ValueKind<u64> {
    ValueKind {
        words,
        form: ValueForm::Number { expected, parse: unit::size },
        schema: ValueSchema::Members(SIZE),
        write: |_, size| format_size(*size).into(),
    }
}

/// A size, or `"off"`, which is `None`.
pub const fn size_or_off() -> ValueKind<Option<u64>> {
    ValueKind {
        words: "size, or `\"off\"`",
        form: ValueForm::Number {
            expected: "a size like \"1MiB\", or \"off\"",
            parse: unit::size_or_off,
        },
        schema: ValueSchema::Members(SIZE_OR_OFF),
        write: |_, size| format_size_or_off(*size).into(),
    }
}

/// A pace, or `"off"`, which is `None`.
pub const fn pace_or_off() -> ValueKind<Option<u64>> {
    ValueKind {
        words: "pace, or `\"off\"`",
        form: ValueForm::Text { expected: "a pace like \"500B/s\", or \"off\"", parse: unit::pace },
        schema: ValueSchema::Members(PACE_OR_OFF),
        write: |_, pace| format_pace(*pace).into(),
    }
}

/// A share in whole percent.
pub const fn percent() -> ValueKind<u8> {
    ValueKind {
        words: "share, `\"0%\"` to `\"100%\"`",
        form: ValueForm::Number { expected: "a share like \"50%\"", parse: unit::percent },
        schema: ValueSchema::Members(PERCENT),
        write: |_, percent| format!("{percent}%").into(),
    }
}

/// A share of a total, or a number.
pub const fn share_or_number() -> ValueKind<ShareOrCount> {
    ValueKind {
        words: "share, or a number",
        form: ValueForm::Number {
            expected: "a share like \"20%\", or a number like \"300\"",
            parse: unit::share_or_number,
        },
        schema: ValueSchema::Members(SHARE_OR_NUMBER),
        write: |_, bound| bound.to_string().into(),
    }
}

/// A whole number from `least` to `max`.
pub const fn count(least: u32, max: u32) -> ValueKind<u32> {
    ValueKind {
        words: "",
        // Within the bounds, which are no larger than `u32`.
        form: ValueForm::Integer {
            least: least as i64,
            max: max as i64,
            from: |count| count as u32,
        },
        schema: ValueSchema::OfForm,
        write: |_, count| (*count).into(),
    }
}

/// A TCP port, from 1 on.
pub const fn port() -> ValueKind<u16> {
    ValueKind {
        words: "",
        // Within the bounds, which are those of `u16`.
        form: ValueForm::Integer { least: 1, max: u16::MAX as i64, from: |port| port as u16 },
        schema: ValueSchema::OfForm,
        write: |_, port| (*port).into(),
    }
}

/// A whole number from 1 to `max`, or `"auto"`, which is `None`.
pub const fn count_or_auto(max: u32) -> ValueKind<Option<usize>> {
    ValueKind {
        words: "",
        form: ValueForm::IntegerOrAuto { max: max as i64, from: |count| count },
        schema: ValueSchema::OfForm,
        write: |_, count| count.map_or_else(|| "auto".into(), Json::from),
    }
}

/// One of `words`, each with its meaning.
pub const fn choice<T: PartialEq>(words: &'static [(&'static str, T)]) -> ValueKind<T> {
    ValueKind {
        words: "",
        form: ValueForm::Choice(words),
        schema: ValueSchema::OfForm,
        write: |form, value| {
            let ValueForm::Choice(words) = form else { return Json::Null };
            words.iter().find(|(_, meaning)| meaning == value).map(|(word, _)| *word).into()
        },
    }
}

/// A boolean, `true` or `false`.
pub const fn boolean() -> ValueKind<bool> {
    ValueKind {
        words: "`true` or `false`",
        form: ValueForm::Boolean(|value| value),
        schema: ValueSchema::OfForm,
        write: |_, value| (*value).into(),
    }
}

/// Values with a reader of their own; `schema` has members in JSON.
pub const fn own(
    words: &'static str,
    schema: &'static [(&'static str, &'static str)],
) -> ValueKind<CustomValue> {
    ValueKind {
        words,
        form: ValueForm::Custom,
        schema: ValueSchema::Members(schema),
        write: |_, own| match *own {},
    }
}

/// A path, or other text that is not empty.
pub const fn text(words: &'static str) -> ValueKind<CustomValue> {
    own(words, &[("type", r#""string""#), ("minLength", "1")])
}

/// The table of these keys.
pub const fn table(keys: &'static KeyTable) -> ValueKind<CustomValue> {
    ValueKind {
        words: "table",
        form: ValueForm::Custom,
        schema: ValueSchema::Table(keys),
        write: |_, own| match *own {},
    }
}

/// Several tables of these keys.
pub const fn tables(keys: &'static KeyTable) -> ValueKind<CustomValue> {
    ValueKind {
        words: "tables",
        form: ValueForm::Custom,
        schema: ValueSchema::Tables(keys),
        write: |_, own| match *own {},
    }
}

/// `false`, for what a later version brings.
pub const fn only_false() -> ValueKind<bool> {
    ValueKind {
        words: "`false`",
        form: ValueForm::Boolean(|value| value),
        schema: ValueSchema::Members(&[("const", "false")]),
        write: |_, value| (*value).into(),
    }
}
