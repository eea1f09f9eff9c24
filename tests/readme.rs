//! The README says what the code does.

use clap::{Args, Command};
use mana_sync::config::Config;
use std::fmt::Write;
use std::path::Path;

const BEGIN: &str = "<!-- settings: generated, see tests/readme.rs -->\n";
const END: &str = "<!-- end of settings -->";

/// The table of settings, made from what `mana-sync --help` is made from.
fn settings() -> String {
    let mut table = String::from("| variable | default | meaning |\n|---|---|---|\n");
    for setting in Config::augment_args(Command::new("mana-sync")).get_arguments() {
        let Some(name) = setting.get_env().map(|name| name.to_string_lossy().into_owned()) else { continue };
        let defaults: Vec<_> = setting.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = match defaults.join(",") {
            none if none.is_empty() && setting.is_required_set() => "required".to_owned(),
            none if none.is_empty() => String::new(),
            default => format!("`{default}`"),
        };
        let help = setting.get_long_help().or_else(|| setting.get_help()).map(ToString::to_string).unwrap_or_default();
        writeln!(table, "| `{name}` | {default} | {} |", help.split_whitespace().collect::<Vec<_>>().join(" "))
            .unwrap();
    }
    table
}

#[test]
fn the_readmes_table_of_settings_is_the_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the README marks where the table begins");
    let (table, after) = rest.split_once(END).expect("the README marks where the table ends");
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", settings())).unwrap();
    } else {
        assert_eq!(table, settings(), "run UPDATE_README=1 cargo test --test readme");
    }
}
