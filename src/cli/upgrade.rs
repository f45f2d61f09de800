//! `sidegate upgrade`: lets the running agent hand over to a new process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::output::{count_u64, print, print_error, print_json};
use sidegate::admin::wire::{UpgradeAnswer, UpgradeRequest};

/// Time beyond the deadline in which the agent answers.
const ANSWER_MARGIN: Duration = Duration::from_secs(10);

/// Arguments of `sidegate upgrade`.
#[derive(clap::Args)]
pub struct UpgradeArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The program to start. Left out: the path by which the agent was started, such as
    /// /usr/bin/sidegate, where a package has put the new version.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Kill the new process if it is not ready within so many seconds; nothing has changed then.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=50))]
    deadline: Option<u64>,
    /// Only let the new program load the files.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Orders the upgrade, and waits for it. Ends with 1 if nothing has changed.
pub fn upgrade(verb: &UpgradeArgs) -> Exit {
    let binary = match verb.binary.as_deref().map(absolute).transpose() {
        Ok(binary) => binary,
        Err(sentence) => {
            print_error(sentence);
            return Exit::Failure;
        }
    };
    let request = UpgradeRequest { binary, seconds: verb.deadline, dry_run: verb.dry_run };
    let patience = request.deadline() + ANSWER_MARGIN;
    match admin_client::ask(&verb.config.config, &request, patience) {
        Ok(answer) if verb.json => print_json(&answer),
        Ok(answer) => print(text(&answer)),
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    }
    Exit::Success
}

/// The path as the agent needs it: absolute, since the agent has another working directory.
fn absolute(binary: &Path) -> Result<String, String> {
    let shown = binary.display();
    let path = std::path::absolute(binary).map_err(|error| format!("{shown}: {error}"))?;
    path.into_os_string().into_string().map_err(|_| format!("{shown}: the path is not UTF-8"))
}

fn text(answer: &UpgradeAnswer) -> String {
    match answer {
        UpgradeAnswer::Tried { version, binary } => {
            format!("{binary} ({version}) can load the files that run; nothing was handed over")
        }
        UpgradeAnswer::Upgraded {
            version,
            binary,
            pid,
            former_pid,
            tunnels,
            deadline,
            manager,
        } => {
            let kept = match tunnels {
                0 => format!("process {former_pid} has no tunnels, and ends"),
                _ => format!(
                    "process {former_pid} keeps {} until they end, at most {deadline}",
                    count_u64(*tunnels, "tunnel")
                ),
            };
            let told = match manager {
                Some(manager) => format!("{manager} knows the new main process"),
                None => "no service manager was told: a supervisor that watches the former \
                         process takes its end for that of the agent"
                    .to_owned(),
            };
            format!("upgraded to {version} ({binary}): process {pid} serves; {kept}; {told}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_names_both_processes_and_the_manager() {
        let answer = |tunnels, manager: Option<&str>| {
            text(&UpgradeAnswer::Upgraded {
                version: "0.2.0".into(),
                binary: "/usr/bin/sidegate".into(),
                pid: 4712,
                former_pid: 4711,
                tunnels,
                deadline: "24h".into(),
                manager: manager.map(str::to_owned),
            })
        };
        assert_eq!(
            answer(25, Some("systemd")),
            "upgraded to 0.2.0 (/usr/bin/sidegate): process 4712 serves; process 4711 keeps 25 \
             tunnels until they end, at most 24h; systemd knows the new main process"
        );
        assert!(answer(0, None).contains("4711 has no tunnels, and ends; no service manager"));
        let tried = UpgradeAnswer::Tried { version: "0.2.0".into(), binary: "/x".into() };
        assert!(text(&tried).ends_with("nothing was handed over"));
    }
}
