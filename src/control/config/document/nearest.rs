//! The word that was probably meant.
//!
//! Pure; it never decides that a word is wrong.

/// `did you mean …?`, if one of `known` is near enough to `word` for a slip of the fingers.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(|(_, best)| format!("did you mean `{best}`?"))
}

/// That one of `known`, and how many slips away it is.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<(usize, &'a str)> {
    // Distances take time and memory by length × length, and nobody misspells a novel.
    if word.len() > 64 {
        return None;
    }
    let near = |candidate: &&str| slips(word, candidate);
    let (slips, best) = known.into_iter().map(|candidate| (near(&candidate), candidate)).min()?;
    let forgiven = 1 + best.chars().count().max(word.chars().count()) / 5;
    (slips <= forgiven && slips < best.chars().count()).then_some((slips, best))
}

/// How many letters are wrong, missing, too many, or swapped with their neighbour (optimal string alignment).
fn slips(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.to_lowercase().chars().collect(), other.to_lowercase().chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(word: &str, known: &[&str], expected: Option<&str>) {
        let expected = expected.map(|word| format!("did you mean `{word}`?"));
        assert_eq!(did_you_mean(word, known.iter().copied()), expected, "{word}");
    }

    #[test]
    fn slips_of_the_fingers_are_recognised() {
        check("listn", &["listen", "name", "tls"], Some("listen"));
        check("naem", &["listen", "name", "tls"], Some("name"));
        check("market_data", &["market-data", "chat"], Some("market-data"));
        check("TLS", &["tls"], Some("tls"));
    }

    #[test]
    fn other_words_are_not() {
        check("colour", &["listen", "name", "tls"], None);
        check("x", &["y"], None);
        check("name", &[], None);
        check(&"n".repeat(65), &["name"], None);
    }
}
