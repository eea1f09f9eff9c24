//! Errors about invalid settings name the setting, and never its value.

use crate::support::*;
use clap::{Args, Command};
use futures_util::stream::{self, StreamExt};
use mana_sync::config::Config;
use std::collections::BTreeSet;
use std::process::Output;

const EXE: &str = env!("CARGO_BIN_EXE_mana-sync");
/// Part of every invalid value, and must never be printed.
const MARK: &str = "Hunter2";

async fn run(words: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = tokio::process::Command::new(EXE);
    command.args(words).env_clear().envs(settings.iter().copied()).kill_on_drop(true);
    tokio::time::timeout(TIMEOUT, command.output()).await.expect("it must end").unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// The names of all settings, with their options.
fn settings() -> Vec<(String, String)> {
    let command = Config::augment_args(Command::new("mana-sync"));
    let names = command.get_arguments().filter_map(|setting| {
        let name = setting.get_env()?.to_string_lossy().into_owned();
        Some((name, format!("--{}", setting.get_long()?)))
    });
    names.collect()
}

/// Values that are invalid for some setting.
fn wrong() -> Vec<String> {
    vec![
        MARK.to_owned(),
        format!("postgres://user:{MARK}@"),
        format!("postgres://user:{MARK}@host/database?{MARK}={MARK}"),
        format!("mysql://user:{MARK}@host/database"),
        format!("ftp://user:{MARK}@host"),
        format!("http://user:{MARK}@host:99999999/{MARK}"),
        format!("https://user:{MARK}@*.example.com"),
        format!("api-key {MARK}"),
        format!("a b={MARK}"),
        format!("api-key={MARK}%0a"),
    ]
}

/// Sets a setting to each of the invalid values, by the environment and by its option. True if any of them was refused.
async fn is_refused(name: &str, option: &str) -> bool {
    let mut refused = false;
    for value in wrong() {
        // There is no database, so the process ends in any case.
        let database = ("DATABASE_URL", "nothing");
        let by_environment = match name {
            "DATABASE_URL" => run(&[], &[(name, &value)]).await,
            _ => run(&[], &[database, (name, &value)]).await,
        };
        let by_option = run(&["serve", &format!("{option}={value}")], &[]).await;
        for output in [by_environment, by_option] {
            let said = said(&output);
            assert!(!output.status.success(), "{name}={value}");
            assert!(!said.to_lowercase().contains(&MARK.to_lowercase()), "{name}={value}: {said}");
            refused |= said.contains(&format!("{option} <{name}>")) && name != "DATABASE_URL";
        }
    }
    refused
}

#[tokio::test]
async fn no_value_of_any_setting_is_printed_by_an_error() {
    const AT_ONCE: usize = 4;
    let names = settings();
    assert!(names.len() > 50, "{names:?}");
    let tried = stream::iter(&names).map(async |(name, option)| (name.as_str(), is_refused(name, option).await));
    let tried: Vec<(&str, bool)> = tried.buffer_unordered(AT_ONCE).collect().await;
    let refused: BTreeSet<&str> = tried.into_iter().filter(|(_, refused)| *refused).map(|(name, _)| name).collect();
    for name in ["PORT", "JWKS_URL", "CORS_ORIGINS", "LOG_FORMAT", "DATABASE_PREPARE", "OTEL_EXPORTER_OTLP_HEADERS"] {
        assert!(refused.contains(name), "{name} is checked: {refused:?}");
    }
}

#[tokio::test]
async fn a_number_beyond_its_range_is_refused_by_name_and_not_repeated() {
    for (name, value) in [("DATABASE_POOL_SIZE", "987654"), ("PORT", "987654"), ("PAGE_MAX_CHANGES", "-987654")] {
        let output = run(&["serve"], &[(name, value)]).await;
        let said = said(&output);
        assert!(!output.status.success() && said.contains(name), "{said}");
        assert!(!said.contains("987654"), "{said}");
    }
}

#[tokio::test]
async fn an_error_says_in_plain_words_what_a_value_must_be() {
    for (name, value, expected) in [
        ("DATABASE_POOL_SIZE", MARK, "must be a whole number"),
        ("DATABASE_POOL_SIZE", "0", "must be a whole number from 1 to 1000"),
        ("PORT", "99999999999999999999", "the number is too large"),
        ("BIND_ADDRESS", MARK, "must be an IP address"),
        ("JWKS_URL", MARK, "must be a whole URL, such as https://example.com"),
    ] {
        let said = said(&run(&["serve"], &[("DATABASE_URL", "postgres://127.0.0.1:1/nowhere"), (name, value)]).await);
        assert!(said.contains(&format!("<{name}>: {expected}\n")), "{said}");
    }
}

#[tokio::test]
async fn a_negative_number_is_refused_as_the_value_that_it_is() {
    for words in [
        &["serve", "--database-url", "postgres://127.0.0.1:1/nowhere", "--port", "-987654"][..],
        &["--database-url", "postgres://127.0.0.1:1/nowhere", "--page-max-changes", "-987654"],
        &["usage", "--database-url", "postgres://127.0.0.1:1/nowhere", "--top", "-987654"],
    ] {
        let output = run(words, &[]).await;
        let said = said(&output);
        let option = words[words.len() - 2];
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("invalid value for {option} <")) && !said.contains("987654"), "{said}");
    }
}

#[tokio::test]
async fn words_that_are_no_option_may_be_a_setting_s_value_and_are_not_repeated() {
    let urls = format!("postgres://user:{MARK}@host/database");
    for words in [
        &[urls.as_str()][..],
        &["serve", &urls],
        &["serve", "--database-url", "postgres://host/db", MARK],
        &["serve", &format!("--data-base-url={urls}")],
        &[&format!("--data-base-url={urls}")],
        &["migrate", "--database-url", &urls, MARK],
        &["serve", &format!("-p{MARK}")],
        &["serve", &format!("--{MARK}:{MARK}")],
    ] {
        let output = run(words, &[]).await;
        assert!(!output.status.success(), "{words:?}");
        assert!(!said(&output).contains(MARK), "{words:?}: {}", said(&output));
    }
}

#[tokio::test]
async fn a_setting_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStrExt as _;
    for name in ["DATABASE_URL", "MANA_SERVICE_KEY", "CORS_ORIGINS", "PORT"] {
        let mut command = tokio::process::Command::new(EXE);
        command.env_clear().env("DATABASE_URL", "postgres://127.0.0.1:1/nowhere");
        command.env(name, std::ffi::OsStr::from_bytes(b"\xff"));
        let output = tokio::time::timeout(TIMEOUT, command.kill_on_drop(true).output()).await.expect(name).unwrap();
        assert!(!output.status.success() && said(&output).contains(name), "{name}: {}", said(&output));
    }
}

#[tokio::test]
async fn a_collector_that_is_not_there_is_not_named_in_the_log_nor_what_it_is_told() {
    let nowhere = format!("http://user:{MARK}@127.0.0.1:{}/{MARK}?{MARK}", mana_dev::free_port().unwrap());
    let (headers, odd) = (format!("api-key={MARK}"), format!("{MARK} {MARK},={MARK},a b={MARK}"));
    for protocol in ["http/protobuf", "grpc"] {
        for with in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
            let settings = [
                (with, nowhere.as_str()),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_HEADERS", &headers),
                // Only the exporter reads this one.
                ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", &odd),
                ("OTEL_TRACES_SAMPLER", "always_on"),
                ("OTEL_BSP_SCHEDULE_DELAY", "20"),
            ];
            let cluster = Cluster::start_with(1, &settings).await;
            eventually("the failure is told", async || {
                assert_eq!(cluster.get("/nowhere").await.status, 404);
                cluster.nodes[0].log().contains("traces do not reach")
            })
            .await;
            let log = cluster.nodes[0].log();
            assert!(!log.contains(MARK), "{protocol} {with}: {log}");
        }
    }
}

#[tokio::test]
async fn what_the_exporter_alone_reads_is_not_repeated_either() {
    for name in ["COMPRESSION", "TIMEOUT", "HEADERS", "PROTOCOL"] {
        for protocol in ["http/protobuf", "grpc"] {
            let settings = [
                ("DATABASE_URL", "postgres://127.0.0.1:1/nowhere"),
                ("BIND_ADDRESS", "192.0.2.1"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                (&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), MARK),
            ];
            // It cannot listen at this address, so it ends even if the setting is accepted.
            let output = run(&[], &settings).await;
            assert!(!output.status.success() && !said(&output).contains(MARK), "{name}: {}", said(&output));
        }
    }
}

#[tokio::test]
async fn settings_of_metrics_by_otlp_are_warned_of_once_and_by_name() {
    let endpoint = format!("http://user:{MARK}@127.0.0.1:9/v1/metrics");
    let set: [&[(&str, &str)]; 3] = [
        &[
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &endpoint),
            ("OTEL_METRIC_EXPORT_INTERVAL", MARK),
        ],
        &[("OTEL_METRICS_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &endpoint)],
        &[("OTEL_METRICS_EXPORTER", ""), ("OTEL_METRIC_EXPORT_INTERVAL", "")],
    ];
    let set =
        set.map(|set| set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>());
    let cluster = Cluster::start_each(&admin_url().await, 3, move |replica, _| set[replica].clone()).await;
    let warnings = |replica: usize| {
        let log = cluster.nodes[replica].log();
        assert!(!log.contains(MARK), "{log}");
        log.lines().filter(|line| line.contains("by OTLP")).map(str::to_owned).collect::<Vec<String>>()
    };
    let told = warnings(0);
    assert_eq!(told.len(), 1, "{told:?}");
    let line: serde_json::Value = serde_json::from_str(&told[0]).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(
        line["settings"],
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, OTEL_METRICS_EXPORTER, OTEL_METRIC_EXPORT_INTERVAL"
    );
    assert!(line["message"].as_str().unwrap().contains("scrape /metrics"), "{line}");
    for replica in [1, 2] {
        assert_eq!(warnings(replica), [""; 0]);
    }
}

#[tokio::test]
async fn a_log_that_is_not_asked_for_well_is_no_silent_one() {
    let start = async |filter: &str| {
        // It cannot listen at this address, and ends; only its earlier output matters.
        let nowhere = [("DATABASE_URL", "postgres://127.0.0.1:1/nowhere"), ("BIND_ADDRESS", "192.0.2.1")];
        let output = run(&[], &[nowhere[0], nowhere[1], ("RUST_LOG", filter), ("OTEL_METRICS_EXPORTER", "otlp")]).await;
        said(&output)
    };
    for (filter, is_wrong) in [("", false), (" ", false), ("info", false), ("warning", true), (MARK, true)] {
        let said = start(filter).await;
        assert!(said.contains("by OTLP"), "{filter:?}: it warns as always: {said}");
        assert_eq!(said.contains("RUST_LOG is invalid"), is_wrong, "{filter:?}: {said}");
        assert!(!said.contains(MARK), "{said}");
    }
}

#[tokio::test]
async fn text_that_no_terminal_shows_has_no_colors_unless_they_are_asked_for() {
    let start = async |wanted: &[(&str, &str)]| {
        let settings = [("DATABASE_URL", "postgres://127.0.0.1:1/nowhere"), ("BIND_ADDRESS", "192.0.2.1")];
        let text = [("LOG_FORMAT", "text"), ("OTEL_METRICS_EXPORTER", "otlp")];
        said(&run(&[], &[&settings, &text, wanted].concat()).await)
    };
    for (wanted, is_colored) in [
        (&[][..], false),
        (&[("CLICOLOR_FORCE", "1")], true),
        (&[("CLICOLOR_FORCE", "0")], false),
        (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
    ] {
        let said = start(wanted).await;
        assert!(said.contains("WARN") && said.contains("by OTLP"), "{said}");
        assert_eq!(said.contains('\x1b'), is_colored, "{wanted:?}: {said}");
    }
}
