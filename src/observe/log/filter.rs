//! The filter of `SIDEGATE_LOG`: levels, for everything or for a target.
//!
//! Fields and spans cannot be filtered on: no event is inside a span.

use std::fmt;

use tracing_subscriber::filter::{LevelFilter, Targets};

/// The name of the environment variable.
pub const VARIABLE: &str = "SIDEGATE_LOG";

/// Prefix of the targets of this program's own events.
const OWN_TARGET_PREFIX: &str = "sidegate";

/// The filter if the variable has no valid directive.
pub const DEFAULT: &str = "info";

/// A text that is no filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// The directive that is wrong, as written. Empty: the text has none at all.
    directive: String,
    /// Its first character's place in the text, from 1.
    column: usize,
    fault: &'static str,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FilterError { directive, column, fault } = self;
        write!(
            f,
            "`{}` at character {column} {fault}: write LEVEL or TARGET=LEVEL, separated by commas, \
             with the levels off, error, warn, info, debug and trace",
            directive.escape_debug()
        )
    }
}

impl std::error::Error for FilterError {}

/// Parses a filter like [`parse`], but takes no invalid directive. A single word has to be a level
/// or a target of this program: a misspelt level would otherwise be a target without events.
///
/// # Errors
/// The first wrong directive, with its place.
pub fn parse_strictly(directives: &str) -> Result<Targets, FilterError> {
    let mut column = 1;
    let mut has_any = false;
    for directive in directives.split(',') {
        let blanks = directive.chars().take_while(|c| c.is_whitespace()).count();
        let text = directive.trim();
        let error = |fault| FilterError { directive: text.into(), column: column + blanks, fault };
        if !text.is_empty() {
            has_any = true;
            if !is_valid(text) {
                return Err(error("is no directive"));
            }
            let is_word = !text.contains('=') && text.parse::<LevelFilter>().is_err();
            if is_word && !is_own(text) {
                return Err(error("is neither a level nor a target of sidegate"));
            }
        }
        column += directive.chars().count() + 1;
    }
    match has_any {
        true => Ok(parse(directives).0),
        false => Err(FilterError { directive: String::new(), column: 1, fault: "is empty" }),
    }
}

/// Parses a comma-separated list of `LEVEL`, `TARGET` and `TARGET=LEVEL`. Invalid directives are
/// left out and returned; a list without a valid directive means `info`.
pub fn parse(directives: &str) -> (Targets, Vec<&str>) {
    let directives = directives.split(',').map(str::trim).filter(|text| !text.is_empty());
    let (valid, invalid): (Vec<_>, Vec<_>) = directives.partition(|text| is_valid(text));
    // Each of them was parsed by itself, so that the list parses too.
    match valid.join(",").parse::<Targets>() {
        Ok(targets) if !valid.is_empty() => (targets, invalid),
        _ => (Targets::new().with_default(LevelFilter::INFO), invalid),
    }
}

/// Whether an event is this program's own. Libraries may trace secrets.
pub fn is_own(target: &str) -> bool {
    target
        .strip_prefix(OWN_TARGET_PREFIX)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_valid(directive: &str) -> bool {
    // `Targets` accepts any text as a target, reads a missing level as `error`, and never matches
    // a target with fields.
    let (target, level) = directive.split_once('=').unwrap_or((directive, directive));
    let is_target = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte);
    let is_whole = !target.is_empty() && !level.is_empty();
    is_whole && target.bytes().all(is_target) && directive.parse::<Targets>().is_ok()
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn passes(directives: &str, target: &str, level: Level) -> bool {
        parse(directives).0.would_enable(target, &level)
    }

    #[test]
    fn filter_is_info_when_no_directive_is_valid() {
        for directives in ["", " ", ",", "sidegate=loud", "[span]=debug,=warn", "a=b=c"] {
            assert!(passes(directives, "sidegate", Level::INFO), "{directives}");
            assert!(!passes(directives, "sidegate", Level::DEBUG), "{directives}");
        }
    }

    #[test]
    fn wrong_filter_is_named_with_its_place() {
        for (text, place) in [
            ("", "`` at character 1 is empty"),
            (" , ", "`` at character 1 is empty"),
            ("debgu", "`debgu` at character 1 is neither a level nor a target"),
            ("info, sidegate=loud", "`sidegate=loud` at character 7 is no directive"),
            ("info,é=debug", "`é=debug` at character 6 is no directive"),
            ("info,hyper", "`hyper` at character 6 is neither"),
            ("info,=warn", "`=warn` at character 6 is no"),
            ("a\u{9b}b", "`a\\u{9b}b` at character 1 is no directive"),
        ] {
            let error = parse_strictly(text).unwrap_err().to_string();
            assert!(error.contains(place), "{text:?}: {error}");
        }
        for text in ["off", "DEBUG", "info,sidegate::permitted=off", " warn , sidegate::data "] {
            assert!(parse_strictly(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn filter_prefers_the_longer_target_and_then_the_bare_level() {
        let directives = "warn, sidegate::permitted=off,sidegate=DEBUG,sidegate::data";
        for (target, level, passing) in [
            ("hyper", Level::WARN, true),
            ("hyper", Level::INFO, false),
            ("sidegate::control", Level::DEBUG, true),
            ("sidegate::control", Level::TRACE, false),
            ("sidegate::permitted", Level::ERROR, false),
            ("sidegate::data::tunnel", Level::TRACE, true),
        ] {
            assert_eq!(passes(directives, target, level), passing, "{target} {level}");
        }
    }

    #[test]
    fn filter_without_a_bare_level_leaves_other_targets_off() {
        assert!(passes("sidegate::data=debug", "sidegate::data", Level::DEBUG));
        assert!(!passes("sidegate::data=debug", "sidegate::control", Level::ERROR));
        assert!(!passes("off", "sidegate", Level::ERROR));
    }

    #[test]
    fn filter_returns_invalid_directives_and_keeps_the_rest() {
        let (targets, invalid) = parse("debug,sidegate[{peer}]=trace,sidegate=,x=y,a b");
        assert_eq!(invalid, ["sidegate[{peer}]=trace", "sidegate=", "x=y", "a b"]);
        assert!(targets.would_enable("sidegate", &Level::DEBUG));
    }
}
