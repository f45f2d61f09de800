//! The filter of `SIDEGATE_LOG`: levels, for everything or for a target.
//!
//! Fields and spans cannot be filtered on: no event is inside a span.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// The name of the environment variable.
pub const VARIABLE: &str = "SIDEGATE_LOG";

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
