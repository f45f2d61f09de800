//! `[admin]`.

use crate::control::config::keys::key::{
    Key, KeyTable, KeyWithDefault, ValueForm, ValueKind, ValueSchema,
};
use crate::control::config::keys::parse::{group, mode};
use crate::control::config::settings::AdminSocket;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&SOCKET, &MODE, &GROUP],
    reload: "A changed socket is made before the reload is published; where that fails, the \
             reload is rejected.",
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
