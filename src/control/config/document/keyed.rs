//! Reading a key by its declaration.

use crate::control::config::document::table::TomlTable;
use crate::control::config::document::value::TomlValue;
use crate::control::config::keys::key::{Key, KeyWithDefault, ValueForm};

impl<'d> TomlTable<'d> {
    /// The value of `key`. `None` means that the table lacks it, or that it is wrong, which was
    /// reported. Nothing is read of a key with a reader of its own.
    pub fn read<T: Clone>(&mut self, key: &Key<T>) -> Option<T> {
        self.get(key)?.read(&key.kind.form)
    }

    /// The value of `key`, or its default if the table lacks it or it is wrong.
    pub fn read_or_default<T: Clone>(&mut self, key: &KeyWithDefault<T>) -> T {
        self.read(key).unwrap_or_else(|| key.default_value())
    }
}

impl TomlValue<'_> {
    /// The value, read as `form` says. `None` means that it is wrong, which was reported.
    pub fn read<T: Clone>(&self, form: &ValueForm<T>) -> Option<T> {
        match form {
            ValueForm::Text { expected, parse } => self.parse(expected, parse),
            ValueForm::Number { expected, parse } => self.parse_number(expected, parse),
            ValueForm::Integer { least, max, from } => self.integer(*least..=*max).map(from),
            ValueForm::IntegerOrAuto { max, from } => Some(from(self.count_or_auto(*max))),
            ValueForm::Choice(words) => self.choice(words),
            ValueForm::Boolean(from) => self.boolean().map(from),
            ValueForm::List { expected, empty, add } => {
                let mut list = empty();
                for (_, item) in self.strings()? {
                    item.parse(expected, |text| add(&mut list, text));
                }
                Some(list)
            }
            ValueForm::Custom => None,
        }
    }

    /// An integer from 1 to `max`. `None` means `"auto"`, or an error that was reported.
    fn count_or_auto(&self, max: i64) -> Option<usize> {
        if let Some(text) = self.as_str() {
            match text.parse::<u32>() {
                Ok(_) => self.unexpected("an integer"),
                Err(_) => drop(self.choice(&[("auto", ())])),
            }
            return None;
        }
        self.integer(1..=max).and_then(|count| usize::try_from(count).ok())
    }
}
