//! `[admin]`.

use crate::control::config::document::unit::{self, format_size};
use crate::control::config::keys::key::{
    Key, KeyTable, KeyWithDefault, ValueForm, ValueKind, ValueSchema,
};
use crate::control::config::keys::kind::{choice, count};
use crate::control::config::keys::parse::{group, mode};
use crate::control::config::settings::{AdminSocket, PageAddress, PageAddresses};

/// Most decisions that are kept: more take longer to search than a command waits.
const MAX_RECENT: u32 = 1_000_000;

pub static TABLE: KeyTable = KeyTable {
    keys: &[
        &SOCKET,
        &MODE,
        &GROUP,
        &RECENT_DECISIONS,
        &RECENT_BYTES,
        &PAGE_LISTEN,
        &PAGE_MODE,
        &PAGE_GROUP,
        &PAGE,
    ],
    reload: "A changed socket, or listener of the page, is made before the reload is published; \
             where that fails, the reload is rejected. Smaller bounds of recent decisions drop \
             the oldest at once. `page` holds from the next update of an open page on.",
    ..KeyTable::EMPTY
};

pub static SOCKET: KeyWithDefault<AdminSocket> = Key::new(
    "socket",
    ValueKind {
        words: "`\"auto\"`, a path, `\"systemd:NAME\"`, or `\"off\"`",
        form: ValueForm::Custom,
        schema: ValueSchema::Members(&[("type", r#""string""#), ("minLength", "1")]),
        write: |_, socket| match socket {
            AdminSocket::Auto => "auto".into(),
            AdminSocket::Path(path) => path.display().to_string().into(),
            AdminSocket::Systemd(name) => format!("systemd:{name}").into(),
            AdminSocket::Off => "off".into(),
        },
    },
    "\"auto\": where commands look for it by themselves; or a path, \"systemd:NAME\", or \"off\".",
)
.default(|| AdminSocket::Auto);

pub static MODE: KeyWithDefault<u32> =
    Key::new("mode", file_mode(), "Permissions of the socket, in octal.").default(|| 0o660);

pub static GROUP: KeyWithDefault<Option<String>> = Key::new(
    "group",
    group_name(),
    "Group of the socket, which may use it beside the user that runs Sidegate; \"\": that of the \
     process.",
)
.default(|| None);

pub static RECENT_DECISIONS: KeyWithDefault<u32> = Key::new(
    "recent_decisions",
    count(0, MAX_RECENT),
    "Most decisions that are kept in memory for `explain --request` and `refused`, half of them \
     for refusals; 0: none.",
)
.default(|| 10_000);

pub static RECENT_BYTES: KeyWithDefault<u64> = Key::new(
    "recent_bytes",
    size_or_zero(),
    "Most memory of these decisions, which take some 500 bytes each; 0: none.",
)
.default(|| 8 << 20);

pub static PAGE_LISTEN: KeyWithDefault<Option<PageAddress>> = Key::new(
    "page_listen",
    ValueKind {
        words: "loopback address with a port, `\"unix:PATH\"`, or `\"off\"`",
        form: ValueForm::Custom,
        schema: ValueSchema::Members(&[
            ("type", r#""string""#),
            ("pattern", r#""^(off|unix:.+|.+:[0-9]+)$""#),
        ]),
        write: |_, at: &Option<PageAddress>| {
            at.as_ref().map_or_else(|| "off".to_owned(), ToString::to_string).into()
        },
    },
    "The page /status for a browser on this host: a loopback address with a port, \"unix:PATH\", \
     or \"off\". It shows what `sidegate top` shows, and changes nothing.",
)
.example("\"127.0.0.1:9401\"")
.default(|| None);

pub static PAGE_MODE: KeyWithDefault<u32> =
    Key::new("page_mode", file_mode(), "Permissions of the page's Unix socket, in octal.")
        .default(|| 0o660);

pub static PAGE_GROUP: KeyWithDefault<Option<String>> = Key::new(
    "page_group",
    group_name(),
    "Group of the page's Unix socket; \"\": that of the process. Its users can read the page and \
     give no commands.",
)
.default(|| None);

pub static PAGE: KeyWithDefault<PageAddresses> = Key::new(
    "page",
    choice(&[("short", PageAddresses::Short), ("full", PageAddresses::Full)]),
    "Client addresses on the page: \"short\" for their /24 or /48, since any local user can read a \
     loopback port; \"full\" for all of them.",
)
.default(|| PageAddresses::Short);

/// A size; zero is one.
const fn size_or_zero() -> ValueKind<u64> {
    ValueKind {
        words: "size",
        form: ValueForm::Number { expected: "a size like \"8MiB\"", parse: unit::size },
        schema: ValueSchema::Members(&[(
            "anyOf",
            r#"[
  { "type": "string", "pattern": "^(0+|[0-9]+(B|KiB|MiB|GiB))$" },
  { "const": 0 }
]"#,
        )]),
        write: |_, size| format_size(*size).into(),
    }
}

/// Permissions of a socket's file.
pub const fn file_mode() -> ValueKind<u32> {
    ValueKind {
        words: "octal digits in a string, at most `\"0777\"`",
        form: ValueForm::Text { expected: "an octal string like \"0660\"", parse: mode },
        schema: ValueSchema::Members(&[
            ("type", r#""string""#),
            ("pattern", r#""^0*[0-7]{1,3}$""#),
        ]),
        write: |_, mode| format!("{mode:04o}").into(),
    }
}

/// A group of this host. `None` means that of the process.
pub const fn group_name() -> ValueKind<Option<String>> {
    ValueKind {
        words: "name or number of a group",
        form: ValueForm::Number { expected: "a group's name", parse: group },
        schema: ValueSchema::Members(&[(
            "anyOf",
            r#"[{ "type": "string", "maxLength": 32 }, { "type": "integer", "minimum": 0 }]"#,
        )]),
        write: |_, group| group.as_deref().unwrap_or_default().into(),
    }
}
