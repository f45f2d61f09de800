//! Pages of section 1: the program and each verb.

use clap::Command;
use clap_mangen::Man;

use super::PROGRAM;
use super::page::Page;
use crate::cli::exit::Exit;
use crate::cli::manual::{ENVIRONMENT, FILES};
use crate::cli::run::HANDLED_SIGNALS;
use crate::cli::{command, config_arg, examples};

/// The pages of files, to which every page refers.
const FILE_PAGES: &str = "`sidegate.toml`(5), `sidegate-policy`(5)";

/// The pages by their names.
pub fn all() -> Vec<(String, String)> {
    // `sidegate help VERB` opens no page of its own: it prints the help of the verb.
    let mut program = command().disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    add(&mut pages, &program, "");
    pages
}

fn add(pages: &mut Vec<(String, String)>, verb: &Command, path: &str) {
    let name = page_name(path);
    let mut page = Page::new(&name, "1");
    let man = Man::new(verb.clone().subcommand_value_name("COMMAND"));
    page.add_of(&man, |man, text| man.render_name_section(text));
    page.add_of(&man, |man, text| man.render_synopsis_section(text));
    page.add_of(&man, |man, text| man.render_description_section(text));
    page.add_of(&man, |man, text| man.render_options_section(text));
    add_verbs(&mut page, verb, path);
    // The chapters of `--help` have sections of their own here, so `after_help` is not rendered.
    page.section("EXIT STATUS");
    for exit in Exit::ALL.iter().filter(|exit| concerns(exit.meaning(), path)) {
        page.term(&format!("`{}`", exit.code()), exit.meaning());
    }
    if path.is_empty() || path == "run" {
        page.section("SIGNALS");
        HANDLED_SIGNALS.iter().for_each(|(name, meaning)| page.term(&format!("`{name}`"), meaning));
    }
    let reads_config = verb.get_arguments().any(|argument| argument.get_id() == "config");
    add_surroundings(&mut page, path, reads_config);
    page.section("EXAMPLES");
    for example in examples::of(path) {
        page.paragraph(&format!("{}:", example.purpose));
        page.literal(example.command);
    }
    page.section("SEE ALSO");
    page.text(&see_also(verb, path));
    pages.push((format!("{name}.1"), page.finish()));
    for verb in verb.get_subcommands() {
        add(pages, verb, format!("{path} {}", verb.get_name()).trim_start());
    }
}

/// Whether `meaning` is about the verb `path`: it may begin with the verbs that it is about.
fn concerns(meaning: &str, path: &str) -> bool {
    let is_verb = |word: &str| !examples::of(word).is_empty();
    let verbs = meaning.split_once(": ").map(|(verbs, _)| verbs.split(", "));
    let verbs = verbs.filter(|verbs| verbs.clone().all(is_verb));
    verbs.is_none_or(|mut verbs| path.is_empty() || verbs.any(|verb| verb == path))
}

/// Lists the commands below a command, each with its page.
fn add_verbs(page: &mut Page, verb: &Command, path: &str) {
    if !verb.has_subcommands() {
        return;
    }
    page.section("COMMANDS");
    for verb in verb.get_subcommands() {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        page.term(&format!("`{}`(1)", page_name(&format!("{path} {}", verb.get_name()))), &about);
    }
}

/// Adds the files and the variables that concern a verb.
fn add_surroundings(page: &mut Page, path: &str, reads_config: bool) {
    let has_all = path.is_empty() || path == "run";
    if has_all || reads_config {
        page.section("FILES");
        // Only the first file concerns every verb with `--config`; sidegate(1) has all of them.
        let known = if has_all { FILES.len() } else { 1 };
        FILES[..known].iter().for_each(|(file, what)| page.term(&format!("`{file}`"), what));
    }
    let is_relevant = |(variable, what): &&(&str, &str)| match *variable {
        config_arg::VARIABLE => has_all || reads_config,
        _ => concerns(what, path) && (has_all || what.contains(": ") || *variable == "NO_COLOR"),
    };
    page.section("ENVIRONMENT");
    for (variable, what) in ENVIRONMENT.iter().filter(is_relevant) {
        page.term(&format!("`{variable}`"), what);
    }
}

/// The pages that a page refers to: the page above, those of its parts, and those of the files.
fn see_also(verb: &Command, path: &str) -> String {
    let above = path.rsplit_once(' ').map_or("", |(above, _)| above);
    let below = verb.get_subcommands().map(|verb| format!("{path} {}", verb.get_name()));
    let above = (!path.is_empty()).then(|| above.to_owned()).into_iter();
    let pages = above.chain(below).map(|path| format!("`{}`(1), ", page_name(&path)));
    pages.chain([FILE_PAGES.to_owned()]).collect()
}

fn page_name(path: &str) -> String {
    let words = path.split_whitespace();
    std::iter::once(PROGRAM).chain(words).collect::<Vec<_>>().join("-")
}
