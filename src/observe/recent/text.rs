//! Several short texts in one allocation, each with at most a fixed number of bytes.
//!
//! A text that is cut ends with `…`. Nothing is escaped here: commands do that as they print.

/// The mark behind a text that was cut.
const CUT: char = '…';

/// Up to `N` texts in one allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts<const N: usize> {
    all: Box<str>,
    /// The end of each text, and whether there is one.
    ends: [(u16, bool); N],
}

impl<const N: usize> Texts<N> {
    /// Copies `texts`, each with the most bytes that it may take. `None` means no text.
    pub fn new(texts: [(Option<&str>, usize); N]) -> Self {
        let length = texts.iter().filter_map(|(text, max)| Some(text.as_ref()?.len().min(*max)));
        // Exact unless a cut falls inside a character, so that `into_boxed_str` seldom copies.
        let mut all = String::with_capacity(length.sum());
        let mut ends = [(0, false); N];
        for (end, (text, max)) in ends.iter_mut().zip(texts) {
            push_bounded(&mut all, text.unwrap_or_default(), max);
            // The sum of the bounds is far below 64 KiB.
            *end = (u16::try_from(all.len()).unwrap_or(u16::MAX), text.is_some());
        }
        Texts { all: all.into_boxed_str(), ends }
    }

    /// The text at this place.
    pub fn get(&self, place: usize) -> Option<&str> {
        // A missing text takes no bytes. The flag tells it from an empty one.
        let (end, is_there) = *self.ends.get(place)?;
        let begin = place.checked_sub(1).map_or(0, |before| self.ends[before].0);
        self.all.get(usize::from(begin)..usize::from(end)).filter(|_| is_there)
    }

    /// The bytes of all texts.
    pub fn len(&self) -> usize {
        self.all.len()
    }
}

/// `text` as a [`Texts`] with this bound keeps it.
pub fn bounded(text: &str, max: usize) -> String {
    let mut kept = String::new();
    push_bounded(&mut kept, text, max);
    kept
}

fn push_bounded(to: &mut String, text: &str, max: usize) {
    if text.len() <= max {
        return to.push_str(text);
    }
    // The mark counts as a part of the text, so that the sum of the bounds holds for the whole.
    let room = max.saturating_sub(CUT.len_utf8());
    let end = text.floor_char_boundary(room);
    to.push_str(&text[..end]);
    to.push(CUT);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_text_is_kept_or_cut_to_its_bound(
            first in proptest::option::of(".{0,40}"),
            second in proptest::option::of(".{0,40}"),
            max in 3usize..60,
        ) {
            let texts = Texts::new([(first.as_deref(), max), (second.as_deref(), max)]);
            for (place, text) in [&first, &second].into_iter().enumerate() {
                let found = texts.get(place);
                prop_assert_eq!(found.is_some(), text.is_some());
                let (Some(found), Some(text)) = (found, text) else { continue };
                prop_assert!(found.len() <= max);
                match text.len() <= max {
                    true => prop_assert_eq!(found, text),
                    false => prop_assert!(text.starts_with(found.strip_suffix(CUT).unwrap())),
                }
                prop_assert_eq!(found, bounded(text, max));
            }
            prop_assert_eq!(texts.get(2), None);
        }
    }
}
