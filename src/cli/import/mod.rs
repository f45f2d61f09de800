//! `sidegate import nginx`: from an nginx configuration to one of Sidegate's that decides alike, and a report that says
//! where it can't.
//!
//! It never starts anything, asks no name server, and writes all of its files or none. What nginx would not start with
//! is an error; what Sidegate can't say is a line of the report.

mod access;
mod lexer;
mod nginx;
mod report;
mod translate;
mod tree;
mod write;

use std::path::{Path, PathBuf};

use self::nginx::Reading;
use self::report::Notes;
use crate::cli::pages::{self, Page};
use crate::cli::{Exit, complain, quoted, say, show};
use sidegate::control::config::{self, source::Files};

/// The arguments.
#[derive(clap::Args)]
pub struct Import {
    #[command(subcommand)]
    from: From,
}

#[derive(clap::Subcommand)]
enum From {
    /// An nginx configuration: nginx.conf, or the file of one site.
    Nginx(Nginx),
}

#[derive(clap::Args)]
struct Nginx {
    /// The file; what it includes is read as well, relative to its folder.
    file: PathBuf,
    /// Where to write; made if it isn't there. Nothing that is there is overwritten.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print the report as JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// Imports, and prints what became of each line.
pub fn import(verb: &Import) -> Exit {
    let From::Nginx(verb) = &verb.from;
    let tree = match tree::read(&verb.file) {
        Ok(tree) => tree,
        Err(fault) => return fail(&[fault.to_string()]),
    };
    let mut reading = Reading { tree: &tree, notes: Notes::default(), faults: Vec::new() };
    let meant = nginx::read(&mut reading);
    let configs = translate::translate(&meant, &mut reading);
    let Reading { notes, faults, .. } = reading;
    if !faults.is_empty() {
        let mut faults: Vec<_> = faults.iter().map(|fault| (&fault.place, fault.to_string())).collect();
        faults.sort();
        faults.dedup();
        return fail(&faults.into_iter().map(|(_, text)| text).collect::<Vec<_>>());
    }
    if configs.is_empty() {
        return fail(&[format!(
            "{}: no location with a `proxy_pass` that a `listen` leads to: there is nothing to import",
            verb.file.display()
        )]);
    }
    let pages = write::pages(&configs, &tree).into_iter().map(|page| Page { path: verb.out.join(&page.path), ..page });
    let pages: Vec<_> = pages.collect();
    let Some(written) = pages::write(&pages, "--out") else { return Exit::No };
    if !is_sound(&pages) {
        written.take_back();
        return fail(&["nothing was written".to_owned()]);
    }
    if verb.json {
        let made: Vec<_> = configs.iter().zip(self::configs(&pages)).map(|(config, path)| config.json(path)).collect();
        let files: Vec<_> = pages.iter().map(|page| page.path.display().to_string()).collect();
        say(format_args!("{:#}", report::json(&tree, &notes, &made, &files)));
    } else {
        say(report::text(&tree, &notes));
        say(next(&pages));
    }
    Exit::Yes
}

/// Whether `sidegate check` finds no error in what was written; else what it finds is said.
fn is_sound(pages: &[Page]) -> bool {
    configs(pages).all(|config| match config::load(&mut Files::new(), config, None) {
        Ok(_) => true,
        Err(mut diagnostics) => {
            diagnostics.retain(|diagnostic| diagnostic.is_error());
            show(&diagnostics);
            false
        }
    })
}

fn configs(pages: &[Page]) -> impl Iterator<Item = &Path> {
    pages.iter().map(|page| page.path.as_path()).filter(|path| path.ends_with("sidegate.toml"))
}

fn fail(what: &[String]) -> Exit {
    for one in what {
        complain(one);
    }
    Exit::No
}

/// What was written, and what to do with it.
fn next(pages: &[Page]) -> String {
    let files: String = pages.iter().map(|page| format!("  {}\n", page.path.display())).collect();
    let checks: String = configs(pages).map(|config| format!("\n  sidegate check --config {}", quoted(config))).collect();
    format!("Written:\n{files}\nRead the lines in capitals first, then:\n{checks}")
}
