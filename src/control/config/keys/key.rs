//! The parts of a declaration: a key, the kind of its values, and a table of keys.
//!
//! Knows no key by name. Readers take keys by reference and cannot make one.

use std::ops::Deref;

use serde_json::Value as Json;

use crate::control::config::source_text::Finding;

/// One key of a file.
///
/// `T` is the type of its value. A key that only code of its own can read, because that takes
/// files, sockets or other keys, has the type [`CustomValue`].
pub struct Key<T: 'static> {
    /// Name in the file.
    pub name: &'static str,
    /// The values that it takes.
    pub kind: ValueKind<T>,
    /// One or more sentences. The first is the comment in the file of `init`.
    pub doc: &'static str,
    pub(super) facts: KeyFacts,
}

/// Facts about a key that no reader needs.
#[derive(Debug, Clone, Copy)]
pub struct KeyFacts {
    /// Whether the table is wrong without the key.
    pub is_required: bool,
    /// Whether `init` writes the key, as a comment unless its template sets it.
    pub is_offered: bool,
    /// A value as the file has it. Empty means that the default is example enough.
    pub example: &'static str,
    /// Name of its definition in the JSON Schema. `None` means that it is written in place.
    pub definition: Option<&'static str>,
}

/// The value of a key that has a reader of its own.
#[derive(Debug, Clone, Copy)]
pub enum CustomValue {}

/// A key with a default.
pub struct KeyWithDefault<T: 'static> {
    key: Key<T>,
    default: fn() -> T,
}

impl<T> Key<T> {
    pub(super) const fn new(name: &'static str, kind: ValueKind<T>, doc: &'static str) -> Key<T> {
        let (example, definition) = ("", None);
        let facts = KeyFacts { is_required: false, is_offered: true, example, definition };
        Key { name, kind, doc, facts }
    }

    /// Says that the table is wrong without the key.
    pub(super) const fn required(mut self) -> Key<T> {
        self.facts.is_required = true;
        self
    }

    /// Sets the value in examples, written as in the file.
    pub(super) const fn example(mut self, toml: &'static str) -> Key<T> {
        self.facts.example = toml;
        self
    }

    /// Leaves the key out of the file of `init`.
    pub(super) const fn not_in_init(mut self) -> Key<T> {
        self.facts.is_offered = false;
        self
    }

    /// Gives the key a definition of this name in the JSON Schema, for a key of several tables.
    pub(super) const fn defined_as(mut self, name: &'static str) -> Key<T> {
        self.facts.definition = Some(name);
        self
    }

    /// Sets the value that an absent key has.
    pub(super) const fn default(self, default: fn() -> T) -> KeyWithDefault<T> {
        KeyWithDefault { key: self, default }
    }

    /// The key with `value` as the effective configuration shows it.
    pub fn shown(&self, value: &T) -> (String, Json) {
        (self.name.into(), (self.kind.write)(&self.kind.form, value))
    }

    /// Like [`Key::shown`]. `None` becomes `null`.
    pub fn shown_or_null(&self, value: Option<&T>) -> (String, Json) {
        value.map_or_else(|| (self.name.into(), Json::Null), |value| self.shown(value))
    }
}

impl<T> Key<T> {
    /// Whether `text` is one of the words that the key takes.
    pub fn has_word(&self, text: &str) -> bool {
        let ValueForm::Choice(words) = &self.kind.form else { return false };
        words.iter().any(|(word, _)| *word == text)
    }
}

impl Key<CustomValue> {
    /// The key with a value that its own code has written.
    pub fn shown_as(&self, value: impl Into<Json>) -> (String, Json) {
        (self.name.into(), value.into())
    }
}

impl<T> KeyWithDefault<T> {
    /// The value that an absent key has.
    pub fn default_value(&self) -> T {
        (self.default)()
    }
}

impl<T> Deref for KeyWithDefault<T> {
    type Target = Key<T>;

    fn deref(&self) -> &Key<T> {
        &self.key
    }
}

/// A kind of value: how it is read, written and described.
pub struct ValueKind<T: 'static> {
    /// The values in words, for the reference page.
    pub words: &'static str,
    /// How a value is read.
    pub form: ValueForm<T>,
    /// The values in the JSON Schema.
    pub schema: ValueSchema,
    /// Writes a value as in a file. `null` means that the key is absent.
    pub write: fn(&ValueForm<T>, &T) -> Json,
}

/// How a value is read.
pub enum ValueForm<T: 'static> {
    /// A string. Messages describe valid ones as `expected`.
    Text {
        /// Valid strings in words.
        expected: &'static str,
        /// Parses the string, or returns a finding about it.
        parse: fn(&str) -> Result<T, Finding>,
    },
    /// A string, or a bare number whose digits `parse` accepts.
    Number {
        /// Valid values in words.
        expected: &'static str,
        /// Parses the string, or returns a finding about it.
        parse: fn(&str) -> Result<T, Finding>,
    },
    /// A whole number between two bounds.
    Integer {
        /// Least number that is accepted.
        least: i64,
        /// Largest number that is accepted.
        max: i64,
        /// Converts a number between the bounds.
        from: fn(i64) -> T,
    },
    /// A whole number from 1, or `"auto"`.
    IntegerOrAuto {
        /// Largest number that is accepted.
        max: i64,
        /// Converts a number. `None` means `"auto"`.
        from: fn(Option<usize>) -> T,
    },
    /// One of a few words.
    Choice(&'static [(&'static str, T)]),
    /// A boolean, `true` or `false`.
    Boolean(fn(bool) -> T),
    /// An array of strings, each of which is parsed and added.
    List {
        /// Valid strings in words.
        expected: &'static str,
        /// Makes an empty list.
        empty: fn() -> T,
        /// Parses one string and adds it.
        add: fn(&mut T, &str) -> Result<(), Finding>,
    },
    /// The key has a reader of its own.
    Custom,
}

/// The values of a key in the JSON Schema.
#[derive(Clone, Copy)]
pub enum ValueSchema {
    /// Members of the schema, with values in JSON.
    Members(&'static [(&'static str, &'static str)]),
    /// What the key's [`ValueForm`] says: bounds or words.
    OfForm,
    /// A table with these keys.
    Table(&'static KeyTable),
    /// Several tables with these keys, `[[…]]`.
    Tables(&'static KeyTable),
    /// The word `"off"`, or a table.
    OffOrTable(&'static KeyTable),
    /// Tables with names that the operator gives, or arrays with this schema of an item.
    ListsByName(&'static KeyTable, &'static str),
}

/// The keys of a table.
pub struct KeyTable {
    /// All keys, in the order of the documents.
    pub keys: &'static [&'static dyn Declared],
    /// The table that has the defaults of this one. `None` means that the keys have their own.
    pub inherits: Option<&'static str>,
    /// More members of its JSON Schema, with values in JSON.
    pub schema: &'static [(&'static str, &'static str)],
    /// What a reload does with changed keys, as a sentence.
    pub reload: &'static str,
}

impl KeyTable {
    /// A table without any key, to be completed by `..KeyTable::EMPTY`.
    pub(super) const EMPTY: KeyTable =
        KeyTable { keys: &[], inherits: None, schema: &[], reload: "" };

    /// The declarations of all keys.
    pub fn declared(&self) -> impl Iterator<Item = Declaration> {
        self.keys.iter().map(|key| key.declared())
    }

    /// The declaration of the key `name`.
    pub fn key(&self, name: &str) -> Option<Declaration> {
        self.declared().find(|key| key.name == name)
    }
}

/// A key of any type, as a table lists it.
pub trait Declared: Sync {
    /// The declaration without the type of the value.
    fn declared(&self) -> Declaration;
}

/// A key without the type of its value, as documents see it.
#[derive(Clone)]
pub struct Declaration {
    /// Name in the file.
    pub name: &'static str,
    /// One or more sentences.
    pub doc: &'static str,
    /// Facts that no reader needs.
    pub facts: KeyFacts,
    /// Its values in words.
    pub words: String,
    /// Its values in the JSON Schema.
    pub schema: ValueSchema,
    /// The members that [`ValueSchema::OfForm`] means, with values in JSON.
    pub of_form: Vec<(&'static str, String)>,
    /// Its default. `None` means that it has none, or that an absent key means "off".
    pub default: Option<Json>,
}

impl<T: Sync> Declared for Key<T> {
    fn declared(&self) -> Declaration {
        let Key { name, doc, facts, kind } = self;
        let words = kind.form.words().unwrap_or_else(|| kind.words.to_owned());
        let (of_form, schema, default) = (kind.form.members(), kind.schema, None);
        Declaration { name, doc, facts: *facts, words, schema, of_form, default }
    }
}

impl<T: Sync> Declared for KeyWithDefault<T> {
    fn declared(&self) -> Declaration {
        let (_, default) = self.shown(&self.default_value());
        let default = Some(default).filter(|value| !value.is_null());
        Declaration { default, ..self.key.declared() }
    }
}

impl<T> ValueForm<T> {
    /// The values in words, if the form limits them.
    fn words(&self) -> Option<String> {
        match self {
            ValueForm::Integer { least, max, .. } => Some(integer(*least, *max)),
            ValueForm::IntegerOrAuto { max, .. } => {
                Some(format!("{}, or `\"auto\"`", integer(1, *max)))
            }
            ValueForm::Choice(words) => {
                let words = words.iter().map(|(word, _)| format!("`\"{word}\"`"));
                Some(words.collect::<Vec<_>>().join(" or "))
            }
            _ => None,
        }
    }

    /// Members of the JSON Schema, with values in JSON.
    fn members(&self) -> Vec<(&'static str, String)> {
        match self {
            ValueForm::Integer { least, max, .. } => vec![
                ("type", "\"integer\"".into()),
                ("minimum", least.to_string()),
                ("maximum", max.to_string()),
            ],
            ValueForm::IntegerOrAuto { max, .. } => {
                let integer = format!(r#"{{ "type": "integer", "minimum": 1, "maximum": {max} }}"#);
                vec![("anyOf", format!(r#"[{{ "const": "auto" }}, {integer}]"#))]
            }
            ValueForm::Choice(words) => {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                vec![("enum", format!("[{}]", words.join(", ")))]
            }
            ValueForm::Boolean(_) => vec![("type", "\"boolean\"".into())],
            _ => Vec::new(),
        }
    }
}

/// A range in words. The largest numbers are no bound that people would meet.
fn integer(least: i64, max: i64) -> String {
    match max >= i64::from(u32::MAX) {
        true => format!("integer, at least {least}"),
        false => format!("integer, {least} to {max}"),
    }
}
