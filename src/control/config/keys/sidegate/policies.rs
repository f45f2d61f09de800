//! `[policies]`.

use crate::control::config::keys::key::{
    Key, KeyTable, KeyWithDefault, ValueForm, ValueKind, ValueSchema,
};
use crate::control::config::keys::parse::list_folder;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&LISTS_FROM],
    reload: "The lists are read from the folders as they are now.",
    ..KeyTable::EMPTY
};

pub static LISTS_FROM: KeyWithDefault<Vec<Box<str>>> = Key::new(
    "lists_from",
    ValueKind {
        words: "array of folders",
        form: ValueForm::List {
            expected: "a folder",
            empty: Vec::new,
            add: |all, text| list_folder(text).map(|folder| all.push(folder)),
        },
        schema: ValueSchema::Members(&[
            ("type", r#""array""#),
            ("items", r#"{ "type": "string", "minLength": 1 }"#),
        ]),
        write: |_, all| all.iter().map(|folder| &**folder).collect(),
    },
    "Folders beside policies/ from which policies may read lists, such as \"/var/lib/feeds\". \
     Links are followed first.",
)
.default(Vec::new);
