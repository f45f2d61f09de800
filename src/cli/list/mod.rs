//! `sidegate list from-mmdb`: a list of the networks of countries and autonomous systems.

mod mmdb;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::exit::Exit;
use crate::cli::list::mmdb::Query;
use crate::cli::output::{print, print_error};
use sidegate::control::unfinished::{is_unfinished, sweep};

/// Beginning of the name of a list that is being written.
const UNFINISHED: &str = ".sidegate-list-";

/// Age from which such a file is one of a killed command.
const UNFINISHED_AGE: Duration = Duration::from_secs(3600);

/// Largest database that is read.
const MAX_DATABASE_BYTES: u64 = 1 << 30;

/// The second line of each list made here, by which a later run knows that it may replace the file.
const MADE_BY: &str = "# Made by `sidegate list from-mmdb`; edits are lost when it runs again.";

/// Arguments of `sidegate list`.
#[derive(clap::Args)]
pub struct ListArgs {
    #[command(subcommand)]
    verb: ListCommand,
}

#[derive(clap::Subcommand)]
enum ListCommand {
    /// Write a list of the networks of countries and autonomous systems, from a MaxMind database.
    FromMmdb(FromMmdbArgs),
}

#[derive(clap::Args)]
struct FromMmdbArgs {
    /// The database, such as GeoLite2-Country.mmdb.
    file: PathBuf,
    /// A country by its two letters (ISO 3166-1), like DE; repeatable. Each adds its networks.
    #[arg(long, value_name = "CODE", value_parser = mmdb::country, required_unless_present = "asn")]
    country: Vec<String>,
    /// An autonomous system by its number, like 64500; repeatable. Each adds its networks.
    #[arg(long, value_name = "NUMBER", value_parser = mmdb::asn)]
    asn: Vec<u32>,
    /// The list to write, like policies/lists/de.cidr. Replaces only a list made by this command.
    /// Left out: standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the verb. Ends with 1 if the database is unreadable or damaged, or has no such network.
pub fn list(verb: &ListArgs) -> Exit {
    let ListCommand::FromMmdb(verb) = &verb.verb;
    let query = Query { countries: verb.country.clone(), systems: verb.asn.clone() };
    let name = verb.file.file_name().unwrap_or_default().to_string_lossy();
    let text = read(&verb.file)
        .and_then(|bytes| mmdb::list(bytes, &name, &query, MADE_BY))
        .map_err(|fault| format!("{}: {fault}", verb.file.display()));
    // The text is complete by now: a damaged database leaves the old list as it was.
    let written = text.and_then(|text| match &verb.out {
        None => {
            print(text.trim_end());
            Ok(())
        }
        Some(out) => replace(out, &text).map_err(|fault| format!("{}: {fault}", out.display())),
    });
    match written {
        Ok(()) => Exit::Success,
        Err(sentence) => {
            print_error(sentence);
            Exit::Failure
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    // One byte more than allowed tells a file that is too large.
    let bounded = file.take(MAX_DATABASE_BYTES + 1).read_to_end(&mut bytes);
    bounded.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_DATABASE_BYTES {
        return Err("the database is larger than 1 GiB".into());
    }
    Ok(bytes)
}

/// Writes the list by a rename, so that no reader sees a part of it.
fn replace(path: &Path, text: &str) -> Result<(), String> {
    let said = |error: io::Error| error.to_string();
    // The mode is kept, since the agent may run as another user and tempfile's files are 0600. A
    // file that is not UTF-8 is an error: this command did not make it.
    let mode = match fs::read_to_string(path) {
        Ok(there) if there.lines().nth(1) != Some(MADE_BY) => {
            return Err("the file exists, and was not made by this command: move it away".into());
        }
        Ok(_) => fs::metadata(path).map_err(said)?.permissions(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::Permissions::from_mode(0o644),
        Err(error) => return Err(said(error)),
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    sweep(folder, UNFINISHED_AGE, |name| is_unfinished(name, UNFINISHED));
    // Its name has no `.cidr`, so that no command takes it for a list.
    let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder);
    let mut file = file.map_err(said)?;
    file.write_all(text.as_bytes()).map_err(said)?;
    file.as_file().set_permissions(mode).map_err(said)?;
    // Before the rename: a crash must not leave a list that is cut short.
    file.as_file().sync_all().map_err(said)?;
    file.persist(path).map(|_| ()).map_err(|error| said(error.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_list_of_this_command_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("de.cidr");
        let made = format!("# Networks\n{MADE_BY}\n192.0.2.0/24\n");
        replace(&path, &made).unwrap();
        replace(&path, &made.replace("192", "193")).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("193.0.2.0/24"));
        fs::write(&path, "192.0.2.0/24 owner=office\n").unwrap();
        assert!(replace(&path, &made).unwrap_err().contains("was not made by this command"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no other file is left");
    }
}
