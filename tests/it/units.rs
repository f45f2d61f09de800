//! The systemd units: what they promise together, and what they promise about the configuration.

use std::fs;
use std::path::Path;

/// The settings of a unit, in their order, without its comments.
fn settings(unit: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit))
        .unwrap();
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_template_differs_from_the_service_in_its_folders_alone() {
    let for_one = |line: String| line.replace("/%i/", "/").replace("-%i", "").replace(" (%i)", "");
    let template: Vec<String> = settings("sidegate@.service").into_iter().map(for_one).collect();
    assert_eq!(template, settings("sidegate.service"));
}

#[test]
fn each_folder_and_command_of_the_template_is_the_instances_own() {
    let named = ["ExecStart=", "ExecReload=", "RuntimeDirectory=", "StateDirectory="];
    let own: Vec<String> =
        settings("sidegate@.service").into_iter().filter(|line| line.contains("%i")).collect();
    assert!(named.iter().all(|name| own.iter().any(|line| line.starts_with(name))), "{own:?}");
}

#[test]
fn a_stop_has_more_time_than_the_default_shutdown_takes() {
    let number = |text: &str| {
        let number: String = text
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        number.parse::<u64>().unwrap()
    };
    let schema = include_str!("../../src/control/config/schema/config.json");
    let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
    let default = |key: &str| {
        let pointer = format!("/properties/shutdown/properties/{key}/default");
        number(schema.pointer(&pointer).unwrap().as_str().unwrap())
    };
    let shutdown = default("delay") + default("deadline");
    let unit = settings("sidegate.service");
    let stop = unit.iter().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    assert!(number(stop) > shutdown, "{shutdown} s");
}
