//! The file of the last publish: a line of JSON with a checksum, then the texts.
//!
//! A file that is not byte for byte as it was written is damaged; no part of it is used.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::control::config::overlay::{Overlay, OverlayText, SpareText};
use crate::control::overrides::TestOverride;

/// Most bytes of the file: eight lists of the largest size.
pub const MAX_BYTES: u64 = 512 << 20;

/// Number of the form of the file.
const SCHEMA: u64 = 1;

/// The held texts and the overrides of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedState {
    /// The path of `sidegate.toml`; absolute in the file.
    pub config: PathBuf,
    /// The overrides in force.
    pub overrides: Arc<Vec<TestOverride>>,
    /// The published texts. `None` means that neither `watch` nor a bound holds a save back.
    pub held: Option<Arc<Overlay>>,
    /// Why these texts run without an order. `None` means that they are ordered.
    pub unordered: Option<Arc<str>>,
}

/// Why a state is not kept, or a file not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedFault(String);

impl fmt::Display for PublishedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    schema: u64,
    /// SHA-256 of this line with an empty checksum, and of the texts behind it.
    sha256: String,
    config: String,
    overrides: Vec<OverrideEntry>,
    held: Option<HeldEntry>,
    unordered: Option<String>,
}

/// An override in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OverrideEntry {
    file: String,
    test: String,
    since: String,
}

/// The names and sizes of texts in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeldEntry {
    /// Whether a save counts only after an order.
    ordered: bool,
    folders: Vec<FolderEntry>,
    texts: Vec<TextEntry>,
    /// Files that are never held, without chains.
    spares: Vec<TextEntry>,
    chains: Vec<TextEntry>,
}

/// A folder in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FolderEntry {
    path: String,
    names: Vec<String>,
}

/// A text in the file. Its bytes follow the first line, in the same order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextEntry {
    path: String,
    bytes: u64,
    modified: Option<String>,
    mode: u32,
    real: Option<String>,
}

impl PublishedState {
    /// The state of a start that knows of no publish.
    pub fn new(config: &Path) -> PublishedState {
        let config = config.to_owned();
        PublishedState { config, overrides: Arc::default(), held: None, unordered: None }
    }

    /// The same with absolute paths, as it is kept.
    pub fn absolute(self) -> PublishedState {
        let config = std::path::absolute(&self.config).unwrap_or_else(|_| self.config.clone());
        self.moved(config)
    }

    /// The same with paths as an agent has them that is started with `config`. `None` means that it
    /// is of another configuration.
    pub fn spelled(self, config: &Path) -> Option<PublishedState> {
        let is_own = self.config == config || real(&self.config) == real(config);
        is_own.then(|| self.moved(config.to_owned()))
    }

    fn moved(self, config: PathBuf) -> PublishedState {
        if self.config == config {
            return self;
        }
        let folder = |path: &Path| path.parent().unwrap_or(Path::new("")).to_owned();
        let (from, to) = (folder(&self.config), folder(&config));
        let held = self.held.map(|held| Arc::new(held.moved(&from, &to)));
        PublishedState { config, held, ..self }
    }

    /// Whether a start without the file would do the same.
    pub fn is_empty(&self) -> bool {
        self.overrides.is_empty() && self.held.is_none()
    }

    /// The contents of the file.
    ///
    /// # Errors
    /// A path is not UTF-8, which the file cannot have, or the texts are too large.
    pub fn encode(&self) -> Result<Vec<u8>, PublishedFault> {
        let mut head = self.head()?;
        let texts = || self.held.iter().flat_map(|held| contents(held));
        head.sha256 = checksum(&head, texts());
        let mut file = line(&head);
        texts().for_each(|text| file.extend_from_slice(text));
        // A start would take it for damaged.
        match file.len() as u64 > MAX_BYTES {
            true => Err(PublishedFault(format!("it would have more than {} MiB", MAX_BYTES >> 20))),
            false => Ok(file),
        }
    }

    fn head(&self) -> Result<Head, PublishedFault> {
        let overrides = self.overrides.iter().map(|one| OverrideEntry {
            file: one.file.to_string(),
            test: one.test.to_string(),
            since: one.since.to_string(),
        });
        let (config, overrides) = (utf8(&self.config)?, overrides.collect());
        let held = self.held.as_deref().map(held_entry).transpose()?;
        let unordered = self.unordered.as_deref().map(str::to_owned);
        Ok(Head { schema: SCHEMA, sha256: String::new(), config, overrides, held, unordered })
    }

    /// Reads the contents of a file.
    ///
    /// # Errors
    /// Anything in it differs from what `encode` writes.
    pub fn decode(file: Vec<u8>) -> Result<PublishedState, PublishedFault> {
        let fault = |what: &str| PublishedFault(what.into());
        let file = Bytes::from(file);
        let end = file.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| fault("its first line has no end"))?;
        let head: Head = serde_json::from_slice(&file[..end])
            .map_err(|error| PublishedFault(format!("not a file of published texts: {error}")))?;
        if head.schema != SCHEMA {
            let schema = head.schema;
            return Err(PublishedFault(format!(
                "schema {schema}: this version reads schema {SCHEMA}"
            )));
        }
        if head.sha256 != checksum(&head, [&file[end + 1..]]) {
            return Err(fault("the checksum differs"));
        }
        // Whitespace, escapes or a repeated key change no value, and are no writing of this
        // program.
        if line(&head) != file[..=end] {
            return Err(fault("it was changed by hand or by another program"));
        }
        state(&head, file.slice(end + 1..)).ok_or_else(|| fault("its parts do not fit together"))
    }
}

/// The path with the links of its folder resolved. A link of the file itself is not: the files
/// beside the link count.
fn real(config: &Path) -> PathBuf {
    let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    let name = path.file_name();
    folder.zip(name).map_or_else(|| path.clone(), |(folder, name)| folder.join(name))
}

/// The first line, its end included.
fn line(head: &Head) -> Vec<u8> {
    // Strings, numbers and options always serialize. `decode` would refuse an empty line.
    let mut line = serde_json::to_vec(head).unwrap_or_default();
    line.push(b'\n');
    line
}

fn checksum<'t>(head: &Head, texts: impl IntoIterator<Item = &'t [u8]>) -> String {
    let mut sha = Sha256::new();
    sha.update(line(&Head { sha256: String::new(), ..head.clone() }));
    texts.into_iter().for_each(|text| sha.update(text));
    HEXLOWER.encode(&sha.finalize())
}

fn utf8(path: &Path) -> Result<String, PublishedFault> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| PublishedFault(format!("the path {} is not UTF-8", path.display())))
}

fn held_entry(held: &Overlay) -> Result<HeldEntry, PublishedFault> {
    let folders = held
        .folders()
        .map(|(path, names)| Ok(FolderEntry { path: utf8(path)?, names: names.to_vec() }));
    let texts = held.texts().map(|(path, text)| text_entry(path, text));
    let spares = |is_chain| {
        let some = held.spares().filter(move |(_, spare)| spare.is_chain == is_chain);
        some.map(|(path, spare)| text_entry(path, &spare.text)).collect::<Result<_, _>>()
    };
    Ok(HeldEntry {
        ordered: held.is_ordered(),
        folders: folders.collect::<Result<_, _>>()?,
        texts: texts.collect::<Result<_, _>>()?,
        spares: spares(false)?,
        chains: spares(true)?,
    })
}

fn text_entry(path: &Path, text: &OverlayText) -> Result<TextEntry, PublishedFault> {
    let modified = text.modified.and_then(|time| Timestamp::try_from(time).ok());
    Ok(TextEntry {
        path: utf8(path)?,
        bytes: text.bytes.len() as u64,
        modified: modified.map(|time| time.to_string()),
        mode: text.mode,
        real: text.real.as_deref().map(utf8).transpose()?,
    })
}

/// The contents of the texts and spares, in the order of the index.
fn contents(held: &Overlay) -> impl Iterator<Item = &[u8]> {
    let spares = |is_chain| {
        let some = held.spares().filter(move |(_, spare)| spare.is_chain == is_chain);
        some.map(|(_, spare)| &*spare.text.bytes)
    };
    held.texts().map(|(_, text)| &*text.bytes).chain(spares(false)).chain(spares(true))
}

/// The state in `head`, whose texts are `bytes`. `None` means that the two do not fit.
fn state(head: &Head, bytes: Bytes) -> Option<PublishedState> {
    let overrides = head.overrides.iter().map(|one| {
        let since = one.since.parse().ok()?;
        Some(TestOverride { file: one.file.as_str().into(), test: one.test.as_str().into(), since })
    });
    let overrides = Arc::new(overrides.collect::<Option<Vec<_>>>()?);
    let held = match &head.held {
        Some(held) => Some(Arc::new(overlay(held, bytes)?)),
        None if bytes.is_empty() => None,
        None => return None,
    };
    let unordered = head.unordered.as_deref().map(Arc::from);
    Some(PublishedState { config: head.config.as_str().into(), overrides, held, unordered })
}

fn overlay(held: &HeldEntry, mut bytes: Bytes) -> Option<Overlay> {
    let mut overlay = Overlay::default();
    overlay.close();
    for FolderEntry { path, names } in &held.folders {
        overlay.insert_folder(path.into(), names.as_slice().into());
    }
    if held.ordered {
        overlay.set_ordered();
    }
    for entry in &held.texts {
        overlay.insert(PathBuf::from(&entry.path), text_of(entry, &mut bytes)?);
    }
    for (entries, is_chain) in [(&held.spares, false), (&held.chains, true)] {
        for entry in entries {
            let text = text_of(entry, &mut bytes)?;
            overlay.insert_spare(PathBuf::from(&entry.path), SpareText { text, is_chain });
        }
    }
    bytes.is_empty().then_some(overlay)
}

/// The text of `entry`, whose contents are the first ones of `bytes`.
fn text_of(entry: &TextEntry, bytes: &mut Bytes) -> Option<OverlayText> {
    let length = usize::try_from(entry.bytes).ok().filter(|length| *length <= bytes.len())?;
    let modified = entry.modified.as_ref().map(|time| time.parse::<Timestamp>());
    Some(OverlayText {
        bytes: bytes.split_to(length),
        modified: modified.transpose().ok()?.map(SystemTime::from),
        mode: entry.mode,
        real: entry.real.as_ref().map(PathBuf::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn states() -> impl Strategy<Value = PublishedState> {
        let time = || (0i64..4_000_000_000, 0i32..1_000_000_000);
        let time = || time().prop_map(|(second, nano)| Timestamp::new(second, nano).unwrap());
        let text = (
            proptest::collection::vec(any::<u8>(), 1..20),
            proptest::option::of(time().prop_map(SystemTime::from)),
            any::<u32>(),
            proptest::option::of("/[a-z/]{0,8}".prop_map(PathBuf::from)),
        );
        let text = text.prop_map(|(bytes, modified, mode, real)| OverlayText {
            bytes: bytes.into(),
            modified,
            mode,
            real,
        });
        let texts = proptest::collection::btree_map("/[a-z.]{1,6}", text.clone(), 0..4);
        let spare = (text, any::<bool>()).prop_map(|(text, is_chain)| SpareText { text, is_chain });
        let spares = proptest::collection::btree_map("/[a-z.]{1,6}", spare, 0..3);
        let folders = proptest::collection::btree_map(
            "/[a-z]{1,4}",
            proptest::collection::vec("[a-zé]{1,4}", 0..3),
            0..2,
        );
        let held = (texts, folders, spares, any::<bool>());
        let held = held.prop_map(|(texts, folders, spares, is_ordered)| {
            let mut overlay = Overlay::default();
            overlay.close();
            if is_ordered {
                overlay.set_ordered();
            }
            spares.into_iter().for_each(|(path, one)| overlay.insert_spare(path.into(), one));
            texts.into_iter().for_each(|(path, text)| overlay.insert(path.into(), text));
            folders
                .into_iter()
                .for_each(|(path, names)| overlay.insert_folder(path.into(), names.into()));
            Arc::new(overlay)
        });
        let one = ("[a-z]{1,4}", ".{0,8}", time()).prop_map(|(file, test, since)| TestOverride {
            file: file.into(),
            test: test.into(),
            since,
        });
        let overrides = proptest::collection::vec(one, 0..3).prop_map(Arc::new);
        let unordered = proptest::option::of("[a-z ]{1,9}");
        let all = (overrides, proptest::option::of(held), unordered);
        all.prop_map(|(overrides, held, unordered)| PublishedState {
            config: "/etc/sidegate/sidegate.toml".into(),
            overrides,
            held,
            unordered: unordered.map(Arc::from),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(256)
        })]

        #[test]
        fn state_survives_its_file(state in states()) {
            prop_assert_eq!(PublishedState::decode(state.encode().unwrap()).unwrap(), state);
        }

        #[test]
        fn damage_at_any_offset_is_reported(
            state in states(),
            at in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let whole = state.encode().unwrap();
            let at = at.index(whole.len());
            let mut changed = whole.clone();
            changed[at] = byte;
            prop_assert_eq!(PublishedState::decode(changed).is_err(), byte != whole[at]);
            prop_assert!(PublishedState::decode(whole[..at].to_vec()).is_err());
            let mut longer = whole;
            longer.insert(at, byte);
            prop_assert!(PublishedState::decode(longer).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            prop_assert!(PublishedState::decode(bytes).is_err());
        }
    }

    #[test]
    fn path_that_is_not_utf8_is_a_fault() {
        use std::os::unix::ffi::OsStringExt;
        let config = PathBuf::from(std::ffi::OsString::from_vec(b"/etc/\xff".to_vec()));
        let state =
            PublishedState { config, overrides: Arc::default(), held: None, unordered: None };
        assert!(state.encode().unwrap_err().to_string().contains("is not UTF-8"));
    }
}
