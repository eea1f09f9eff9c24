//! The documents match the code, are as short as they should be, and their links work.

use clap::{Args, Command};
use mana_sync::config::Config;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- settings: generated, see tests/process/readme.rs -->\n";
const END: &str = "<!-- end of settings -->";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The table of settings, generated from the definitions behind `mana-sync --help`.
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
fn the_documented_table_of_settings_is_the_codes() {
    let path = root().join("docs/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page marks where the table begins");
    let (table, after) = rest.split_once(END).expect("the page marks where the table ends");
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", settings())).unwrap();
    } else {
        assert_eq!(table, settings(), "run UPDATE_README=1 cargo test --test process readme");
    }
}

#[test]
fn the_readme_is_read_in_a_few_minutes() {
    let lines = std::fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 120, "{lines} lines");
}

/// All Markdown files of the repository: those at the top level, and those in its folders of documents.
fn documents() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/adr", "docs/runbooks", "k8s", "k8s/chart", "loadtest"];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(root().join(folder)).unwrap());
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    files
}

/// The targets of a text's links, except those to other sites.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
}

/// The anchors that renderers generate from a page's headings.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let documents = documents();
    assert!(documents.len() > 30, "{documents:?}");
    let mut broken = Vec::new();
    for document in &documents {
        let text = std::fs::read_to_string(document).unwrap();
        for link in links(&text) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            let leads = target.exists()
                && (anchor.is_empty()
                    || anchors(&std::fs::read_to_string(&target).unwrap()).iter().any(|a| a == anchor));
            if !leads {
                broken.push(format!("{}: {link}", document.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The spans between single backticks on one line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.split("```").step_by(2).flat_map(str::lines);
    lines.flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Returns a quotation that is the path of a file or folder of ours: only path characters, in a top-level folder that
/// exists.
fn as_path(quotation: &str) -> Option<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let top = quotation.split_once('/').map(|(top, _)| top)?;
    let is_ours =
        ["src", "dev", "tests", "docs", "deploy", "k8s", "scripts", "migrations", "benches", "loadtest"].contains(&top);
    (is_ours && quotation.chars().all(is_plain)).then_some(quotation)
}

/// Files that operators create.
const MADE_BY_OPERATORS: [&str; 2] = ["deploy/.env", "deploy/certificates"];

#[test]
fn every_file_that_a_document_names_is_there() {
    let mut missing = Vec::new();
    // Decisions and the changelog name the files of their time.
    let is_current = |path: &&PathBuf| !path.parent().unwrap().ends_with("adr") && !path.ends_with("CHANGELOG.md");
    for document in documents().iter().filter(is_current) {
        let text = std::fs::read_to_string(document).unwrap();
        // Paths are relative to the repository or to the document's folder.
        let is_there = |path: &&str| root().join(path).exists() || document.parent().unwrap().join(path).exists();
        let paths = quoted(&text).filter_map(as_path).filter(|path| !MADE_BY_OPERATORS.contains(path));
        for path in paths.filter(|path| !is_there(path)) {
            missing.push(format!("{}: {path}", document.strip_prefix(root()).unwrap().display()));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
