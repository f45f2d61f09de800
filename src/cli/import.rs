//! `sidegate import nginx`: makes a configuration that decides like the nginx one, and a report of
//! the differences.
//!
//! The module `import` translates. This verb writes all of its files or none, and checks them.

use std::path::{Path, PathBuf};

use crate::cli::exit::Exit;
use crate::cli::output::{print, print_diagnostics, print_error, print_json_text, shell_quoted};
use crate::cli::output_files;
use crate::import::nginx::version::Version;
use crate::import::nginx::{self, ImportContext};
use crate::import::report::{self, ReportNotes};
use crate::import::translate::{self, GuardHandling, OutputConfig};
use crate::import::tree::{self, Tree};
use crate::import::write;
use crate::output_file::OutputFile;
use sidegate::control::config::{self, source::Files};

/// Arguments of `sidegate import`.
#[derive(clap::Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    from: ImportSource,
}

#[derive(clap::Subcommand)]
enum ImportSource {
    /// An nginx configuration: nginx.conf, or the file of one site.
    Nginx(NginxArgs),
}

#[derive(clap::Args)]
struct NginxArgs {
    /// The nginx configuration file; its includes are read relative to its directory.
    file: PathBuf,
    /// The directory to write to; created if missing. Existing files are never overwritten.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Write the files even if they admit requests that nginx refuses (the lines marked OPENS).
    /// Guards
    /// that cannot be translated are then left out, instead of closing their routes.
    #[arg(long)]
    accept_opens: bool,
    /// The version of nginx that reads the file, as printed by `nginx -v`. Its defaults changed in
    /// 1.29.7; without this option those of older versions apply.
    #[arg(long, value_name = "VERSION")]
    nginx: Option<Version>,
}

/// Imports the configuration, and prints the report about its lines.
pub fn import(verb: &ImportArgs) -> Exit {
    let ImportSource::Nginx(verb) = &verb.from;
    let tree = match tree::read(&verb.file) {
        Ok(tree) => tree,
        Err(fault) => return fail_with(&[fault.to_string()]),
    };
    let mut reading =
        ImportContext { tree: &tree, notes: ReportNotes::default(), faults: Vec::new() };
    let meant = nginx::read(verb.nginx.unwrap_or_default(), &mut reading);
    let unsaid = if verb.accept_opens { GuardHandling::Opens } else { GuardHandling::Closes };
    let configs = translate::translate(&meant, unsaid, &mut reading);
    let ImportContext { notes, faults, .. } = reading;
    if !faults.is_empty() {
        let mut faults: Vec<_> =
            faults.iter().map(|fault| (&fault.place, fault.to_string())).collect();
        faults.sort();
        // A limit that names a missing zone is a fault at each location that inherits it.
        faults.dedup();
        return fail_with(&faults.into_iter().map(|(_, text)| text).collect::<Vec<_>>());
    }
    if configs.is_empty() {
        return fail_with(&[format!(
            "{}: no location with a `proxy_pass` that a `listen` leads to: there is nothing to \
             import",
            verb.file.display()
        )]);
    }
    let opens = notes.opens(&tree);
    if opens > 0 && !verb.accept_opens {
        print_report(verb, &tree, &notes, &configs, &[]);
        let lines =
            if opens == 1 { "1 line says".to_owned() } else { format!("{opens} lines say") };
        return fail_with(&[format!(
            "nothing was written: {lines} OPENS. Change what nginx says there, or write the files \
             all the same with --accept-opens"
        )]);
    }
    let pages = write::pages(&configs, &tree)
        .into_iter()
        .map(|page| OutputFile { path: verb.out.join(&page.path), ..page });
    let pages: Vec<_> = pages.collect();
    let Some(written) = output_files::write_all(&pages, "--out") else { return Exit::Failure };
    // The check loads the files from disk, so they are written first.
    if !loads_cleanly(&pages) {
        written.remove();
        print_report(verb, &tree, &notes, &configs, &[]);
        return fail_with(&[
            "nothing was written: the translated configuration has the errors above. Their \
             places are those in the files that would have been written; the report names the \
             lines of nginx behind them"
                .to_owned(),
        ]);
    }
    print_report(verb, &tree, &notes, &configs, &pages);
    Exit::Success
}

/// Prints the report and the files written.
fn print_report(
    verb: &NginxArgs,
    tree: &Tree,
    notes: &ReportNotes,
    made: &[OutputConfig],
    pages: &[OutputFile],
) {
    if verb.json {
        let paths = configs(pages);
        let configs: Vec<_> =
            made.iter().zip(paths).map(|(config, path)| config.json(path)).collect();
        let files: Vec<_> = pages.iter().map(|page| page.path.display().to_string()).collect();
        print_json_text(&format!("{:#}", report::json(tree, notes, &configs, &files)));
        return;
    }
    print(report::text(tree, notes));
    if !pages.is_empty() {
        print(next_steps(pages));
    }
}

/// Whether the written configurations load without errors; prints the errors otherwise.
fn loads_cleanly(pages: &[OutputFile]) -> bool {
    configs(pages).all(|config| match config::load(&mut Files::for_person(), config, None) {
        Ok(_) => true,
        Err(mut diagnostics) => {
            diagnostics.retain(|diagnostic| diagnostic.is_error());
            print_diagnostics(&diagnostics);
            false
        }
    })
}

fn configs(pages: &[OutputFile]) -> impl Iterator<Item = &Path> {
    pages.iter().map(|page| page.path.as_path()).filter(|path| path.ends_with("sidegate.toml"))
}

fn fail_with(what: &[String]) -> Exit {
    for one in what {
        print_error(one);
    }
    Exit::Failure
}

/// The files written, and the commands to run next.
fn next_steps(pages: &[OutputFile]) -> String {
    let files: String = pages.iter().map(|page| format!("  {}\n", page.path.display())).collect();
    let checks: String = configs(pages)
        .map(|config| format!("\n  sidegate check --config {}", shell_quoted(config)))
        .collect();
    format!("Written:\n{files}\nRead the lines in capitals first, then:\n{checks}")
}
